"""An export as one ONNX graph for other runtimes, and running it for the comparison.

The packages onnx, onnxscript and onnxruntime are optional (``pip install
'encoder-pretraining[onnx]'``).

B rows, S tokens in a row.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.hugging_face.options import ONNX_NAME

MAX_ONE_FILE_BYTES = 1 << 30
"""Larger weights get a file of their own, ``model.onnx.data``: an ONNX file holds 2 GiB at most."""
TRACED_SIZES = (2, 16)
"""Rows and tokens of the example that the graph is traced with; both are free in the result."""


def write_onnx(
    folder: Path,
    model: Any,
    max_row_tokens: int,
    outputs: Sequence[str] = ("logits",),
    has_segments: bool = False,
    num_choices: int | None = None,
) -> None:
    """Writes transformers' `model` (on the CPU, in eval mode) as ``model.onnx`` to `folder`.

    Inputs are input_ids, attention_mask and, with `has_segments`, token_type_ids: int64 [B, S], or
    [B, `num_choices`, S], where B and S are free. `outputs` are attributes of the model's result.
    """
    names = ["input_ids", "attention_mask", *["token_type_ids"] * has_segments]
    rows, tokens = TRACED_SIZES
    tokens = min(tokens, max_row_tokens)
    shape = (rows, tokens) if num_choices is None else (rows, num_choices, tokens)
    ids = torch.full(shape, 3, dtype=torch.int64)
    example = [ids, torch.ones_like(ids), *[torch.zeros_like(ids)] * has_segments]
    last = len(shape) - 1
    num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            _Named(model, outputs),
            tuple(example),
            folder / ONNX_NAME,
            input_names=names,
            output_names=list(outputs),
            dynamic_shapes=[{0: "batch", last: "sequence"} for _ in names],
            external_data=num_bytes > MAX_ONE_FILE_BYTES,
            dynamo=True,
            verbose=False,
        )


class _Named(nn.Module):
    """A model of transformers with a tuple of tensors as result."""

    def __init__(self, model: Any, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments)
        return tuple(getattr(result, name) for name in self.outputs)


class OnnxModel:
    """``model.onnx`` in a folder, called like the model of transformers that it was made from."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            str(folder / ONNX_NAME), providers=["CPUExecutionProvider"]
        )
        self._inputs = [item.name for item in self._session.get_inputs()]
        self._outputs = [item.name for item in self._session.get_outputs()]

    def __call__(self, **inputs: Tensor | None) -> Any:
        """An object with the outputs as attributes; inputs that are not given are 0."""
        ids = inputs["input_ids"]
        assert ids is not None
        fed = {}
        for name in self._inputs:
            value = inputs.get(name)
            fed[name] = (torch.zeros_like(ids) if value is None else value).cpu().numpy()
        results = self._session.run(self._outputs, fed)
        tensors = {n: torch.from_numpy(r) for n, r in zip(self._outputs, results, strict=True)}
        return SimpleNamespace(**tensors)

"""A sentence-transformers folder: how the hidden states of a text become one vector.

The files are those that the package sentence-transformers reads (versions 2 to 6), beside the model
itself: ``modules.json``, ``1_Pooling/config.json`` and, for a pooler with a trained matrix,
``2_Dense``. Nothing here needs that package.

B rows, S tokens in a row, H hidden.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_prep.dataset.files import read_json
from model.config import ModelConfig
from model.task_heads import Pooler
from pipeline.hugging_face.options import POOLING_NAME

MODULES_NAME = "modules.json"
DENSE_FOLDER = "2_Dense"
DENSE_WEIGHTS = "model.safetensors"
TANH = "torch.nn.modules.activation.Tanh"

PoolingKind = Literal["first", "mean"]
"""Of the first token, or of the mean of all tokens that are not padding."""


@dataclass(frozen=True)
class SentenceEncoder:
    """How an exported model makes one vector of a text."""

    pooling: PoolingKind
    hidden_size: int
    max_row_tokens: int
    """Longer texts are cut to these."""
    dense: tuple[Tensor, Tensor] | None = None
    """Weight [H, H] and bias [H] of a layer with tanh after the pooling, if there is one."""

    @property
    def summary(self) -> str:
        """What it computes, in words."""
        what = {"first": "the hidden state of the first token", "mean": "the mean hidden state"}
        return what[self.pooling] + ("" if self.dense is None else ", a dense layer and tanh")

    def write(self, folder: Path) -> None:
        """Writes the files beside the model in `folder`."""
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        if self.dense is not None:
            modules.append((DENSE_FOLDER, "Dense"))
        _write_json(
            folder / MODULES_NAME,
            [
                {
                    "idx": number,
                    "name": str(number),
                    "path": path,
                    "type": f"sentence_transformers.models.{kind}",
                }
                for number, (path, kind) in enumerate(modules)
            ],
        )
        longest = {"max_seq_length": self.max_row_tokens, "do_lower_case": False}
        _write_json(folder / "sentence_bert_config.json", longest)
        _write_json(
            folder / "config_sentence_transformers.json",
            {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        )
        _write_json(folder / POOLING_NAME, self._pooling_config())
        if self.dense is not None:
            self._write_dense(folder / DENSE_FOLDER)

    def _pooling_config(self) -> dict[str, Any]:
        modes = ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
        return {
            "word_embedding_dimension": self.hidden_size,
            "pooling_mode_cls_token": self.pooling == "first",
            "pooling_mode_mean_tokens": self.pooling == "mean",
            **{f"pooling_mode_{mode}": False for mode in modes},
            "include_prompt": True,
        }

    def _write_dense(self, folder: Path) -> None:
        assert self.dense is not None
        weight, bias = self.dense
        size = self.hidden_size
        _write_json(
            folder / "config.json",
            {
                "in_features": size,
                "out_features": size,
                "bias": True,
                "activation_function": TANH,
            },
        )
        tensors = {"linear.weight": weight.contiguous(), "linear.bias": bias.contiguous()}
        save_file(tensors, folder / DENSE_WEIGHTS, metadata={"format": "pt"})
        (folder / DENSE_WEIGHTS).chmod((folder / "config.json").stat().st_mode & 0o777)


def plain_pooler(model: ModelConfig, kind: PoolingKind) -> Pooler:
    """Our module that takes the hidden state of the first token or the mean of all, no more."""
    # Nothing else of the model matters to the module: it has no weights.
    plain = {
        "num_layers": 1,
        "num_attention_heads": 1,
        "hidden_size": model.hidden_size,
        "pad_token_id": model.pad_token_id,
        "pooler": {"type": kind},
        "head_transform": {"type": "prediction"},
    }
    return Pooler(ModelConfig.model_validate(plain))


def written_embeddings(folder: Path, hidden: Tensor, is_text: Tensor) -> Tensor:
    """[B, H] vectors by the files in `folder`, of the hidden states [B, S, H] of its model.

    `is_text` [B, S] is 1 where a token is no padding.
    """
    pooling = read_json(folder / POOLING_NAME)
    if pooling["pooling_mode_cls_token"]:
        vectors = hidden[:, 0]
    else:
        weights = is_text[..., None].to(hidden.dtype)
        vectors = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    if not (folder / DENSE_FOLDER).is_dir():
        return vectors
    tensors = load_file(folder / DENSE_FOLDER / DENSE_WEIGHTS)
    assert read_json(folder / DENSE_FOLDER / "config.json")["activation_function"] == TANH
    dense = torch.nn.functional.linear(vectors, tensors["linear.weight"], tensors["linear.bias"])
    return torch.tanh(dense)


def _write_json(path: Path, tree: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree, indent=2) + "\n")

"""Exports the discriminator of replaced-token detection as ELECTRA's class of transformers.

B rows, S tokens in a row.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from configs.load import UserError
from model.config import ModelConfig
from model.hugging_face.electra import AUTO_CLASS, discriminator_config, discriminator_to_hf
from model.parallel.grid import single_rank_grid
from model.replaced_tokens import Discriminator
from pipeline.checkpoint.discriminator import with_plain_vectors
from pipeline.checkpoint.reader import TensorReader, load_weights
from pipeline.hugging_face.comparison import largest_difference
from pipeline.hugging_face.folder import ExportedTokenizer, ExportSource, load_auto_model
from pipeline.hugging_face.options import ExportOptions
from pipeline.hugging_face.outputs import compute_of_comparison, masked_lm_outputs
from pipeline.hugging_face.publish import publish, read_state
from pipeline.pretraining.card import card_of
from pipeline.run.config import TrainConfig
from pipeline.run.trained_model import TrainedModel


def export_discriminator(
    trained: TrainedModel[TrainConfig], folder: Path, options: ExportOptions
) -> float:
    """Writes `folder`; the largest absolute difference of a score to the trained model.

    Raises UserError, leaving an older export as it was, if the difference is more than rounding.
    """
    if options.onnx or options.pooling not in (None, "none"):
        raise UserError(
            "--onnx and --sentence-transformers are not written for a discriminator: fine-tune it, "
            "or continue it with a masking objective (start: {type: run}), and export that"
        )
    checkpoint, model = with_plain_vectors(trained.checkpoint), trained.model
    settings = discriminator_config(model, trained.vocab_size)
    return publish(
        folder,
        tensors=discriminator_to_hf(read_state(checkpoint), model),
        config=settings,
        tokenizer=ExportedTokenizer.of(trained.tokenizer, trained.special, model),
        source=ExportSource.of(checkpoint),
        quantity="score",
        compare=partial(_differences, trained),
        card=partial(card_of, trained, settings, None),
    )


def _differences(trained: TrainedModel[TrainConfig], folder: Path) -> Mapping[str, float]:
    model = trained.model
    with single_rank_grid() as grid, torch.no_grad():
        compute = compute_of_comparison(model)
        ours = Discriminator(grid, model, compute, trained.vocab_size).to(grid.device)
        load_weights(ours.eval(), TensorReader(with_plain_vectors(trained.checkpoint)), grid)
        theirs = _WithOurPositions(load_auto_model(folder, AUTO_CLASS).to(grid.device), model)
        difference = largest_difference(
            *(ours, theirs),
            outputs=lambda: masked_lm_outputs(ours, theirs, trained.tokenizer, trained.special),
            to_hf=lambda state: discriminator_to_hf(state, model),
            quantity="score",
        )
    return {"score": difference}


class _WithOurPositions:
    """transformers' discriminator, called with the numbers of our position rows."""

    def __init__(self, discriminator: Any, model: ModelConfig) -> None:
        self._discriminator = discriminator
        self._offset = model.positions.offset if model.positions.type == "learned" else 0
        self.load_state_dict = discriminator.load_state_dict

    def __call__(self, position_ids: Tensor | None = None, **inputs: Tensor) -> Any:
        if position_ids is not None:
            position_ids = position_ids - self._offset
        result = self._discriminator(position_ids=position_ids, **inputs)
        return SimpleNamespace(logits=result.logits)

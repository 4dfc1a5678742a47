"""Exports a pretrained model: a Hugging Face folder with its masked-language-model head."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import single_rank_grid
from model.parameters import parameter_specs
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.hugging_face.comparison import largest_difference, largest_of
from pipeline.hugging_face.folder import ExportedTokenizer, ExportSource, load_exported
from pipeline.hugging_face.onnx_file import OnnxModel, write_onnx
from pipeline.hugging_face.options import ExportOptions
from pipeline.hugging_face.outputs import (
    compute_of_comparison,
    embedding_outputs,
    masked_lm_outputs,
    onnx_outputs,
)
from pipeline.hugging_face.publish import publish, read_state
from pipeline.hugging_face.sentence_encoder import SentenceEncoder, plain_pooler
from pipeline.pretraining.card import card_of
from pipeline.run.config import TrainConfig
from pipeline.run.trained_model import TrainedModel

logger = logging.getLogger(__name__)


def export(
    trained: TrainedModel[TrainConfig], folder: Path, options: ExportOptions | None = None
) -> float:
    """Writes `folder`; the largest absolute difference of an output to the trained model.

    Raises ConfigError for a model that Hugging Face has no architecture for, and UserError, leaving
    an older export as it was, if the difference is more than rounding.
    """
    options = options or ExportOptions()
    model, family = trained.model, trained.family
    settings = family.hf_config(model, trained.vocab_size)
    encoder = sentence_encoder(model, options)

    def write_more(unfinished: Path) -> None:
        if encoder is not None:
            encoder.write(unfinished)
        if options.onnx:
            logger.info("%s: writing ONNX", folder)
            _, exported = load_exported(unfinished)
            has_segments = model.type_vocab_size > 1
            write_onnx(unfinished, exported, model.max_row_tokens, has_segments=has_segments)

    return publish(
        folder,
        tensors=family.to_hf(read_state(trained.checkpoint), model),
        config=settings,
        tokenizer=ExportedTokenizer.of(trained.tokenizer, trained.special, model),
        source=ExportSource.of(trained.checkpoint),
        quantity="logit",
        compare=partial(_differences, trained, encoder, options.onnx),
        card=partial(card_of, trained, settings, encoder),
        write_more=write_more,
    )


def sentence_encoder(model: ModelConfig, options: ExportOptions) -> SentenceEncoder | None:
    """How a text becomes a vector; None where none is asked for.

    Pretraining trains no pooler: of `model.pooler` its choice of tokens is taken, without a dense
    layer.
    """
    kind = options.pooling or model.pooler.type
    if kind == "none":
        return None
    return SentenceEncoder(kind, model.hidden_size, model.max_row_tokens)


def _differences(
    trained: TrainedModel[TrainConfig],
    encoder: SentenceEncoder | None,
    with_onnx: bool,
    folder: Path,
) -> Mapping[str, float]:
    """The largest differences between the outputs of `folder` and the trained model."""
    checkpoint, model = trained.checkpoint, trained.model
    compute = compute_of_comparison(model)
    found = {}
    with single_rank_grid() as grid, torch.no_grad():
        ours = build_masked_lm(model, trained.vocab_size, grid, None, compute).eval()
        check_checkpoint(
            checkpoint.manifest, parameter_specs(ours), checkpoint.manifest.tokenizer_sha256
        )
        load_weights(ours, TensorReader(checkpoint), grid)
        _, theirs = load_exported(folder)
        theirs = theirs.to(grid.device)
        if encoder is not None:
            pooler = plain_pooler(model, encoder.pooling)
            found["embedding"] = largest_of(
                embedding_outputs(
                    *(ours, theirs, folder),
                    pool=lambda hidden, tokens: pooler(hidden, tokens, ours.encoder),
                )
            )
        if with_onnx:
            found["ONNX logit"] = largest_of(onnx_outputs(ours, OnnxModel(folder)))
        difference = largest_difference(
            *(ours, theirs),
            outputs=lambda: masked_lm_outputs(ours, theirs, trained.tokenizer, trained.special),
            to_hf=lambda state: trained.family.to_hf(state, model),
            quantity="logit",
        )
    return {"logit": difference, **found}

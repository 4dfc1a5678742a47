"""Exports a fine-tuned run: one Hugging Face folder for each task, which AutoModel... loads, and on
request one with the encoder and its pooler for sentence-transformers."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import ConfigError
from model.hugging_face.families import task_errors
from model.hugging_face.family import auto_class
from model.multi_task import MultiTaskModel, build_multi_task
from model.parallel.grid import Grid, single_rank_grid
from model.parameters import parameter_specs
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.finetuning.card import encoder_card, task_card
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.sentence_encoder import embedding_difference, sentence_encoder
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.finetuning.tasks.task_file import TASK_NAME, task_json
from pipeline.hugging_face.compared_rows import compared_rows
from pipeline.hugging_face.comparison import largest_difference, largest_of
from pipeline.hugging_face.folder import (
    ExportedTokenizer,
    ExportSource,
    load_auto_model,
    load_exported,
)
from pipeline.hugging_face.onnx_file import OnnxModel, write_onnx
from pipeline.hugging_face.options import SENTENCE_ENCODER, ExportOptions
from pipeline.hugging_face.outputs import compute_of_comparison, masked_lm_outputs, onnx_batches
from pipeline.hugging_face.publish import publish, read_state
from pipeline.hugging_face.sentence_encoder import SentenceEncoder
from pipeline.hugging_face.text_rows import text_rows
from pipeline.run.trained_model import TrainedModel, read_trained
from pipeline.start.start import read_start

NUM_COMPARED = 4
"""Examples of random tokens whose scores are compared."""

Trained = TrainedModel[FinetuneConfig]

logger = logging.getLogger(__name__)


def export_tasks(
    config: FinetuneConfig,
    checkpoint: Checkpoint,
    folder: Path,
    options: ExportOptions | None = None,
) -> dict[str, float]:
    """Writes `folder`/TASK for every task whose export is not of `checkpoint` already.

    Returns the largest difference of a score to the trained model, by exported folder. Raises
    UserError for a config that disagrees with the checkpoint; ConfigError, after all others are
    exported, for tasks that Hugging Face has no architecture for; and UserError, leaving older
    exports as they were, if a difference is more than rounding.
    """
    options = options or ExportOptions()
    trained = read_trained(config, checkpoint, lambda: _tokenizer_of_start(config))
    pooling = options.pooling or "none"
    found = {}
    state = _State(checkpoint)
    encoder_folder = folder / SENTENCE_ENCODER
    plain = replace(options, onnx=False)  # vectors have no ONNX
    if pooling != "none" and not plain.are_exported(encoder_folder, checkpoint, pooling):
        encoder = sentence_encoder(trained, state.tensors, pooling)
        found[SENTENCE_ENCODER] = _export_encoder(trained, state.tensors, encoder, encoder_folder)
    tasks = trained.config.tasks
    errors = task_errors(trained.model, {name: task.head().type for name, task in tasks.items()})
    refused = {name for names in errors.values() for name in names}
    for name in tasks:
        if name not in refused and not options.are_exported(folder / name, checkpoint, "none"):
            found[name] = _export_task(trained, state.tensors, name, options, folder / name)
    if errors:
        lines = [f"{', '.join(names)}: cannot be exported: {e}" for e, names in errors.items()]
        raise ConfigError("\n".join(lines))
    return found


class _State:
    """The weights of a checkpoint, read when they are needed."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tensors: dict[str, Tensor] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Full tensors by canonical name."""
        if self._tensors is None:
            self._tensors = read_state(self._checkpoint)
        return self._tensors


def _tokenizer_of_start(config: FinetuneConfig) -> Path:
    """The tokenizer that the config names, which older checkpoints do not carry."""
    return read_start(config.start).tokenizer


def _export_task(
    trained: Trained,
    state: dict[str, Tensor],
    name: str,
    options: ExportOptions,
    folder: Path,
) -> float:
    task = trained.config.tasks[name]
    head = task.head().type
    family = trained.family
    settings = {
        **family.hf_config(trained.model, trained.vocab_size),
        "dtype": "float32",
        "architectures": [family.task_class(head)],
        **task.exported_settings(),
    }

    longest = trained.config.max_row_tokens or trained.model.max_row_tokens

    def write_more(unfinished: Path) -> None:
        (unfinished / TASK_NAME).write_text(task_json(name, task, longest))
        if options.onnx:
            logger.info("%s: writing ONNX", folder)
            write_onnx(
                unfinished,
                load_auto_model(unfinished, auto_class(head)),
                trained.model.max_row_tokens,
                outputs=task.EXPORTED_OUTPUTS,
                has_segments=trained.model.type_vocab_size > 1,
                num_choices=task.rows_per_example if task.rows_per_example > 1 else None,
            )

    return publish(
        folder,
        tensors=family.task_to_hf(state, trained.model, name, head),
        config=settings,
        tokenizer=ExportedTokenizer.of(trained.tokenizer, trained.special, trained.model),
        source=ExportSource.of(trained.checkpoint),
        quantity="score",
        compare=partial(_task_differences, trained, name, options.onnx),
        card=partial(task_card, trained, settings, name),
        write_more=write_more,
    )


def _export_encoder(
    trained: Trained,
    state: dict[str, Tensor],
    encoder: SentenceEncoder,
    folder: Path,
) -> float:
    """The encoder with its masked-language-model head, which no class of transformers leaves out,
    and the files of sentence-transformers."""
    family = trained.family
    settings = family.hf_config(trained.model, trained.vocab_size)
    return publish(
        folder,
        tensors=family.to_hf(state, trained.model),
        config=settings,
        tokenizer=ExportedTokenizer.of(trained.tokenizer, trained.special, trained.model),
        source=ExportSource.of(trained.checkpoint),
        quantity="logit",
        compare=partial(_encoder_differences, trained, encoder),
        card=partial(encoder_card, trained, settings, encoder),
        write_more=encoder.write,
    )


def _trained_network(trained: Trained, grid: Grid) -> MultiTaskModel:
    """Our model with the weights of the checkpoint."""
    checkpoint, config = trained.checkpoint, trained.config
    heads = {name: task.head() for name, task in config.tasks.items()}
    compute = compute_of_comparison(trained.model)
    ours = build_multi_task(trained.model, heads, trained.vocab_size, grid, None, compute).eval()
    check_checkpoint(
        checkpoint.manifest, parameter_specs(ours), checkpoint.manifest.tokenizer_sha256
    )
    load_weights(ours, TensorReader(checkpoint), grid)
    return ours


def _task_differences(
    trained: Trained, name: str, with_onnx: bool, folder: Path
) -> Mapping[str, float]:
    model, task = trained.model, trained.config.tasks[name]
    head = task.head().type
    found = {}
    with single_rank_grid() as grid, torch.no_grad():
        ours = _trained_network(trained, grid)
        theirs = load_auto_model(folder, auto_class(head)).to(grid.device)
        if with_onnx:
            onnx = OnnxModel(folder)
            batches = onnx_batches(model, trained.vocab_size, task.rows_per_example)
            found["ONNX score"] = largest_of(
                _scores(ours, onnx, name, task, batch) for batch in batches
            )
        difference = largest_difference(
            ours,
            theirs,
            outputs=lambda: (
                _scores(ours, theirs, name, task, rows) for rows in _rows(trained, task)
            ),
            to_hf=lambda state: trained.family.task_to_hf(state, model, name, head),
            quantity="score",
        )
    return {"score": difference, **found}


def _encoder_differences(
    trained: Trained, encoder: SentenceEncoder, folder: Path
) -> Mapping[str, float]:
    model = trained.model
    with single_rank_grid() as grid, torch.no_grad():
        ours = _trained_network(trained, grid)
        _, theirs = load_exported(folder)
        theirs = theirs.to(grid.device)
        embedding = embedding_difference(ours, theirs, folder, encoder)
        difference = largest_difference(
            *(ours, theirs),
            outputs=lambda: masked_lm_outputs(ours, theirs, trained.tokenizer, trained.special),
            to_hf=lambda state: trained.family.to_hf(state, model),
            quantity="logit",
        )
    return {"logit": difference, "embedding": embedding}


def _rows(trained: Trained, task: TaskConfig) -> Iterator[Tensor]:
    """Rows [B, S] of whole examples: of any tokens, and of texts."""
    model, each = trained.model, task.rows_per_example
    yield torch.from_numpy(compared_rows(model, trained.vocab_size, NUM_COMPARED * each))
    if trained.special.bos != trained.special.eos:  # else a text would end in a second document
        rows = text_rows(trained.tokenizer, trained.special, model)
        if num_rows := len(rows) // each * each:
            yield torch.from_numpy(rows[:num_rows])


def _scores(
    ours: MultiTaskModel, theirs: Any, name: str, task: TaskConfig, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """The scores of both models on `rows` [B, S], without those of padding."""
    tokens = rows.to(next(ours.parameters()).device)
    is_text = (tokens != ours.config.pad_token_id).long()
    inputs = {"input_ids": tokens, "attention_mask": is_text}
    if ours.config.type_vocab_size > 1:
        segments = torch.arange(tokens.shape[1]) // 2 % ours.config.type_vocab_size
        inputs["token_type_ids"] = segments.expand(tokens.shape).contiguous().to(tokens.device)
    scores = ours.scores(tokens, [name], inputs.get("token_type_ids"))[name]
    expected = task.exported_scores(theirs, inputs).to(scores.device)
    if scores.dim() == 3:
        return scores[is_text.bool()], expected[is_text.bool()]
    return scores, expected

"""What a pretraining run has to know of its start before the weights are read. No torch."""

from pathlib import Path

from configs.load import UserError
from model.config import ModelConfig
from pipeline.checkpoint.stored_model import stored_model
from pipeline.hugging_face.architecture import architecture_of
from pipeline.hugging_face.vocabulary import has_vocabulary
from pipeline.start.config import ContinueHuggingFace, ContinueRun
from pipeline.start.start import find_start


def model_of_start(start: ContinueHuggingFace | ContinueRun) -> ModelConfig:
    """The architecture of a start.

    Raises UserError where it is not there or cannot be imported.
    """
    if isinstance(start, ContinueHuggingFace):
        if (start.path / "checkpoints").is_dir() and not (start.path / "config.json").exists():
            raise UserError(f"{start.path}: the folder of a run: set start.type: run")
        return architecture_of(start.path, start.leave_out)[0]
    return stored_model(find_start(start))


def with_tokenizer(
    start: ContinueHuggingFace | ContinueRun, of_rows: Path
) -> ContinueHuggingFace | ContinueRun:
    """`start`; for a folder with a vocabulary and without a tokenizer.json, with that of the rows,
    `of_rows`, which is compared with the vocabulary when the weights are read."""
    if start.tokenizer is not None or not isinstance(start, ContinueHuggingFace):
        return start
    if start.new_tokens is not None or (start.path / "tokenizer.json").is_file():
        return start
    if not has_vocabulary(start.path):
        return start
    return start.model_copy(update={"tokenizer": of_rows})

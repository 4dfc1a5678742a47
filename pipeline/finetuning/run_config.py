"""Loads the config of a pretraining or fine-tuning run, for commands that serve both."""

from collections.abc import Sequence
from pathlib import Path

from configs.credentials import credentials_in
from configs.load import read_tree, validate
from configs.redact import redact
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.finetuning.config import FinetuneConfig, is_finetuning
from pipeline.finetuning.length import given_twice
from pipeline.finetuning.sweep.results import best_child
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.train_config import complete_config


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config in `path`: of a fine-tuning run if it has `tasks`, else of a pretraining run.

    Raises ConfigError with the name of the file and the dotted path of every invalid key, and of
    every URL that holds credentials.
    """
    tree = read_tree(path, overrides)
    errors = tuple(credentials_in(tree))
    if is_finetuning(tree):
        return validate(tree, FinetuneConfig, str(path), (*errors, *given_twice(tree)))
    return complete_config(tree, str(path), errors)


def load_result(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """As `load_run`; of a sweep its best child.

    Raises UserError if the sweep is not finished.
    """
    config = load_run(path, overrides)
    if isinstance(config, FinetuneConfig) and config.sweep is not None:
        return best_child(config)
    return config


def stored_run(checkpoint: Checkpoint, output: Path | None = None) -> RunConfig:
    """The config that `checkpoint` was trained with; `output`: where the run's folder is now."""
    # Fine-tuned checkpoints of older versions keep the whole model's config under "network".
    tree = {key: part for key, part in checkpoint.manifest.config.items() if key != "network"}
    if output is not None:
        tree["output"] = str(output)
    kind: type[RunConfig] = FinetuneConfig if is_finetuning(tree) else TrainConfig
    return kind.from_stored(redact(tree, {}), origin=str(checkpoint.path))


def load_finetuning(path: str | Path, overrides: Sequence[str] = ()) -> FinetuneConfig:
    """The config of a fine-tuning run in `path`; raises ConfigError as `configs.load.load`."""
    tree = read_tree(path, overrides)
    errors = (*credentials_in(tree), *given_twice(tree))
    return validate(tree, FinetuneConfig, str(path), errors)

"""The config of any run, for what serves pretraining and fine-tuning alike. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from configs.load import read_tree, validate
from pipeline.finetuning.config import FinetuneConfig, is_finetuning
from pipeline.run.config import RunConfig, TrainConfig


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config in `path`: a fine-tuning run's if it has `tasks`, else a pretraining run's.

    Raises ConfigError that names the file and, for every bad key, its dotted path.
    """
    tree = read_tree(path, overrides)
    schema = FinetuneConfig if is_finetuning(tree) else TrainConfig
    return validate(tree, schema, origin=str(path))

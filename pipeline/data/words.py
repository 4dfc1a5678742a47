"""What the tokenizer of a data set says of words. Imports no torch: the planner reads it too."""

import numpy as np
from numpy.typing import NDArray

from configs.load import ConfigError
from data_prep.dataset.manifest import Manifest
from data_prep.dataset.tokenizer import load_tokenizer, read_tree
from model.objectives import ObjectiveConfig, word_starts_of
from pipeline.data.config import DataConfig


def read_vocabulary(data: DataConfig, manifest: Manifest) -> list[str]:
    """The text of every token of a data set's tokenizer, by id; empty for ids without a token."""
    tokenizer = load_tokenizer(data.path / manifest.tokenizer.path)
    return [tokenizer.id_to_token(number) or "" for number in range(manifest.vocab_size)]


def read_word_starts(data: DataConfig, manifest: Manifest) -> NDArray[np.bool_]:
    """[V] which tokens of a data set start a word.

    Raises UserError for a tokenizer that cannot be read, ConfigError for one that does not show it.
    """
    model_type = read_tree(data.path / manifest.tokenizer.path)["model"].get("type", "")
    return word_starts_of(read_vocabulary(data, manifest), model_type)


def check_words(
    objective: ObjectiveConfig, data: DataConfig, manifest: Manifest, where: str
) -> None:
    """Raises ConfigError for an objective on words where the tokenizer does not show them.

    `where` is the dotted path before the keys of the phase, empty for the first one.
    """
    if not objective.reads_words:
        return
    try:
        read_word_starts(data, manifest)
    except ConfigError as error:
        raise ConfigError(
            f"{where}objective.type {objective.type}: {error} ({where}data.path {data.path})"
        ) from None

"""The options of where weights start and which are trained, as in `model.options`. No torch."""

from typing import Annotated, Literal

from pydantic import Field

from configs.load import Config
from configs.paths import ConfigPathText


class RandomEmbeddings(Config):
    """Word vectors start at random."""

    type: Literal["random"] = "random"


class PretrainedVectors(Config):
    """Word vectors start from a word2vec, GloVe or fastText file, where it has the token's text."""

    type: Literal["vectors"] = "vectors"
    path: ConfigPathText
    """The file of vectors; may be compressed by gzip."""
    format: Literal["word2vec_binary", "word2vec_text", "glove_text", "fasttext_text"] = (
        "word2vec_text"
    )
    """word2vec files, and fastText's (.vec), start with a line of two counts, GloVe's do not."""
    fit: Literal["exact", "project", "pad"] = "exact"
    """What is done with vectors that are not hidden_size wide. exact: they are refused; project: a
    random matrix with orthonormal rows maps them (lengths and angles stay, or about so where the
    vectors are wider); pad: zeros follow narrower ones."""
    seed: int = Field(0, ge=0)
    """Decides the random matrix of `project`."""
    rescale: bool = True
    """Whether the vectors, after that, are scaled to the standard deviation initializer_range;
    false: as in the file."""


class NothingFrozen(Config):
    """All parameters are trained."""

    type: Literal["nothing"] = "nothing"


class FreezeLower(Config):
    """The weights of the lower layers are not trained."""

    type: Literal["lower"] = "lower"
    embeddings: bool = True
    """Whether the embeddings (and with them the tied decoder matrix) are frozen."""
    num_layers: int = Field(0, ge=0)
    """Layers frozen, counted from the embedding."""


class TrainLast(Config):
    """Only the last layers and the heads are trained."""

    type: Literal["all_but_last"] = "all_but_last"
    num_layers: int = Field(1, ge=0)
    """Layers trained, counted from the output."""


EmbeddingStart = Annotated[RandomEmbeddings | PretrainedVectors, Field(discriminator="type")]
Frozen = Annotated[NothingFrozen | FreezeLower | TrainLast, Field(discriminator="type")]

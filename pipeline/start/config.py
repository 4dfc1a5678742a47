"""The `start` section of a config: which weights a run starts from. Imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from configs.load import Config
from configs.paths import ConfigPath

START_PATHS = {"path", "tokenizer"}
"""Keys of a start that may change, since files move: their content is compared instead."""


PRETRAINED = ("encoder.", "head.")
"""What the names of parameters start with that every model has: its encoder and its
masked-language-model head. For fine-tuning, pooler and task heads start at random."""


class FromRun(Config):
    """The weights in a checkpoint of another run."""

    type: Literal["run"] = "run"

    path: ConfigPath
    """Folder of the run."""

    step: NonNegativeInt | Literal["newest", "best"] | None = None
    """Optimizer step of the checkpoint, or the one with the lowest held-out loss (default: the
    newest)."""

    tokenizer: ConfigPath | None = None
    """The tokenizer.json (default: the one that the checkpoint carries)."""


class FromHuggingFace(Config):
    """The weights of a Hugging Face folder of any family that can be imported."""

    type: Literal["hugging_face"] = "hugging_face"

    path: ConfigPath
    """Folder with config.json and weights."""

    tokenizer: ConfigPath | None = None
    """The tokenizer.json (default: the one in the folder)."""

    leave_out: tuple[str, ...] = ("classifier.", "qa_outputs.")
    """Prefixes of tensor names to skip: heads of previous tasks."""


class Scratch(Config):
    """Random weights."""

    type: Literal["scratch"] = "scratch"


class Adaptation(Config):
    """What may be changed in the weights that pretraining continues."""

    grow: Literal["tiling"] | None = None
    """How weights become those of a larger model, whose sizes the model section gives: tiled from
    the centre, as ModernBERT-large was from base (Warner et al. 2024, appendix; default: none)."""

    new_tokens: Literal["mean", "focus", "random"] | None = None
    """How the vectors of new tokens start where the data set's tokenizer extends that of the start,
    or is another: from the mean of the token's old pieces, by the similarity of tokens in the rows
    (FOCUS, Dobler and de Melo 2023), or at random (default: the tokenizers have to be the same)."""

    @property
    def keeps_shapes(self) -> bool:
        """Whether no tensor gets another shape."""
        return self.grow is None and self.new_tokens is None


class ContinueHuggingFace(Adaptation, FromHuggingFace):
    """Continues the training of a Hugging Face folder of any family that can be imported.

    Without a masked-language-model head in the folder, the head starts at random.
    """


class ContinueRun(Adaptation, FromRun):
    """A branch of another run from one of its checkpoints, at any grid, on any data."""

    moments: bool = False
    """Whether the optimizer state is taken over too, which needs the same optimizer.type."""

    @model_validator(mode="after")
    def _moments_fit(self) -> Self:
        if self.moments and not self.keeps_shapes:
            key = "grow" if self.grow else "new_tokens"
            raise ValueError(f"moments true does not go with {key}: new weights have no moments")
        return self


PretrainingStart = Annotated[
    Scratch | ContinueHuggingFace | ContinueRun, Field(discriminator="type")
]

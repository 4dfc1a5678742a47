"""What a Hugging Face family is: an architecture of transformers that computes some of our models.

A family is one file in this folder and one entry in `model.hugging_face.families`. It maps configs
and tensors both ways and names transformers' classes. Neither transformers nor a file is touched
here: export and import call the family's methods.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from configs.load import ConfigError
from model.config import ModelConfig
from model.head_types import HeadType
from model.hugging_face.nearest import Change, changes_for
from model.hugging_face.tensors import (
    TensorPair,
    expected_shapes,
    shape_errors,
    to_ours,
    to_theirs,
)

if TYPE_CHECKING:
    from torch import Tensor

_CLASS_ENDINGS: Mapping[HeadType, str] = {
    "sequence_classification": "SequenceClassification",
    "sequence_regression": "SequenceClassification",
    "token_classification": "TokenClassification",
    "span_question_answering": "QuestionAnswering",
    "multiple_choice": "MultipleChoice",
}


_ANY_VOCAB_SIZE = 1000
"""No setting of `ModelConfig` depends on the size of the vocabulary."""
WHOLE_ROW_HEADS: tuple[HeadType, ...] = (
    "sequence_classification",
    "sequence_regression",
    "multiple_choice",
)
"""Heads that read one vector a row."""


_Transform = Literal["none", "prediction", "dense"]
_LAYERS: Mapping[_Transform, str] = {
    "none": "no layers",
    "prediction": "a dense layer, an activation and a norm",
    "dense": "a dense layer and GELU",
}


def _layers_before_output(transform: _Transform, head: HeadType) -> _Transform:
    """What a `head_transform` puts before the output of a head."""
    return "none" if transform == "dense" and head not in WHOLE_ROW_HEADS else transform


class Family(ABC):
    """One architecture of transformers. Tensors are full (not sharded) and fp32 or as stored."""

    model_type: str
    """`model_type` in config.json; the name of the family in messages."""
    class_prefix: str
    """What the names of transformers' classes start with, "Roberta" for example."""
    head_transform: _Transform = "none"
    """What its classes have before the output layer of a task, see `ModelConfig.head_transform`."""
    heads: tuple[HeadType, ...] = get_args(HeadType)
    """The kinds of task heads that transformers has a class for."""
    writes_shared_layers_apart: bool = True
    """Whether layers that share their weights are exported one by one."""

    @property
    def positions_depend_on_padding(self) -> bool:
        """Whether the row of a position in the position matrix depends on the padding's id."""
        return False

    @property
    def masked_lm_class(self) -> str:
        """transformers' class with the masked-language-model head."""
        return f"{self.class_prefix}ForMaskedLM"

    def task_class(self, head: HeadType) -> str:
        """transformers' class with a task head; ConfigError where there is none."""
        name = f"{self.class_prefix}For{_CLASS_ENDINGS[head]}"
        if head not in self.heads:
            raise ConfigError(
                f"transformers has no class {name}: a {self.model_type} model cannot be exported "
                f"with a head for {head}, only for {', '.join(self.heads)}"
            )
        return name

    def check_task(self, config: ModelConfig, head: HeadType) -> None:
        """Raises ConfigError where no class of transformers computes `head` on `config`."""
        name = self.task_class(head)
        wanted = _layers_before_output(self.head_transform, head)
        if _layers_before_output(config.head_transform.type, head) != wanted:
            raise ConfigError(
                f"model.head_transform {config.head_transform.type}: {name} has {_LAYERS[wanted]} "
                f"before the output: set type: {self.head_transform}"
            )
        if head in WHOLE_ROW_HEADS and self.head_transform == "none":
            check_first_token_pooler(config)

    def has_class(self, name: str) -> bool:
        """Whether `name` is one of transformers' classes of the family."""
        return re.fullmatch(rf"{self.class_prefix}(Model|For\w+)", name) is not None

    @abstractmethod
    def matches(self, hf: Mapping[str, Any], tensor_names: Iterable[str]) -> bool:
        """Whether a folder with the config.json `hf` and these tensors is of this family.

        Old files lack `model_type`; then the names of the tensors decide, where `architectures`
        names no class.
        """

    @abstractmethod
    def model_config(self, hf: Mapping[str, Any], origin: str) -> tuple[ModelConfig, int]:
        """(our config, vocabulary size) of the config.json `hf`; `origin` names it in messages.

        Raises ConfigError that lists every setting that is missing or not supported.
        """

    @abstractmethod
    def hf_config(self, config: ModelConfig, vocab_size: int) -> dict[str, Any]:
        """config.json of the masked-language model; with "auto_map" if it brings its own code.

        For a model that the family does not compute: of the nearest one that it does.
        """

    def changes(self, config: ModelConfig) -> list[Change]:
        """The settings of `config` that the family does not compute; empty if it can hold it.

        Raises ConfigError where the sizes of `config` allow no model of the family.
        """
        return changes_for(config, self._nearest, self.writes_shared_layers_apart)

    def _nearest(self, config: ModelConfig) -> ModelConfig:
        written = self.hf_config(config, _ANY_VOCAB_SIZE)
        return self.model_config(written, f"as {self.model_type}")[0]

    def can_hold(self, config: ModelConfig) -> bool:
        """Whether the family computes what `config` describes."""
        try:
            return not self.changes(config)
        except ConfigError:
            return False

    @abstractmethod
    def has_masked_lm_head(self, tensor_names: Iterable[str]) -> bool:
        """Whether the tensors include a masked-language-model head."""

    @abstractmethod
    def to_hf(self, state: Mapping[str, "Tensor"], config: ModelConfig) -> dict[str, "Tensor"]:
        """The tensors of `masked_lm_class` from our full `state`, the tied decoder left out.

        Raises KeyError for a tensor that `state` lacks. No two results share memory.
        """

    @abstractmethod
    def check_tensors(
        self,
        tensors: Mapping[str, "Tensor"],
        config: ModelConfig,
        vocab_size: int,
        with_head: bool = True,
        leave_out: tuple[str, ...] = (),
    ) -> None:
        """Raises ConfigError that lists every missing, superfluous and misshapen tensor.

        The tensors may be on the device "meta": then their values are not compared.
        """

    @abstractmethod
    def from_hf(
        self,
        tensors: Mapping[str, "Tensor"],
        config: ModelConfig,
        vocab_size: int,
        with_head: bool = True,
        leave_out: tuple[str, ...] = (),
    ) -> dict[str, "Tensor"]:
        """Our full tensors from Hugging Face's; without the head's if not `with_head`.

        Tensors whose names start with one of `leave_out` are skipped. Raises the error of
        `check_tensors`.
        """

    @abstractmethod
    def task_to_hf(
        self, state: Mapping[str, "Tensor"], config: ModelConfig, name: str, head: HeadType
    ) -> dict[str, "Tensor"]:
        """The tensors of `task_class(head)` from our full `state`, whose head is called `name`.

        Raises the errors of `check_task`.
        """


class PairedFamily(Family):
    """A family whose tensors are ours under other names, maybe with another order of rows."""

    @abstractmethod
    def pairs(
        self, config: ModelConfig, vocab_size: int, with_head: bool = True
    ) -> Iterator[TensorPair]:
        """Each of our tensors with its place in Hugging Face's model."""

    @abstractmethod
    def modern_names(self, state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """The tensors of a folder under the names of today's transformers."""

    @abstractmethod
    def superfluous(
        self, state: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]]
    ) -> Iterator[str]:
        """A line for each tensor of `state` that is not expected and may not be left out."""

    def to_hf(self, state: Mapping[str, "Tensor"], config: ModelConfig) -> dict[str, "Tensor"]:
        return to_theirs(state, self.pairs(config, len(state["encoder.embeddings.word.weight"])))

    def check_tensors(
        self,
        tensors: Mapping[str, "Tensor"],
        config: ModelConfig,
        vocab_size: int,
        with_head: bool = True,
        leave_out: tuple[str, ...] = (),
    ) -> None:
        state = self._kept(tensors, leave_out)
        expected = expected_shapes(self.pairs(config, vocab_size, with_head))
        errors = [*shape_errors(state, expected), *self.superfluous(state, expected)]
        if errors:
            hint = ""
            if not expected.keys() & state.keys():
                hint = (
                    "none has the name that it has there: the weights are of a different family; "
                )
            raise ConfigError(
                f"{hint}{len(errors)} tensor(s) do not fit a {self.model_type} model of the given "
                "sizes:\n  " + "\n  ".join(errors)
            )

    def from_hf(
        self,
        tensors: Mapping[str, "Tensor"],
        config: ModelConfig,
        vocab_size: int,
        with_head: bool = True,
        leave_out: tuple[str, ...] = (),
    ) -> dict[str, "Tensor"]:
        self.check_tensors(tensors, config, vocab_size, with_head, leave_out)
        state = self._kept(tensors, leave_out)
        return to_ours(state, self.pairs(config, vocab_size, with_head))

    def _kept(
        self, tensors: Mapping[str, "Tensor"], leave_out: tuple[str, ...]
    ) -> dict[str, "Tensor"]:
        modern = self.modern_names(tensors).items()
        return {name: tensor for name, tensor in modern if not name.startswith(leave_out)}


def auto_class(head: HeadType) -> str:
    """The class of transformers that loads an exported task of any family."""
    return f"AutoModelFor{_CLASS_ENDINGS[head]}"


def check_first_token_pooler(config: ModelConfig) -> None:
    """Raises ConfigError for poolers other than a dense layer on the first token."""
    sharing = config.parameter_sharing
    is_first = config.pooler.type == "first"
    if not is_first or (sharing.type == "groups" and sharing.pooler):
        kind = "a shared matrix" if is_first else config.pooler.type
        raise ConfigError(
            f"model.pooler: Hugging Face has no head for whole rows with {kind}, only with a "
            "matrix of its own on the first token (type: first)"
        )

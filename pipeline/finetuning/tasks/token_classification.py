"""Token classification: one label per word, or the entities that the labels of words mark."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from tokenizers import Encoding

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, Ids, Line, RowEncoder
from pipeline.finetuning.inputs.reading import is_missing
from pipeline.finetuning.inputs.record import BadRecord
from pipeline.finetuning.tasks.tagging import OUTSIDE, Tagging, num_broken, tagging_of, wrong_label
from pipeline.finetuning.tasks.task import (
    UNUSED,
    Scores,
    Targets,
    example_of,
)
from pipeline.finetuning.tasks.weighted import WeightedTask
from pipeline.tracking.label_tables import LabelTable

if TYPE_CHECKING:
    from model.task_heads import TaskHeadConfig

WORDS_WITHOUT_TOKEN = "words without a prediction"
"""The name of the count of words that were cut off, or have no token."""
BROKEN_TAGS = "tags that do not fit the tag before"
_ENTITY_METRICS = ("entity_f1", "entity_precision", "entity_recall")


class LabelledWords(Line):
    """Words with a class each; a text stands for the list of what is between its white space."""

    words: tuple[str, ...] = Field(min_length=1)
    labels: tuple[str | int | float | None, ...] | None = None

    @field_validator("words", "labels", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.split() if isinstance(value, str) else value


class TokenClassification(WeightedTask):
    """One class for each word; the word's first token carries it."""

    type: Literal["token_classification"] = "token_classification"
    LINE = LabelledWords
    LABEL_FIELDS = ("labels",)
    MAIN_METRICS = ("accuracy", "macro_f1", *_ENTITY_METRICS)

    tagging: Tagging = "auto"
    """The scheme by which labels such as B-PER mark entities, strictly; "conlleval": as that script
    reads any of them; "auto": by the labels; "none": labels of words."""

    @property
    def reads_pooled(self) -> bool:
        return False

    @property
    def scheme(self) -> Tagging:
        """The scheme of its labels: not "auto"."""
        return tagging_of(self.labels) if self.tagging == "auto" else self.tagging

    @property
    def main_metric(self) -> str:
        return self.metric or ("accuracy" if self.scheme == "none" else _ENTITY_METRICS[0])

    @model_validator(mode="after")
    def _labels_fit_tagging(self) -> Self:
        if self.tagging not in ("auto", "none"):
            label = wrong_label(self.labels, self.tagging)
            if label is not None:
                raise ValueError(f"tagging {self.tagging} has no label {label!r}")
        return self

    def allowed_metrics(self) -> tuple[str, ...]:
        words_only = self.scheme == "none"
        return tuple(m for m in self.MAIN_METRICS if not (words_only and m in _ENTITY_METRICS))

    def head(self) -> "TaskHeadConfig":
        from model import task_heads

        return task_heads.TokenClassification(num_labels=len(self.labels))

    def examples_of(self, line: LabelledWords, number: int, encoder: RowEncoder) -> list[Example]:
        for word in line.words:
            if not word or word != word.strip():
                raise BadRecord("value", f"words: {word!r} is empty or has white space around it")
        classes = self._classes(line)
        encoding = encoder.row(" ".join(line.words))
        places = _word_places(encoding, line.words)
        encoder.counts[WORDS_WITHOUT_TOKEN] += places.count(None)
        label = None
        if classes is not None:
            encoder.counts[BROKEN_TAGS] += num_broken(
                [self.labels[c] for c in classes], self.scheme
            )
            label = np.full(len(encoding.ids), UNUSED, dtype=np.int64)
            for place, one in zip(places, classes, strict=True):
                if place is not None:
                    label[place] = one
        words = {"words": line.words, "word_places": places}
        return [example_of([encoding], label, number, line, **words)]

    def _classes(self, line: LabelledWords) -> list[int] | None:
        if line.labels is None:
            return None
        if len(line.labels) != len(line.words):
            message = f"{len(line.labels)} labels for {len(line.words)} words"
            raise BadRecord("value", message)
        if any(is_missing(label) for label in line.labels):
            raise BadRecord("missing", "labels: a word without a label")
        return [self.number_of(label) for label in line.labels]

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        result = np.full((len(examples), row_tokens), UNUSED, dtype=np.int64)  # [B, S]
        for row, example in enumerate(examples):
            result[row, : len(example.label)] = example.label
        return result

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, row_tokens), UNUSED, dtype=np.int64)

    def kept_scores(self, example: Example, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """[words]: the number of the best class of each word with a token."""
        places = [place for place in example.word_places if place is not None]
        return np.asarray(scores[places].argmax(axis=1), dtype=np.float64)

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        shares = score.softmax(scores)
        best = shares.argmax(axis=-1)
        tags = [None if p is None else self.labels[best[p]] for p in example.word_places]
        found = {
            "words": list(example.words),
            "labels": tags,
            "scores": [None if p is None else float(shares[p].max()) for p in example.word_places],
        }
        if self.scheme != "none":
            known = [tag or OUTSIDE for tag in tags]
            found["entities"] = [
                {
                    "type": kind,
                    "first": first,
                    "last": last,
                    "text": " ".join(example.words[first : last + 1]),
                }
                for kind, first, last in score.entities(known, self.scheme)
            ]
        return found

    def metrics_of_kept(self, examples: Sequence[Example], kept: Scores) -> dict[str, float]:
        labels = [example.label[example.label >= 0] for example in examples]
        predicted = [one.astype(np.int64) for one in kept]
        found = {
            "accuracy": score.accuracy(np.concatenate(predicted), np.concatenate(labels)),
            "macro_f1": score.macro_f1(np.concatenate(predicted), np.concatenate(labels)),
        }
        if self.scheme != "none":
            precision, recall, f1 = score.entity_scores(
                self._tags(predicted), self._tags(labels), self.scheme
            )
            found |= dict(zip(_ENTITY_METRICS, (f1, precision, recall), strict=True))
        return found

    def label_table(self, examples: Sequence[Example], kept: Scores) -> LabelTable:
        true = np.concatenate([example.label[example.label >= 0] for example in examples])
        return LabelTable.of_classes(self.labels, true, np.concatenate(kept))

    def _tags(self, sentences: Sequence[Ids]) -> list[list[str]]:
        return [[self.labels[number] for number in numbers] for numbers in sentences]


def _word_places(encoding: Encoding, words: Sequence[str]) -> tuple[int | None, ...]:
    """For each word, its first token, which carries its class; None for one that was cut off.

    Tokens may begin with the space before a word ("▁word"), and span more than one word.
    """
    lengths = np.array([len(word) for word in words])
    ends = np.cumsum(lengths + 1) - 1  # in the words joined by spaces
    starts = ends - lengths
    places: list[int | None] = [None] * len(words)
    word = 0  # the first that no token carries yet
    for place, ((start, end), sequence) in enumerate(
        zip(encoding.offsets, encoding.sequence_ids, strict=True)
    ):
        if sequence != 0:
            continue
        while word < len(words) and ends[word] <= start:
            word += 1  # it has no token
        # A byte-level token of nothing but the space before a word lies at the word, without width.
        if word < len(words) and starts[word] < max(end, start + 1):
            places[word] = place
            word += 1
    return tuple(places)

"""Token classification: one label per word."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Encoding

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, ExampleFile, Line, RowEncoder
from pipeline.finetuning.tasks.task import (
    UNUSED,
    LabelledTask,
    Scores,
    Targets,
    check_label,
    example_file,
    example_of,
    softmax,
)

if TYPE_CHECKING:
    from model.task_heads import TaskHeadConfig


class LabelledWords(Line):
    """Words with a class each."""

    words: tuple[str, ...] = Field(min_length=1)
    labels: tuple[str | int, ...] | None = None


class TokenClassification(LabelledTask):
    """One class for each word; the word's first token carries it."""

    type: Literal["token_classification"] = "token_classification"
    MAIN_METRIC = "accuracy"

    @property
    def reads_pooled(self) -> bool:
        return False

    def head(self) -> "TaskHeadConfig":
        from model import task_heads

        return task_heads.TokenClassification(num_labels=len(self.labels))

    def read(self, path: Path, encoder: RowEncoder, needs_labels: bool = True) -> ExampleFile:
        def examples_of(line: LabelledWords, number: int) -> list[Example]:
            check_label(line.labels, "labels", needs_labels)
            if line.labels is not None and len(line.labels) != len(line.words):
                raise ValueError(f"{len(line.labels)} labels for {len(line.words)} words")
            for word in line.words:
                if not word or word != "".join(word.split()):
                    raise ValueError(f"words: {word!r} is empty or has white space in it")
            encoding = encoder.row(" ".join(line.words))
            places = _word_places(encoding, line.words)
            label = None
            if line.labels is not None:
                label = np.full(len(encoding.ids), UNUSED, dtype=np.int64)
                classes = [self.number_of(name) for name in line.labels]
                for place, one in zip(places, classes, strict=True):
                    if place is not None:
                        label[place] = one
            words = {"words": line.words, "word_places": places}
            return [example_of([encoding], label, number, line, **words)]

        return example_file(path, encoder, LabelledWords, examples_of)

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        result = np.full((len(examples), row_tokens), UNUSED, dtype=np.int64)  # [B, S]
        for row, example in enumerate(examples):
            result[row, : len(example.label)] = example.label
        return result

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, row_tokens), UNUSED, dtype=np.int64)

    def prediction(self, example: Example, scores: NDArray[np.float64]) -> dict[str, Any]:
        shares = softmax(scores)
        best = shares.argmax(axis=-1)
        tags = [None if p is None else self.labels[best[p]] for p in example.word_places]
        return {
            "words": list(example.words),
            "labels": tags,
            "scores": [None if p is None else float(shares[p].max()) for p in example.word_places],
        }

    def metrics(self, examples: Sequence[Example], scores: Scores) -> dict[str, float]:
        labels = np.concatenate([example.label for example in examples])
        predicted = np.concatenate(
            [
                values[: len(example.label)].argmax(axis=1)
                for example, values in zip(examples, scores, strict=True)
            ]
        )
        is_used = labels >= 0
        return {
            "accuracy": score.accuracy(predicted[is_used], labels[is_used]),
            "macro_f1": score.macro_f1(predicted[is_used], labels[is_used], len(self.labels)),
        }


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

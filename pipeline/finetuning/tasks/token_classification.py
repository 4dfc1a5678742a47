"""Token classification: one label per word."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field
from tokenizers import Encoding

from pipeline.finetuning import metrics as score
from pipeline.finetuning.examples import Example, ExampleFile, Ids, Line, RowEncoder
from pipeline.finetuning.tasks.task import (
    UNUSED,
    LabelledTask,
    Scores,
    Targets,
    example_file,
    example_of,
)

if TYPE_CHECKING:
    from model.task_heads import TaskHeadConfig


class LabelledWords(Line):
    """Words with a class each."""

    words: tuple[str, ...] = Field(min_length=1)
    labels: tuple[str | int, ...]


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

    def read(self, path: Path, encoder: RowEncoder) -> ExampleFile:
        def examples_of(line: LabelledWords, number: int) -> list[Example]:
            if len(line.labels) != len(line.words):
                raise ValueError(f"{len(line.labels)} labels for {len(line.words)} words")
            for word in line.words:
                if not word or word != "".join(word.split()):
                    raise ValueError(f"words: {word!r} is empty or has white space in it")
            numbers = [self.number_of(label) for label in line.labels]
            encoding = encoder.row(" ".join(line.words))
            return [example_of([encoding], _word_targets(encoding, line.words, numbers), number)]

        return example_file(path, encoder, LabelledWords, examples_of)

    def targets(self, examples: Sequence[Example], row_tokens: int) -> Targets:
        result = np.full((len(examples), row_tokens), UNUSED, dtype=np.int64)  # [B, S]
        for row, example in enumerate(examples):
            result[row, : len(example.label)] = example.label
        return result

    def no_targets(self, num_rows: int, row_tokens: int) -> Targets:
        return np.full((num_rows, row_tokens), UNUSED, dtype=np.int64)

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


def _word_targets(encoding: Encoding, words: Sequence[str], numbers: Sequence[int]) -> Ids:
    """[S] the class of each word at its first token, -100 elsewhere.

    Tokens may begin with the space before a word ("▁word"), and span more than one word.
    """
    lengths = np.array([len(word) for word in words])
    ends = np.cumsum(lengths + 1) - 1  # in the words joined by spaces
    starts = ends - lengths
    targets = np.full(len(encoding.ids), UNUSED, dtype=np.int64)
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
            targets[place] = numbers[word]
            word += 1
    return targets

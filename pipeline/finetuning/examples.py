"""Examples of token ids, and the encoder that makes their rows from texts.

What stands around one text and between two is decided by the tokenizer's post-processor:
``<s> text </s></s> second text </s>`` in RoBERTa, ``[CLS] text [SEP] second text [SEP]`` in BERT.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tokenizers import Encoding

from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.tokenizer import text_tokenizer
from pipeline.finetuning.inputs.record import BadRecord

TRUNCATED = "truncated to max_row_tokens"
"""The name of the count of rows that were cut."""
Ids = NDArray[np.int64]


class Line(BaseModel):
    """Base of what a record of a data file holds; keys that a task does not know are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Any = None
    """A name of the record, which its prediction repeats."""


@dataclass(frozen=True)
class Window:
    """One row of a question: where its tokens are in the text that holds the answer."""

    context: str
    answers: tuple[str, ...]
    """Correct answers; none where the text has no answer."""
    spans: NDArray[np.int64]
    """[S, 2] characters of the context that each token covers; -1 for other tokens."""


@dataclass(frozen=True)
class Example:
    """The input of one prediction, and its label."""

    rows: tuple[Ids, ...]
    """Token ids of its rows; more than one only in multiple choice."""
    label: Any
    """The correct class, value, choice, (first, last) token, or one class for each token; None in
    files without labels."""
    line: int
    """The number of the record that it is from, counting from 1 over all files of a split."""
    window: Window | None = None
    """Of a question whose answer is in a text."""
    segments: tuple[Ids, ...] = ()
    """Segment ids (token types) of its rows, as the tokenizer gives them; without: all 0."""
    words: tuple[str, ...] = ()
    """Of a record whose words are labelled."""
    word_places: tuple[int | None, ...] = ()
    """For each word, the token that carries its class; None for a word that was cut off."""
    id: Any = None
    """The name of the record, if it has one."""


@dataclass(frozen=True)
class SourceRecord:
    """The record of a file that examples are from."""

    file: Path
    place: str
    """Where it stands in the file, "line 3" for example."""
    text_key: bytes
    """A hash of its texts: two records with equal ones hold equal texts."""
    id: str | None
    """Its own id."""

    def __str__(self) -> str:
        return f"{self.file}: {self.place}"


class RowLengths(NamedTuple):
    """How long the longest rows of examples are."""

    tokens: NDArray[np.int64]
    """[N] the N lengths that there are, ascending."""
    examples: NDArray[np.int64]
    """[N] the number of examples of each."""


@dataclass(frozen=True)
class ExampleFile:
    """All examples of one split: of one file, or of several."""

    files: tuple[Path, ...]
    sha256: str
    """Of the content of all files."""
    examples: tuple[Example, ...]
    records: tuple[SourceRecord, ...]
    """The records that examples were made of; that of an example is number `line` - 1."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was cut, left out or is suspicious, by its name; only counts above 0."""

    @property
    def path(self) -> Path:
        """The first file."""
        return self.files[0]

    @property
    def num_cut(self) -> int:
        """Rows that were truncated to the longest row."""
        return self.counts.get(TRUNCATED, 0)

    @property
    def num_lines(self) -> int:
        """Records that examples were made of."""
        return len(self.records)

    @cached_property
    def longest_rows(self) -> RowLengths:
        """Of all examples."""
        longest = [max(len(row) for row in example.rows) for example in self.examples]
        return RowLengths(*np.unique(np.asarray(longest, dtype=np.int64), return_counts=True))

    def source(self, example: Example) -> SourceRecord:
        """The record that an example is from."""
        return self.records[example.line - 1]


class RowEncoder:
    """Texts -> rows of at most `max_row_tokens` tokens, with their special tokens."""

    def __init__(self, tokenizer_file: Path, special: SpecialTokens, max_row_tokens: int) -> None:
        self._tokenizer = text_tokenizer(tokenizer_file, special)
        self.max_row_tokens = max_row_tokens
        self.counts: Counter[str] = Counter()
        """What was cut so far, and what tasks count of the records, by its name."""

    def row(self, text: str, second: str | None = None) -> Encoding:
        """One row; of two texts too long for it the longer one is truncated first."""
        self._tokenizer.enable_truncation(self.max_row_tokens, strategy="longest_first")
        encoding = self._tokenizer.encode(text, second)
        self.counts[TRUNCATED] += bool(encoding.overflowing)
        return encoding

    def windows(self, question: str, context: str, stride_tokens: int) -> list[Encoding]:
        """Rows of the question with each window of the context, `stride_tokens` of them shared.

        Raises BadRecord if the question leaves no space for the context.
        """
        self._tokenizer.no_truncation()
        available = self.max_row_tokens - len(self._tokenizer.encode(question, "").ids)
        if available <= stride_tokens:
            raise BadRecord(
                "too_long",
                f"the question leaves space for {available} tokens of its context in a row of "
                f"{self.max_row_tokens}; more than stride_tokens {stride_tokens} are needed",
            )
        self._tokenizer.enable_truncation(
            self.max_row_tokens, stride=stride_tokens, strategy="only_second"
        )
        first = self._tokenizer.encode(question, context)
        return [first, *first.overflowing]

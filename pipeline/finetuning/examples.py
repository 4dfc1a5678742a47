"""Lines of JSON -> examples of token ids; every bad line is reported with its file and number.

What stands around one text and between two is decided by the tokenizer's post-processor:
``<s> text </s></s> second text </s>`` in RoBERTa, ``[CLS] text [SEP] second text [SEP]`` in BERT.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Encoding

from configs.load import UserError
from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.tokenizer import text_tokenizer

MAX_SHOWN_ERRORS = 10
Ids = NDArray[np.int64]


class Line(BaseModel):
    """Base of what a line of a data file holds; keys that a task does not know are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Any = None
    """A name of the line, which its prediction repeats."""


LineT = TypeVar("LineT", bound=Line)


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
    """The correct class, value, choice, (first, last) token, or one class for each token; None
    where the line has none, in a file to predict."""
    line: int
    """The line of the file that it is from, counting from 1."""
    window: Window | None = None
    """Of a question whose answer is in a text."""
    segments: tuple[Ids, ...] = ()
    """Segment ids (token types) of its rows, as the tokenizer gives them; without: all 0."""
    words: tuple[str, ...] = ()
    """Of a line whose words are labelled."""
    word_places: tuple[int | None, ...] = ()
    """For each word, the token that carries its class; None for a word that was cut off."""
    id: Any = None
    """The name of the line, if it has one."""


@dataclass(frozen=True)
class ExampleFile:
    """All examples of one file."""

    path: Path
    sha256: str
    examples: tuple[Example, ...]
    num_lines: int
    num_cut: int
    """Lines that were truncated to the longest row."""


class RowEncoder:
    """Texts -> rows of at most `max_row_tokens` tokens, with their special tokens."""

    def __init__(self, tokenizer_file: Path, special: SpecialTokens, max_row_tokens: int) -> None:
        self._tokenizer = text_tokenizer(tokenizer_file, special)
        self.max_row_tokens = max_row_tokens
        self.num_cut = 0
        """Rows truncated so far."""

    def row(self, text: str, second: str | None = None) -> Encoding:
        """One row; of two texts too long for it the longer one is truncated first."""
        self._tokenizer.enable_truncation(self.max_row_tokens, strategy="longest_first")
        encoding = self._tokenizer.encode(text, second)
        self.num_cut += bool(encoding.overflowing)
        return encoding

    def windows(self, question: str, context: str, stride_tokens: int) -> list[Encoding]:
        """Rows of the question with each window of the context, `stride_tokens` of them shared.

        Raises ValueError if the question leaves no space for the context.
        """
        self._tokenizer.no_truncation()
        available = self.max_row_tokens - len(self._tokenizer.encode(question, "").ids)
        if available <= stride_tokens:
            raise ValueError(
                f"the question leaves space for {available} tokens of its context in a row of "
                f"{self.max_row_tokens}; more than stride_tokens {stride_tokens} are needed"
            )
        self._tokenizer.enable_truncation(
            self.max_row_tokens, stride=stride_tokens, strategy="only_second"
        )
        first = self._tokenizer.encode(question, context)
        return [first, *first.overflowing]


def read_lines(
    path: Path, schema: type[LineT], examples_of: Callable[[LineT, int], list[Example]]
) -> tuple[list[Example], int]:
    """(all examples, number of lines) of a JSON-lines file.

    `examples_of(line, number)` may raise ValueError. Raises UserError that names the file and, for
    the first few bad lines, the number and the error.
    """
    examples: list[Example] = []
    errors: list[str] = []
    number = 0
    for number, text in enumerate(_lines(path), start=1):
        try:
            line = schema.model_validate(_parsed(text))
            _check_unicode(line.model_dump())
            examples += examples_of(line, number)
        except ValidationError as error:
            errors += [f"line {number}: {_describe(item)}" for item in error.errors()]
        except ValueError as error:
            errors.append(f"line {number}: {error}")
    if errors:
        shown = "".join(f"\n  {line}" for line in errors[:MAX_SHOWN_ERRORS])
        more = len(errors) - MAX_SHOWN_ERRORS
        rest = f"\n  and {more} more" if more > 0 else ""
        raise UserError(f"{path}: {len(errors)} error(s){shown}{rest}")
    if not examples:
        raise UserError(f"{path}: holds no examples: one JSON object per line is expected")
    return examples, number


def _lines(path: Path) -> Iterator[str]:
    try:
        # Bytes that are not UTF-8 become surrogates, which `_parsed` finds with the line's number.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
            yield from stream
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno or 0).lower()}") from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not UTF-8, from character {error.start} on") from None
    try:
        tree = json.loads(text)
    except RecursionError:
        raise ValueError("not valid JSON: brackets are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("not a JSON object")
    return tree


def _check_unicode(value: Any, path: str = "") -> None:
    """Raises ValueError for a text with half of a surrogate pair, which JSON can escape."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start].encode("ascii", "backslashreplace").decode()
            raise ValueError(f"{path}: not Unicode: {half} is half of a surrogate pair") from None
        return
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    else:
        items = enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        _check_unicode(item, f"{path}.{key}" if path else str(key))


def _describe(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    shown = repr(item["input"])
    if item["type"] == "missing":
        return f"{name}: required, but missing"
    return f"{name}: {item['msg']}, got {shown if len(shown) <= 60 else shown[:57] + '...'}"

"""Reads files of word vectors: word2vec's two formats, GloVe's and fastText's. Imports no torch."""

import gzip
import re
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.load import ConfigError
from model.weight_options import PretrainedVectors

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_COUNTS = re.compile(rb"\s*(\d+)\s+(\d+)\s*")
_LONGEST_WORD = 100_000
"""Bytes of a word of a binary file; more means that the file is damaged."""
_MAX_WIDTH = 1 << 16


class Entry(NamedTuple):
    """A word and its vector."""

    word: str
    vector: NDArray[np.float32]
    """[D], finite."""


def read_vectors(config: PretrainedVectors) -> Iterator[Entry]:
    """The entries of `config.path`, all of one width; compressed by gzip or not.

    Raises ConfigError for a file that is missing, cut short or of another format, and for a bad
    line, by its number.
    """
    path = Path(config.path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of word vectors (model.embedding_start.path)")
    try:
        with path.open("rb") as raw:
            is_compressed = raw.read(len(_GZIP)) == _GZIP
        with gzip.open(path) if is_compressed else path.open("rb") as file:
            if file.peek(len(_BOM)).startswith(_BOM):
                file.read(len(_BOM))
            if config.format == "word2vec_binary":
                yield from _read_binary(path, file)
            elif config.format == "glove_text":
                yield from _read_lines(path, file, None, first_line=1)
            else:
                yield from _read_counted_lines(path, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: damaged gzip file: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _counts(path: Path, file: BufferedIOBase, advice: str) -> tuple[int, int]:
    """(words, width) of the first line."""
    line = file.readline(_LONGEST_WORD)
    found = _COUNTS.fullmatch(line)
    if found is None or not 0 < int(found[2]) <= _MAX_WIDTH:
        raise ConfigError(f"{path}: does not start with word2vec's two counts{advice}")
    return int(found[1]), int(found[2])


def _read_counted_lines(path: Path, file: BufferedIOBase) -> Iterator[Entry]:
    """word2vec's text format and fastText's .vec, which have a line of two counts."""
    advice = "; GloVe's files do not either: set model.embedding_start.format: glove_text"
    num_words, width = _counts(path, file, advice)
    number = 0
    for number, entry in enumerate(_read_lines(path, file, width, first_line=2), start=1):
        if number > num_words:
            raise ConfigError(f"{path}:{number + 1}: more lines than the {num_words} it promises")
        yield entry
    if number < num_words:
        raise ConfigError(f"{path}: ends after {number} of the {num_words} words that it promises")


def _read_lines(
    path: Path, file: BufferedIOBase, width: int | None, first_line: int
) -> Iterator[Entry]:
    """A word and its numbers on every line; `width` None: as many as the first line has."""
    blank = 0
    for number, line in enumerate(file, start=first_line):
        # Words may hold spaces (GloVe): numbers are counted from the end. A non-breaking space,
        # and other white space, is no separator.
        fields = line.rstrip(b" \t\r\n").split(b" ")
        if fields == [b""] and not blank:
            blank = number
        if blank and fields != [b""]:
            raise ConfigError(f"{path}:{blank}: not a word and {width} numbers")
        if blank:
            continue  # lines at the end
        if width is None:
            if _COUNTS.fullmatch(line):
                raise ConfigError(
                    f"{path}:1: two counts, as in word2vec's files: set "
                    "model.embedding_start.format: word2vec_text (or fasttext_text)"
                )
            width = len(fields) - 1
        if len(fields) <= width or not width:
            raise ConfigError(f"{path}:{number}: not a word and {width or 'its'} numbers")
        word = b" ".join(fields[: len(fields) - width]).decode("utf-8", errors="replace")
        try:
            vector = np.array([*map(float, fields[len(fields) - width :])], dtype=np.float32)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not a word and {width} numbers: {error}") from None
        yield _checked(Entry(word, vector), f"{path}:{number}")


def _read_binary(path: Path, file: BufferedIOBase) -> Iterator[Entry]:
    num_words, width = _counts(path, file, "")
    for number in range(1, num_words + 1):
        where = f"word {number} of the {num_words} it promises"
        letters = bytearray()
        while (letter := file.read(1)) not in (b" ", b""):
            letters += letter
            if len(letters) > _LONGEST_WORD:
                raise ConfigError(f"{path}: {where} is longer than any word: damaged")
        raw = file.read(4 * width)
        if len(raw) != 4 * width:
            raise ConfigError(f"{path}: ends at {where}")
        word = letters.strip().decode("utf-8", errors="replace")
        yield _checked(Entry(word, np.frombuffer(raw, "<f4")), f"{path}: {where}")
    if file.read(2).strip():
        raise ConfigError(f"{path}: goes on after the {num_words} words that it promises")


def _checked(entry: Entry, where: str) -> Entry:
    if not np.isfinite(entry.vector).all():
        raise ConfigError(f"{where}: the vector of {entry.word!r} has numbers that are not finite")
    return entry

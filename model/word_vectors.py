"""Word vectors from word2vec or GloVe files, mapped on the vocabulary of a tokenizer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.load import ConfigError
from model.weight_options import PretrainedVectors

SPACE = "\u2581"
"""SentencePiece's mark of a space."""


@dataclass(frozen=True)
class WordVectors:
    """Vectors for a part of the vocabulary."""

    matrix: NDArray[np.float32]
    """[V, H]; zero where `found` is False."""
    found: NDArray[np.bool_]
    """[V] which tokens have a vector."""

    @property
    def coverage(self) -> float:
        """Share of the vocabulary that has a vector."""
        return float(self.found.mean())

    def __str__(self) -> str:
        return f"{self.found.sum()} of {len(self.found)} tokens have a vector ({self.coverage:.1%})"


def read_word_vectors(
    config: PretrainedVectors,
    vocabulary: Sequence[str],
    hidden_size: int,
    standard_deviation: float,
) -> WordVectors:
    """The vectors of `config.path` for `vocabulary` (token texts by id, byte-level or WordPiece).

    A token takes the vector of its text without the mark of a preceding space, failing that of
    its lower-case form. Raises ConfigError for a file that is missing, damaged or of a
    different width.
    """
    places = _places_by_word(vocabulary)
    matrix = np.zeros((len(vocabulary), hidden_size), np.float32)
    is_exact = np.zeros(len(vocabulary), bool)
    found = np.zeros(len(vocabulary), bool)
    for word, vector in _read(config):
        if len(vector) != hidden_size:
            raise ConfigError(
                f"{config.path}: the vector of {word!r} has {len(vector)} dimensions, but "
                f"model.hidden_size is {hidden_size}"
            )
        for token_id, exact in places.get(word, ()):
            if exact or not is_exact[token_id]:
                matrix[token_id], found[token_id] = vector, True
                is_exact[token_id] |= exact
    if not found.any():
        raise ConfigError(f"{config.path}: none of its words is in the vocabulary")
    if config.rescale:
        matrix *= standard_deviation / matrix[found].std()
    return WordVectors(matrix, found)


def _places_by_word(vocabulary: Sequence[str]) -> Mapping[str, list[tuple[int, bool]]]:
    """By word: the ids of its tokens, and whether the word is the token's text as it stands."""
    decode = {symbol: byte for byte, symbol in byte_symbols().items()}
    is_word_piece = any(token.startswith("##") and len(token) > 2 for token in vocabulary)
    is_sentence_piece = any(token.startswith(SPACE) for token in vocabulary)
    places: dict[str, list[tuple[int, bool]]] = {}
    for token_id, token in enumerate(vocabulary):
        if not (is_word_piece or is_sentence_piece) and all(symbol in decode for symbol in token):
            text = bytes(decode[symbol] for symbol in token).decode("utf-8", errors="replace")
        else:
            text = token
        word = text.removeprefix("##").removeprefix(SPACE).strip()
        if not word or "\ufffd" in word:
            continue
        places.setdefault(word, []).append((token_id, True))
        if word.lower() != word:
            places.setdefault(word.lower(), []).append((token_id, False))
    return places


def byte_symbols() -> dict[int, str]:
    """The printable symbol that byte-level BPE (GPT-2) writes for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in symbols)
    symbols.update({byte: chr(256 + place) for place, byte in enumerate(rest)})
    return symbols


def _read(config: PretrainedVectors) -> Iterator[tuple[str, NDArray[np.float32]]]:
    path = Path(config.path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of word vectors (model.embedding_start.path)")
    if config.format == "word2vec_binary":
        yield from _read_binary(path)
    else:
        yield from _read_text(path, has_header=config.format == "word2vec_text")


def _read_text(path: Path, has_header: bool) -> Iterator[tuple[str, NDArray[np.float32]]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        if has_header:
            next(lines, None)
        for number, line in enumerate(lines, start=2 if has_header else 1):
            # GloVe has words with spaces in them: the numbers are counted from the end, and a
            # non-breaking space is no separator.
            word, *values = line.rstrip(" \n").split(" ")
            try:
                yield word, np.array(values, dtype=np.float32)
            except ValueError:
                if has_header or len(values) < 2:
                    raise ConfigError(f"{path}:{number}: not a word and its numbers") from None


def _read_binary(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    with path.open("rb") as file:
        header = file.readline().split()
        if len(header) != 2 or not all(part.isdigit() for part in header):
            raise ConfigError(f"{path}: does not start with word2vec's two counts")
        num_words, width = int(header[0]), int(header[1])
        for number in range(num_words):
            letters = bytearray()
            while (letter := file.read(1)) not in (b" ", b""):
                letters += letter
            raw = file.read(4 * width)
            if len(raw) != 4 * width:
                raise ConfigError(f"{path}: ends at word {number} of the {num_words} it promises")
            yield letters.strip().decode("utf-8", errors="replace"), np.frombuffer(raw, "<f4")

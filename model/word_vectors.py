"""Word vectors from word2vec, GloVe or fastText files, mapped on the vocabulary of a tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from configs.load import ConfigError
from model.vector_files import read_vectors
from model.weight_options import PretrainedVectors

CHECKED_ENTRIES = 1_000
"""Of a file of vectors, read before anything is built."""
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
    its lower-case form. Raises ConfigError for a file that is missing, damaged or of a width that
    does not fit.
    """
    places = _places_by_word(vocabulary)
    rows: dict[int, NDArray[np.float32]] = {}
    is_exact = np.zeros(len(vocabulary), bool)
    width: int | None = None
    for word, vector in read_vectors(config):
        if len(vector) != width:
            _check_width(config, word, len(vector), hidden_size)
            width = len(vector)
        for token_id, exact in places.get(word, ()):
            # Of entries for the same word, the first, which is the more frequent word's.
            if token_id not in rows or (exact and not is_exact[token_id]):
                rows[token_id] = vector
                is_exact[token_id] |= exact
    if not rows and width is None:
        raise ConfigError(f"{config.path}: holds no vectors")
    if not rows:
        raise ConfigError(f"{config.path}: none of its words is in the vocabulary")
    found = np.zeros(len(vocabulary), bool)
    ids = np.array(sorted(rows))
    found[ids] = True
    matrix = np.zeros((len(vocabulary), hidden_size), np.float32)
    matrix[ids] = _fitted(np.stack([rows[number] for number in ids.tolist()]), hidden_size, config)
    if config.rescale:
        deviation = matrix[found].std()
        if not deviation:
            raise ConfigError(
                f"{config.path}: all numbers of the {len(rows)} vectors that tokens take are "
                "equal: they cannot be scaled (model.embedding_start.rescale)"
            )
        matrix *= standard_deviation / deviation
    return WordVectors(matrix, found)


def check_vectors(config: PretrainedVectors, hidden_size: int) -> None:
    """Raises ConfigError where the first entries of `config.path` show that they cannot be taken:
    a file that is missing, of another format, or of a width that does not fit."""
    entries = islice(read_vectors(config), CHECKED_ENTRIES)
    first = next(entries, None)
    if first is None:
        raise ConfigError(f"{config.path}: holds no vectors")
    _check_width(config, first.word, len(first.vector), hidden_size)
    for _ in entries:
        pass  # each is checked as it is read


def _check_width(config: PretrainedVectors, word: str, width: int, hidden_size: int) -> None:
    """Raises ConfigError if vectors of `width` dimensions cannot become `hidden_size` wide."""
    if width == hidden_size:
        return
    has = f"{config.path}: the vector of {word!r} has {width} dimensions"
    if config.fit == "exact":
        raise ConfigError(
            f"{has}, but model.hidden_size is {hidden_size}: set model.embedding_start.fit: "
            f"project{' or pad' if width < hidden_size else ''}"
        )
    if config.fit == "pad" and width > hidden_size:
        raise ConfigError(
            f"{has}, more than model.hidden_size {hidden_size}: "
            "model.embedding_start.fit: pad cannot make them shorter, project can"
        )


def _fitted(
    vectors: NDArray[np.float32], hidden_size: int, config: PretrainedVectors
) -> NDArray[np.float32]:
    """[N, H] of `vectors` [N, D]: padded with zeros, or projected by a random matrix."""
    width = vectors.shape[1]
    if width == hidden_size:
        return vectors
    if config.fit == "pad":
        return np.pad(vectors, ((0, 0), (0, hidden_size - width)))
    return _exact_product(vectors, projection(width, hidden_size, config.seed))


def projection(width: int, hidden_size: int, seed: int) -> NDArray[np.float64]:
    """[D, H] a random matrix with orthonormal rows (D <= H: lengths and angles of vectors stay) or
    columns (D > H: they stay about the same, Johnson and Lindenstrauss 1984)."""
    normal = np.random.default_rng(seed).standard_normal(
        (max(width, hidden_size), min(width, hidden_size))
    )
    basis, triangle = np.linalg.qr(normal)
    basis *= np.sign(np.diag(triangle))  # the same one whatever the library's signs
    return basis if width > hidden_size else basis.T


def _exact_product(
    vectors: NDArray[np.float32], matrix: NDArray[np.float64]
) -> NDArray[np.float32]:
    """[N, H] of [N, D] x [D, H], the same to the last bit for any order of the sums.

    The number of threads differs with the tensor-parallel size, and with it the order. On grids of
    fixed point (2^-23 of the greatest value, 2^-20 of the matrix) all products and sums of up to
    512 of them fit in the 53 bits of a double; of wider vectors, the grids are coarser.
    """
    spare = max(0, int(np.ceil(np.log2(vectors.shape[1] / 512))))
    greatest = float(np.abs(vectors).max()) or 1.0
    step = 2.0 ** (np.ceil(np.log2(greatest)) - 23 + spare)
    fixed = np.round(vectors.astype(np.float64) / step) * step
    product: NDArray[np.float64] = fixed @ (np.round(matrix * 2.0**20) / 2.0**20)
    return product.astype(np.float32)


def _places_by_word(vocabulary: Sequence[str]) -> Mapping[str, list[tuple[int, bool]]]:
    """By word: the ids of its tokens, and whether the word is the token's text as it stands."""
    decode = {symbol: byte for byte, symbol in byte_symbols().items()}
    mark = _mark(vocabulary)
    places: dict[str, list[tuple[int, bool]]] = {}
    for token_id, token in enumerate(vocabulary):
        if mark is None and all(symbol in decode for symbol in token):
            text = bytes(decode[symbol] for symbol in token).decode("utf-8", errors="replace")
        else:
            text = token
        word = text.removeprefix(mark or "").strip()
        if not word or "\ufffd" in word:
            continue
        places.setdefault(word, []).append((token_id, True))
        if word.lower() != word:
            places.setdefault(word.lower(), []).append((token_id, False))
    return places


def _mark(vocabulary: Sequence[str]) -> str | None:
    """The mark in front of the tokens of a WordPiece or SentencePiece vocabulary; None for a
    byte-level one. The most frequent mark decides: GPT-2's vocabulary has "####", as text."""
    marks = ("##", SPACE, byte_symbols()[ord(" ")])
    counts = [sum(t.startswith(mark) and len(t) > len(mark) for t in vocabulary) for mark in marks]
    most = max(counts)
    return marks[counts.index(most)] if most > counts[-1] else None


def byte_symbols() -> dict[int, str]:
    """The printable symbol that byte-level BPE (GPT-2) writes for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in symbols)
    symbols.update({byte: chr(256 + place) for place, byte in enumerate(rest)})
    return symbols

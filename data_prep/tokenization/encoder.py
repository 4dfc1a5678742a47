"""The two encoders of texts: gigatoken, and the library `tokenizers` as the reference."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from data_prep.dataset.manifest import SpecialTokens, file_sha256, narrowest_dtype
from data_prep.dataset.tokenizer import read_tree, tokenizer_of_texts
from data_prep.engine.costs import resident_bytes

EncoderKind = Literal["fast", "reference"]

_RENEW_ENCODER_BYTES, _MOST_GROWN_BYTES = 64_000_000, 128_000_000
"""gigatoken 0.10.0 caches words without bound: 25 MB after so many bytes of prose, 900 MB after as
many in which no word repeats. So another encoder replaces it after so many bytes of text, or when
the process has grown by so many since."""
_CHECKED_BYTES = 1 << 14
"""Bytes of a checked document that are encoded both ways: a long one would take minutes."""
_BATCH_BYTES = 1 << 18
"""Text that `tokenizers` encodes in one call, which holds some hundred bytes for each token."""
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_NUMBER = re.compile(r"\d+\W*$")


@dataclass(frozen=True)
class TokenizerContents:
    """A tokenizer file, identified by its content, and what its ids mean."""

    sha256: str
    path: Path = field(compare=False)
    special: SpecialTokens
    vocab_size: int

    @classmethod
    def of(cls, path: Path, special: SpecialTokens, vocab_size: int) -> "TokenizerContents":
        """That of a tokenizer.json."""
        return cls(file_sha256(path), path, special, vocab_size)


@lru_cache(maxsize=1)
def encoder_of(tokenizer: TokenizerContents, kind: EncoderKind) -> "Encoder":
    """The encoder of a tokenizer. Building one takes a quarter of a second, so a process keeps it:
    the trial before the work, that of the stage, and all parts that are encoded have the same."""
    return Encoder(tokenizer, kind)


class Encoder:
    """Encodes batches of texts; special tokens in the text are text."""

    def __init__(self, tokenizer: TokenizerContents, kind: EncoderKind) -> None:
        self.kind = kind
        tree = read_tree(tokenizer.path)
        self._json, self._stems = _fast_json(tree) if kind == "fast" else (b"", ())
        self._reference = tokenizer_of_texts(tree, tokenizer.path, tokenizer.special)
        self.dtype = np.dtype(narrowest_dtype(tokenizer.vocab_size)).newbyteorder("<")
        self._separator = tokenizer.special.eos
        self._fast: Any = None
        self._left_bytes, self._most_resident = 0, sys.maxsize

    def encode(self, texts: Sequence[bytes]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint32]]:
        """The ids of all texts, each followed by a separator, and the lengths without it."""
        if resident_bytes() > self._most_resident:
            self._left_bytes = 0
        ids = self.ids(texts)
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        ends = np.cumsum(lengths + 1)
        result = np.full(ends[-1], self._separator, dtype=self.dtype)
        for array, length, end in zip(ids, lengths.tolist(), ends.tolist(), strict=True):
            result[end - 1 - length : end - 1] = array
        return result, lengths.astype(np.uint32)

    def agrees(self, text: bytes) -> bool:
        """Whether both encoders give the same ids for `text`, or for the start of a long one."""
        if len(text) > _CHECKED_BYTES:
            text = text[:_CHECKED_BYTES].decode("utf-8", "ignore").encode()
        (expected,) = self.reference_ids([text])
        return bool(np.array_equal(self.ids([text])[0], expected))

    def ids(self, texts: Sequence[bytes]) -> list[npt.NDArray[np.uint32]]:
        """The ids of each text, without separators."""
        if self.kind == "reference":
            return self.reference_ids(texts)
        return [
            self.reference_ids([text])[0] if self._may_hold_added(text) else self._fast_ids(text)
            for text in texts
        ]

    def reference_ids(self, texts: Sequence[bytes]) -> list[npt.NDArray[np.uint32]]:
        """The ids of each text by the library `tokenizers`, on one thread."""
        found: list[npt.NDArray[np.uint32]] = []
        with _one_thread():
            for batch in _batches(texts):
                found += self._reference_batch(batch)
        return found

    def _reference_batch(self, texts: Sequence[bytes]) -> list[npt.NDArray[np.uint32]]:
        """The ids of a batch. All else that the library returns is freed before the next one."""
        decoded = [text.decode() for text in texts]
        encodings = self._reference.encode_batch_fast(decoded, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def _may_hold_added(self, text: bytes) -> bool:
        """Whether a text may hold an added token, of which gigatoken knows none."""
        return any(stem in text for stem in self._stems)

    def _fast_ids(self, text: bytes) -> npt.NDArray[np.uint32]:
        if self._left_bytes <= 0:
            import gigatoken

            self._fast = None  # its cache goes before the next one comes
            self._fast = gigatoken.Tokenizer.from_json(self._json)
            self._left_bytes = _RENEW_ENCODER_BYTES
            self._most_resident = resident_bytes() + _MOST_GROWN_BYTES
        self._left_bytes -= len(text)
        ids: npt.NDArray[np.uint32] = self._fast.encode(text)
        return ids


def _fast_json(tree: Mapping[str, Any]) -> tuple[bytes, tuple[bytes, ...]]:
    """What gigatoken reads of a tokenizer.json, and what texts with added tokens hold.

    gigatoken gets the file without added tokens. A special one is no text; the names of the others
    are returned without their final numbers: "[unused" for "[unused1]", "[unused2]", ...
    """
    names = [token["content"] for token in tree["added_tokens"] or () if not token["special"]]
    stems = {(_NUMBER.sub("", name) or name).encode() for name in names}
    least = {stem for stem in stems if not any(s in stem for s in stems if s != stem)}
    without_added = {**tree, "added_tokens": [], "post_processor": None}
    return orjson.dumps(without_added), tuple(sorted(least))


def _batches(texts: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    num_bytes = 0
    for text in texts:
        if batch and num_bytes + len(text) > _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
        batch.append(text)
        num_bytes += len(text)
    if batch:
        yield batch


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps `tokenizers` from taking all cores: every worker process has one thread.

    The library reads the variable at every call; the training of a tokenizer takes all cores.
    """
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before

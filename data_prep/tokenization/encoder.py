"""The two encoders of texts: gigatoken, and `tokenizers` as the reference."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from data_prep.dataset.manifest import narrowest_dtype
from data_prep.dataset.tokenizer import load_tokenizer

_RENEW_ENCODER_BYTES = 256_000_000  # gigatoken 0.10.0 caches words without bound
_CHECKED_BYTES = 1 << 14
"""Bytes of a checked document that are encoded both ways: a long one would take minutes."""


@dataclass(frozen=True)
class TokenizerContents:
    """A tokenizer file, identified by its content."""

    sha256: str
    path: Path = field(compare=False)


@lru_cache(maxsize=1)
def encoder_of(tokenizer: TokenizerContents, kind: Literal["fast", "reference"]) -> "Encoder":
    """The encoder of a tokenizer. Building one takes a quarter of a second, so a worker keeps it
    from part to part."""
    return Encoder(tokenizer.path, kind)


class Encoder:
    """Encodes batches of texts; special tokens in the text are text."""

    def __init__(self, path: Path, kind: Literal["fast", "reference"]) -> None:
        self._kind = kind
        self._reference = load_tokenizer(path)
        tree = orjson.loads(path.read_bytes())
        tree["added_tokens"], tree["post_processor"] = [], None
        self._json = orjson.dumps(tree)
        self.dtype = np.dtype(narrowest_dtype(self._reference.get_vocab_size())).newbyteorder("<")
        self._separator = self._reference.token_to_id("</s>")
        self._left_bytes = 0

    def encode(self, texts: Sequence[bytes]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint32]]:
        """The ids of all texts, each followed by a separator, and the lengths without it."""
        encode = self._fast_ids if self._kind == "fast" else self._reference_ids
        ids = [encode(text) for text in texts]
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
        return bool(np.array_equal(self._fast_ids(text), self._reference_ids(text)))

    def _reference_ids(self, text: bytes) -> npt.NDArray[np.uint32]:
        (encoding,) = self._reference.encode_batch_fast([text.decode()], add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.uint32)

    def _fast_ids(self, text: bytes) -> npt.NDArray[np.uint32]:
        if self._left_bytes <= 0:
            import gigatoken

            self._fast = gigatoken.Tokenizer.from_json(self._json)
            self._left_bytes = _RENEW_ENCODER_BYTES
        self._left_bytes -= len(text)
        ids: npt.NDArray[np.uint32] = self._fast.encode(text)
        return ids

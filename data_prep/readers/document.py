"""What readers give: documents, and the records that could not be read.

Bad input is never passed over in silence: a record that cannot be read is counted under its reason
with its file and offset, or stops the job, as the config says.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from configs.load import UserError

BadRecordPolicy = Literal["skip", "stop"]
_MAX_EXAMPLES = 20
_BATCH_CHARACTERS = 250_000


class Document(NamedTuple):
    """One text and where it came from."""

    text: str
    id: str
    """The record's own id where it has one, else ``FILE:OFFSET``."""
    offset: int
    """Where in the file it begins, as `BadRecords.add` takes it."""


@dataclass
class BadRecords:
    """Records that were set aside, by reason."""

    policy: BadRecordPolicy
    max_document_bytes: int = 1 << 62
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, file_path: str, offset: int, reason: str, detail: str = "") -> None:
        """Counts one bad record; UserError where the policy is to stop.

        `offset` is the byte, or for columnar files the row, at which the record begins.
        """
        if self.policy == "stop":
            raise UserError(
                f"{file_path}: {reason} at offset {offset}"
                + (f" ({detail})" if detail else "")
                + "; mend the file, or set on_bad_record: skip to count such records and go on"
            )
        self.counts[reason] += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(
                {"file": file_path, "offset": offset, "reason": reason, "detail": detail[:200]}
            )

    @property
    def max_raw_bytes(self) -> int:
        """Bytes of a record in its file beyond which it is not even read: markup and escapes may
        take several times the text."""
        return min(8 * self.max_document_bytes, sys.maxsize)

    def add_too_long(self, file_path: str, offset: int, num_bytes: int) -> None:
        """Counts a record that is longer than allowed; `num_bytes` of it are known of."""
        reason = "longer than max_document_mb"
        self.add(file_path, offset, reason, f"{num_bytes:,} or more bytes")

    def is_too_long(self, content: bytes | str, file_path: str, offset: int) -> bool:
        """Whether a document is longer than allowed; then it is counted."""
        limit = self.max_document_bytes
        if len(content) <= limit // 4:
            return False
        if isinstance(content, str) and len(content) <= limit:
            content = content.encode("utf-8", "ignore")
        if len(content) <= limit:
            return False
        self.add_too_long(file_path, offset, len(content))
        return True


def in_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in lists of about 250,000 characters (one longer document is a list)."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        if batch and size + len(document.text) > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document.text)
    if batch:
        yield batch


def decoded(content: bytes, file_path: str, offset: int, bad: BadRecords) -> str | None:
    """`content` as text, or None (counted in `bad`) when it is not UTF-8, holds NUL bytes or is too
    long."""
    if bad.is_too_long(content, file_path, offset):
        return None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        bad.add(file_path, offset + error.start, "not UTF-8", str(error.reason))
        return None
    if "\0" in text:
        bad.add(file_path, offset, "NUL byte")
        return None
    return text

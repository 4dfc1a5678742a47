"""What readers yield: documents, and a count of the records that could not be read.

Bad input is never skipped silently: depending on the config, a record that cannot be read stops the
job, or is counted under its reason, with its file and offset.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from configs.load import UserError
from configs.terminal import visible_name
from data_prep.readers.likely_encoding import SAMPLE_BYTES, likely_encoding, why_not_utf_8

BadRecordPolicy = Literal["skip", "stop"]
BATCH_CHARACTERS = 1_000_000
"""Characters of the documents that are worked on together, and in a row group of a part. Work for
each batch is a millisecond; with a quarter of them, `ingest` took a tenth longer."""
_MAX_EXAMPLES = 20
_SAMPLE_BYTES_OF_RECORD = 1 << 8


class Document(NamedTuple):
    """One text and where it came from."""

    text: str
    id: str
    """The record's own id where it has one, else ``FILE:OFFSET``."""
    offset: int
    """Where in the file it starts, see `BadRecords.add`."""
    metadata: Mapping[str, Any] | None = None
    """The reader's `metadata_fields` that it has; None where none are wanted."""


class UnusedRecord(NamedTuple):
    """A record, or a place of damage, that gave no document."""

    file_path: str
    offset: int
    """As in `BadRecords.add`; -1 where it is not known."""
    state: Literal["bad", "skipped"]
    reason: str
    """The reason, or the kind of what is skipped."""
    detail: str
    num_bytes: int


@dataclass
class BadRecords:
    """Records that are skipped, by reason."""

    policy: BadRecordPolicy
    """Whether a bad record is counted and skipped, or stops the job."""
    max_document_bytes: int = 1 << 62
    """Longest document, bytes of UTF-8; a longer one is a bad record."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of bad records by reason."""
    num_bytes: Counter[str] = field(default_factory=Counter)
    """Their size as far as it was read, by reason; not known where content is missing."""
    not_read_bytes: Counter[str] = field(default_factory=Counter)
    """Bytes of the files that damage keeps from being read, by reason; see `add_damage`."""
    cut_files: dict[str, str] = field(default_factory=dict)
    """Files that end too early, with the reason; how much is missing is not known."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of intact records that hold no text to train on, by kind; see `skip`."""
    skipped_bytes: Counter[str] = field(default_factory=Counter)
    """Their size, by kind."""
    likely_encodings: Counter[str] = field(default_factory=Counter)
    """Encodings that bad records are likely in, with their number, see `add_undecoded`."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """The first bad records: file, offset, reason and detail."""
    report: Callable[[UnusedRecord], None] | None = None
    """Receives every bad or skipped record."""
    passed_restarts: dict[tuple[str, int], int] = field(default_factory=dict)
    """Of compressed files: bytes of the content before each restart that was passed, by path and
    byte of the file, see `data_prep.readers.restarts`."""
    used_restarts: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Byte of the file and offset of the content of each restart at which reading started, by path
    and start of the span."""
    _undecided: bytearray = field(default_factory=bytearray)
    """A sample of what was not decoded, each too short for a guess."""

    def add(
        self, file_path: str, offset: int, reason: str, detail: str = "", num_bytes: int = 0
    ) -> None:
        """Counts one bad record of `num_bytes`; raises UserError if the policy is to stop.

        `offset` is the byte (in columnar files the row, in tables the line) at which the record
        starts.
        """
        self._count(UnusedRecord(file_path, offset, "bad", reason, detail[:200], num_bytes))
        self.num_bytes[reason] += num_bytes

    def add_undecoded(
        self, file_path: str, offset: int, reason: str, content: bytes, detail: str = ""
    ) -> None:
        """Counts a bad record of a file whose `encoding` can be set: the encoding that `content`
        is likely in is named in the detail, and counted. Otherwise like `add`."""
        likely = likely_encoding(content)
        if likely is not None:
            self.likely_encodings[likely] += 1
            detail = f"likely {likely}: set `encoding`"
        elif len(self._undecided) < SAMPLE_BYTES:
            self._undecided += content[:_SAMPLE_BYTES_OF_RECORD]
        self.add(file_path, offset, reason, detail, len(content))

    def guessed_encodings(self) -> dict[str, int]:
        """`likely_encodings`; where each record alone was too short for a guess, by all of them."""
        if self.likely_encodings or not self._undecided:
            return dict(sorted(self.likely_encodings.items()))
        likely = likely_encoding(bytes(self._undecided))
        return {likely: 1} if likely else {}

    def add_damage(
        self, file_path: str, offset: int, reason: str, detail: str = "", num_bytes: int = 0
    ) -> None:
        """Counts one place of damage, which keeps `num_bytes` of the file from being read.

        `num_bytes` are bytes as they lie in the file (compressed, if it is), so that they compare
        with its size. Otherwise like `add`.
        """
        self._count(UnusedRecord(file_path, offset, "bad", reason, detail[:200], num_bytes))
        self.not_read_bytes[reason] += num_bytes

    def add_cut(
        self, file_path: str, offset: int, reason: str, detail: str = "", num_bytes: int = 0
    ) -> None:
        """Counts the end of a file that stops too early: inside a record or a compressed stream, or
        without its footer. `num_bytes` of what is there cannot be read. Otherwise like `add`."""
        self.add_damage(file_path, offset, reason, detail, num_bytes)
        self.cut_files[file_path] = reason

    def add_cut_record(
        self,
        file_path: str,
        offset: int,
        reason: str,
        detail: str,
        num_bytes: int,
        is_plain: bool,
    ) -> None:
        """Counts the last record of a file that ends within it, of `num_bytes`: of the file if it
        `is_plain`, else of its content."""
        if is_plain:
            self.add_damage(file_path, offset, reason, detail, num_bytes)
        else:
            self.add(file_path, offset, reason, detail, num_bytes)
        self.cut_files[file_path] = reason

    def skip(self, kind: str, num_bytes: int = 0, file_path: str = "", offset: int = -1) -> None:
        """Counts an intact record that holds no text to train on, such as a redirect or an image;
        `kind` says what it is, `num_bytes` is its size. With its place, it can be found again."""
        self.skipped[kind] += 1
        self.skipped_bytes[kind] += num_bytes
        if self.report is not None and file_path:
            self.report(UnusedRecord(file_path, offset, "skipped", kind, "", num_bytes))

    def _count(self, record: UnusedRecord) -> None:
        path, offset, _, reason, detail, _ = record
        if self.policy == "stop":
            raise UserError(
                f"{visible_name(path)}: {reason} at offset {offset}"
                + (f" ({detail})" if detail else "")
                + "; fix the file, or set on_bad_record: skip to count such records and continue"
            )
        self.counts[reason] += 1
        if self.report is not None:
            self.report(record)
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(
                {"file": path, "offset": offset, "reason": reason, "detail": detail}
            )

    def has_too_many(
        self, content: bytes, marks: bytes, most: int, file_path: str, offset: int
    ) -> bool:
        """Whether a record of many bytes holds more than `most` of `marks`, which start its values
        or elements; if so, counts it. Parsed, each takes many times its bytes in memory."""
        if len(content) <= most or sum(content.count(mark) for mark in marks) <= most:
            return False
        self.add(file_path, offset, "too many values or elements", num_bytes=len(content))
        return True

    @property
    def max_raw_bytes(self) -> int:
        """Size above which a record is not even read, bytes in the file: markup and escapes may
        take several times the size of the text."""
        return min(8 * self.max_document_bytes, sys.maxsize)

    def add_too_long(self, file_path: str, offset: int, num_bytes: int) -> None:
        """Counts a record that is longer than allowed, of at least `num_bytes`."""
        reason = "longer than max_document_mb"
        self.add(file_path, offset, reason, f"{num_bytes:,} or more bytes", num_bytes)

    def is_too_long(self, content: bytes | str, file_path: str, offset: int) -> bool:
        """Whether a document is longer than allowed; if so, counts it."""
        limit = self.max_document_bytes
        if len(content) <= limit // 4:
            return False
        if isinstance(content, str) and len(content) <= limit:
            content = content.encode("utf-8", "ignore")
        if len(content) <= limit:
            return False
        self.add_too_long(file_path, offset, len(content))
        return True

    def has_nul(self, text: str, file_path: str, offset: int, has_encoding: bool = True) -> bool:
        """Whether a text holds a NUL byte; if so, counts it. `has_encoding`: as in
        `add_undecoded`, else nothing is said of encodings."""
        if "\0" not in text:
            return False
        content = text.encode("utf-8", "ignore")
        if has_encoding:
            self.add_undecoded(file_path, offset, "NUL byte", content)
        else:
            self.add(file_path, offset, "NUL byte", num_bytes=len(content))
        return True


def in_batches(
    documents: Iterable[Document], batch_characters: int = BATCH_CHARACTERS
) -> Iterator[list[Document]]:
    """The documents in lists of about `batch_characters` (a longer document is a list)."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        length = len(document.text)
        if batch and size + length > batch_characters:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += length
    if batch:
        yield batch


def decoded(content: bytes, file_path: str, offset: int, bad: BadRecords) -> str | None:
    """`content` as text; None, counted in `bad`, if it is not UTF-8, holds a NUL byte or is too
    long."""
    if bad.is_too_long(content, file_path, offset):
        return None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        bad.add_undecoded(file_path, at, why_not_utf_8(content), content, error.reason)
        return None
    return None if bad.has_nul(text, file_path, offset) else text

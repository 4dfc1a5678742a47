"""The first records of some files of a source or an evaluation set, read before the work.

However many files a source has, the first bytes of `MAX_KINDS` are looked at, and the first records
of `MAX_READ`, spread over the list: seconds, also at URLs. Of an evaluation set, whose files are
small, `MAX_EVALUATION_FILES` are read.
"""

import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from configs.load import UserError
from configs.terminal import visible_name
from data_prep.readers import ReaderConfig
from data_prep.readers.content import open_content
from data_prep.readers.document import BadRecords, Document, UnusedRecord
from data_prep.readers.files import SourceFile, list_files
from data_prep.readers.kinds import HEAD_BYTES
from data_prep.readers.reader import NoFieldError
from data_prep.readers.signatures import check_format

MAX_KINDS, MAX_READ, MAX_EVALUATION_FILES = 16, 3, 100
_FILES_AT_ONCE = 16
_MOST_SHOWN = 3
"""Problems of a source."""
_DOCUMENTS, _MOST_UNUSED, _MOST_SECONDS = 20, 1000, 5.0
"""Read of a file: up to so many documents, or records that give none."""
_KEPT_CHARACTERS = 1_000
"""Of the text of each: some are as long as `max_document_mb`, and there may be many sources."""


@dataclass
class FirstRecords:
    """What was read of a file."""

    file: SourceFile
    documents: list[Document] = field(default_factory=list)
    bad: BadRecords = field(default_factory=lambda: BadRecords("skip"))
    is_whole: bool = False
    """Whether the file ends there."""

    @property
    def num_read(self) -> int:
        """Records that were read."""
        return len(self.documents) + self.bad.counts.total() + self.bad.skipped.total()


@dataclass
class FirstOfFiles:
    """What was read of the files of one reader."""

    files: list[SourceFile]
    """All files."""
    read: list[FirstRecords]
    problems: list[str]
    """Why files cannot be read at all."""

    @property
    def first(self) -> Document | None:
        """The first document that was read."""
        return next((r.documents[0] for r in self.read if r.documents), None)

    def without_documents(self) -> list[FirstRecords]:
        """The files of which the records at the start are bad, all of them."""
        return [r for r in self.read if not r.documents and r.bad.counts]


class _Enough(BaseException):
    """Ends the reading of a file. No reader takes it for damage."""


@dataclass
class _Unused(BadRecords):
    """Counts records without a document, up to a limit."""

    until: float = field(default_factory=lambda: time.monotonic() + _MOST_SECONDS)

    def check(self) -> None:
        """Raises _Enough at the limit, or when the time is over."""
        unused = self.counts.total() + self.skipped.total()
        if unused >= _MOST_UNUSED or time.monotonic() > self.until:
            raise _Enough

    def skip(self, kind: str, num_bytes: int = 0, file_path: str = "", offset: int = -1) -> None:
        super().skip(kind, num_bytes, file_path, offset)
        self.check()

    def _count(self, record: UnusedRecord) -> None:
        super()._count(record)
        self.check()


def first_of_files(
    reader: ReaderConfig, where: str, max_document_bytes: int, most_read: int = MAX_READ
) -> FirstOfFiles:
    """The first records of up to `most_read` files of `reader`; `where` is its config key."""
    try:
        files = list_files(reader.files, f"{where}.files")
    except UserError as error:
        return FirstOfFiles([], [], [str(error)])
    kinds = spread(files, max(MAX_KINDS, most_read))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        problems = list(pool.map(lambda file: _problem_with_kind(file, reader), kinds))
    readable = [f for f, problem in zip(kinds, problems, strict=True) if problem is None]
    read, found = [], [f"{where}: {problem}" for problem in problems if problem is not None]
    without_field = []
    for file in spread(readable, most_read):
        try:
            read.append(first_records(file, reader, max_document_bytes))
        except NoFieldError as error:
            without_field.append(f"{where}: {error}")
        except Exception as error:
            found.append(f"{where}: {_described(error, file)}")
    if not read:  # where other files have it, records without it are bad records
        found += without_field
    found = list(dict.fromkeys(found))  # a file may have the same problem twice
    if len(found) > _MOST_SHOWN:
        rest = f"{where}: {len(found) - _MOST_SHOWN} more of the opened files cannot be read"
        found = [*found[:_MOST_SHOWN], rest]
    return FirstOfFiles(files, read, found)


def spread(files: Sequence[SourceFile], most: int) -> list[SourceFile]:
    """Up to `most` of the files: the first, the last, and some between."""
    if len(files) <= most:
        return list(files)
    return [files[k * (len(files) - 1) // (most - 1)] for k in range(most)]


def first_records(
    file: SourceFile, reader_config: ReaderConfig, max_document_bytes: int
) -> FirstRecords:
    """The first records of a file. Raises what its reader raises."""
    bad = _Unused("skip", max_document_bytes)
    found = FirstRecords(file, bad=bad)
    documents = _documents(file, reader_config, bad)
    try:
        for document in islice(documents, _DOCUMENTS):
            found.documents.append(document._replace(text=_start(document.text)))
            bad.check()
        found.is_whole = len(found.documents) < _DOCUMENTS
    except _Enough:
        found.is_whole = False
    finally:
        documents.close()
    return found


def _start(text: str) -> str:
    """The first characters of a text; all of it where no word is in them."""
    start = text.lstrip()[:_KEPT_CHARACTERS]
    return start if any(map(str.isalnum, start)) else text


def _documents(
    file: SourceFile, reader_config: ReaderConfig, bad: BadRecords
) -> Generator[Document]:
    reader = reader_config.build()
    for span in reader.spans(file, 1 << 62):
        yield from reader.read(span, bad)


def _problem_with_kind(file: SourceFile, reader: ReaderConfig) -> str | None:
    """Why the reader does not read a file of this kind, by its first bytes."""
    try:
        with open_content(file) as content:
            check_format(content.head(HEAD_BYTES), file.path, reader.type)
    except Exception as error:
        return _described(error, file)
    return None


def _described(error: Exception, file: SourceFile) -> str:
    """An error that the user can fix, in words; raises any other one again."""
    if isinstance(error, UserError):
        return str(error)
    path = visible_name(file.path)
    # Every library for URLs has its own errors.
    if isinstance(error, OSError) or "://" in file.path:
        return f"{path}: {type(error).__name__}: {error}"
    error.add_note(f"while reading {path}, [0, {file.num_bytes})")
    raise error

"""What every reader has: the shared keys of its config, and its two methods."""

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pydantic import Field

from configs.load import Config, UserError
from configs.paths import ConfigPathOrUrl
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span

logger = logging.getLogger(__name__)

_FILES_AT_ONCE = 16


class NoFieldError(UserError):
    """A file lacks the column of texts or ids. `spans` are those by which it is read all the same,
    where other files of the source have it: its records are counted then, and none is a document.
    """

    def __init__(self, message: str, spans: Sequence[Span]) -> None:
        super().__init__(message)
        self.spans = list(spans)


class Reader(Protocol):
    """Reads one format."""

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Spans of `file` of about `part_bytes` that can be read independently.

        Together they yield every document once, in the order of the file, wherever the cuts are.
        Raises UserError for a file that cannot be read, NoFieldError if only a column is missing.
        """

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of one span; records that cannot be read are counted in `bad`."""


def spans_of_files(
    reader: Reader, files: Sequence[SourceFile], part_bytes: int
) -> list[list[Span]]:
    """The spans of each file. Raises NoFieldError if all files lack the column of texts; those that
    lack it while others have it are named in a warning."""

    def spans_of(file: SourceFile) -> tuple[list[Span], NoFieldError | None]:
        try:
            return reader.spans(file, part_bytes), None
        except NoFieldError as error:
            return error.spans, error

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # columnar files are opened for their spans
        found = list(pool.map(spans_of, files))
    errors = [error for _, error in found if error is not None]
    if errors and len(errors) == len(files):
        raise errors[0]
    if errors:
        logger.warning(
            "%d of %d files lack a column, for example %s", len(errors), len(files), errors[0]
        )
    return [spans for spans, _ in found]


class FilesConfig(Config):
    """Base config of all readers: the format and the files."""

    type: str
    """Name of the format."""
    files: tuple[ConfigPathOrUrl, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    members: tuple[str, ...] = ("*",)
    """Of archives (zip, tar), which members are read: globs, in which ``*`` matches ``/`` too."""

    @abstractmethod
    def build(self) -> Reader:
        """The reader."""


class RecordsConfig(FilesConfig):
    """Base config of the readers of records with named fields."""

    text_field: str = "text"
    """Key or column that holds the text, or the dotted path to it (``data.text``, ``pages.0``). A
    list of texts is one text, its elements separated by newlines."""
    id_field: str | None = None
    """Key, column or dotted path of the record's own id. If not given, the id is FILE:PLACE, where
    PLACE is the byte, row or line at which the record starts."""
    metadata_fields: tuple[str, ...] = ()
    """Keys or columns, or dotted paths, that are stored with the documents, and that filters can
    use; what a record lacks is left out."""

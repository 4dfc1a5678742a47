"""What every reader has: the shared keys of its config, and its two methods."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol

from pydantic import Field

from configs.load import Config
from configs.paths import ConfigPathText
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span


class Reader(Protocol):
    """Reads one format."""

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Spans of `file` of about `part_bytes` that can be read independently.

        Together they yield every document once, in the order of the file, wherever the cuts are.
        """

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of one span; records that cannot be read are counted in `bad`."""


class FilesConfig(Config):
    """Base config of all readers: the format and the files."""

    type: str
    """Name of the format."""
    files: tuple[ConfigPathText, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    members: tuple[str, ...] = ("*",)
    """Of archives (zip, tar), which members are read: globs, in which ``*`` matches ``/`` too."""

    @abstractmethod
    def build(self) -> Reader:
        """The reader."""


class RecordsConfig(FilesConfig):
    """Base config of the readers of records with named fields."""

    text_field: str = "text"
    """Key or column that holds the text."""
    id_field: str | None = None
    """Key or column that holds the record's own id. If not given, the id is FILE:PLACE, where PLACE
    is the byte, row or line at which the record starts."""
    metadata_fields: tuple[str, ...] = ()
    """Keys or columns, or dotted paths, that are stored with the documents, and that filters can
    use; what a record lacks is left out."""

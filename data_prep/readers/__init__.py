"""The formats that documents are read from: one file a format, and their union."""

from collections.abc import Iterator
from typing import Annotated, Protocol

from pydantic import Field

from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span
from data_prep.readers.hf_dataset import HfDatasetReaderConfig
from data_prep.readers.jsonl import JsonLinesReaderConfig
from data_prep.readers.mediawiki import MediaWikiReaderConfig
from data_prep.readers.parquet import ParquetReaderConfig
from data_prep.readers.table import TableReaderConfig
from data_prep.readers.text import TextReaderConfig
from data_prep.readers.warc import WarcReaderConfig


class Reader(Protocol):
    """Reads one format."""

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Pieces of `file` of about `part_bytes` that can be read by themselves.

        Together they give every document once, in the order of the file, wherever the cuts are.
        """

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of one span; what cannot be read goes to `bad`."""


ReaderConfig = Annotated[
    TextReaderConfig
    | JsonLinesReaderConfig
    | ParquetReaderConfig
    | TableReaderConfig
    | MediaWikiReaderConfig
    | WarcReaderConfig
    | HfDatasetReaderConfig,
    Field(discriminator="type"),
]

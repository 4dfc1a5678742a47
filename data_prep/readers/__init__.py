"""The formats that documents are read from: one file per format, and their union.

To add a format, write a file with its reader and its config (a `FilesConfig` with a literal
`type`), and add the config to `ReaderConfig`.
"""

from typing import Annotated

from pydantic import Field

from data_prep.readers.hf_dataset import HfDatasetReaderConfig
from data_prep.readers.jsonl import JsonLinesReaderConfig
from data_prep.readers.mediawiki import MediaWikiReaderConfig
from data_prep.readers.parquet import ParquetReaderConfig
from data_prep.readers.table import TableReaderConfig
from data_prep.readers.text import TextReaderConfig
from data_prep.readers.warc import WarcReaderConfig

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

"""The formats that tasks are read from, in one union, and which one a file has."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from configs.load import Config, ConfigError, UserError
from pipeline.finetuning.inputs.arrow import Arrow, Parquet
from pipeline.finetuning.inputs.conll import Conll, ConllU
from pipeline.finetuning.inputs.content import content_of, plain_name
from pipeline.finetuning.inputs.fields import Fields
from pipeline.finetuning.inputs.json_files import JsonFile, JsonLines, read_json_file
from pipeline.finetuning.inputs.plain_lines import PlainLines
from pipeline.finetuning.inputs.record import Record
from pipeline.finetuning.inputs.squad import Squad, is_squad
from pipeline.finetuning.inputs.tables import Csv, Tsv


class Reader(Protocol):
    """What reads the files of one format."""

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The records of a file."""


class Auto(Config):
    """The format that the ending of the file's name stands for."""

    type: Literal["auto"] = "auto"

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The records of a file."""
        reader = format_of(path)
        if isinstance(reader, PlainLines) and "words" in fields.required:
            raise ConfigError(
                f"{path}: lines of words with labels, or of plain text? Set the task's format: "
                "{type: conll} for a word a line, or {type: lines} for a text a line"
            )
        yield from reader.records(path, fields)


InputFormat = Annotated[
    Auto | JsonLines | JsonFile | Tsv | Csv | Squad | Conll | ConllU | Parquet | Arrow | PlainLines,
    Field(discriminator="type"),
]

_BY_ENDING: Mapping[str, Callable[[], Reader]] = {
    **dict.fromkeys((".jsonl", ".ndjson"), JsonLines),
    **dict.fromkeys((".tsv", ".tab"), Tsv),
    ".csv": Csv,
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio", ".bioes"), Conll),
    ".conllu": ConllU,
    **dict.fromkeys((".parquet", ".pq"), Parquet),
    **dict.fromkeys((".arrow", ".feather"), Arrow),
}
_PLAIN_TEXT = ".txt"
"""The ending of plain text, which also files of other formats have."""
_BY_START: Mapping[bytes, Callable[[], Reader]] = {
    b"PAR1": Parquet,
    b"ARROW1": Arrow,
    b"{": JsonLines,
}


def format_of(path: Path) -> Reader:
    """The format of a file by the ending of its name, or else by its first bytes.

    Raises UserError if it cannot be opened, ConfigError where neither tells.
    """
    name = plain_name(path)
    if name.endswith(".json"):
        return _json_format(path)
    for ending, build in _BY_ENDING.items():
        if name.endswith(ending):
            return build()
    with content_of(path) as content:
        start = content.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, build in _BY_START.items():
        if start.startswith(magic):
            return build()
    if name.endswith(_PLAIN_TEXT):
        return PlainLines()
    known = ", ".join((".json", *_BY_ENDING, _PLAIN_TEXT))
    raise ConfigError(
        f"{path}: its name does not end in {known}: set the task's format: {{type: ...}}"
    )


def _json_format(path: Path) -> Reader:
    """SQuAD's form, a list of objects, or, under this name too, JSON lines."""
    try:
        tree = read_json_file(path)
    except UserError as error:
        if "Extra data" in str(error):
            return JsonLines()
        raise
    return Squad() if is_squad(tree) else JsonFile()

"""Columns of words and tags, a word per line and an empty line after each sentence (CoNLL)."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from configs.load import Config, ConfigError
from pipeline.finetuning.inputs.content import not_utf8, text_of
from pipeline.finetuning.inputs.fields import Column, Fields
from pipeline.finetuning.inputs.record import BadRecord, Record

_DOCUMENT = "-DOCSTART-"
_NO_WORD = re.compile(r"\d+[-.]\d+")
"""The id of a range of words or of an empty node in CoNLL-U."""
_SEPARATORS = {"space": re.compile(r"[ \t]+"), "tab": re.compile(r"\t")}
"""No-break spaces and other white space of Unicode may be part of a word."""
_BLANK = {"space": " \t", "tab": ""}


class Conll(Config):
    """One word per line; its columns are numbered, from 1 or, at the end, from -1."""

    type: Literal["conll"] = "conll"

    separator: Literal["space", "tab"] = "space"
    """What stands between two columns: any white space, or a tab."""

    comments: str | None = None
    """What lines that are left out start with, "# " for example (default: none are, since a word
    may be "#")."""

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The sentences of a file."""
        defaults: dict[str, Column] = {"words": 1, "labels": -1}
        yield from _sentences(path, fields, self.separator, self.comments, defaults)


class ConllU(Config):
    """Universal Dependencies: columns between tabs, comments, no ranges of words."""

    type: Literal["conllu"] = "conllu"

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The sentences of a file: the form of each word and, by default, its UPOS."""
        yield from _sentences(path, fields, "tab", "#", {"words": 2, "labels": 4}, has_ids=True)


def _sentences(
    path: Path,
    fields: Fields,
    separator: str,
    comments: str | None,
    defaults: dict[str, Column],
    has_ids: bool = False,
) -> Iterator[Record]:
    columns = _columns_of(fields, defaults, path)
    with text_of(path) as stream:
        lines = enumerate((line.rstrip("\r\n") for line in stream), start=1)
        for is_empty, group in groupby(lines, key=lambda item: not item[1].strip(" \t")):
            if is_empty:
                continue
            rows = [
                (number, _SEPARATORS[separator].split(line.strip(_BLANK[separator])))
                for number, line in group
                if comments is None or not line.startswith(comments)
            ]
            rows = [row for row in rows if row[1][0] != _DOCUMENT]
            if has_ids:
                rows = [row for row in rows if not _NO_WORD.fullmatch(row[1][0])]
            if rows:
                yield _sentence(rows, columns, fields, comments)


def _columns_of(fields: Fields, defaults: dict[str, Column], path: Path) -> dict[str, int]:
    """By field, the number of its column; ConfigError where the config gives names."""
    columns: dict[str, int] = {}
    for name in fields.names:
        source = fields.sources.get(name, defaults.get(name))
        if source is None and name not in fields.required:
            continue
        if not isinstance(source, int) or source == 0:
            raise ConfigError(
                f"{path}: fields.{name}: columns of CoNLL files have no names: number them, 1 for "
                f"the first, -1 for the last, got {source!r}"
            )
        columns[name] = source
    return columns


def _sentence(
    rows: list[tuple[int, list[str]]],
    columns: dict[str, int],
    fields: Fields,
    comments: str | None,
) -> Record:
    first = rows[0][0]
    values: dict[str, Any] = {name: [] for name in columns}
    for number, cells in rows:
        if problem := next((p for cell in cells if (p := not_utf8(cell))), None):
            return Record(f"line {number}", error=BadRecord("syntax", problem))
        for name, column in columns.items():
            index = column - 1 if column > 0 else len(cells) + column
            is_last_of_one = column < 0 and len(cells) < 2
            if 0 <= index < len(cells) and not is_last_of_one:
                values[name].append(cells[index])
            elif fields.is_needed(name):
                return Record(f"line {number}", error=_short(cells, name, column, comments))
    return Record(f"line {first}", {name: found for name, found in values.items() if found})


def _short(cells: list[str], name: str, column: int, comments: str | None) -> BadRecord:
    hint = ""
    if comments is None and cells[0].startswith("#"):
        hint = '; if it is a comment, set format: {type: conll, comments: "#"}'
    return BadRecord("syntax", f"{len(cells)} column(s), {name} are in column {column}{hint}")

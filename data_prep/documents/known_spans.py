"""How large compressed files and those at URLs are cut, remembered from one start to the next.

Looking for the places at which decompression can start may read a whole file, to know the kind of a
file at a URL takes a request, and the first stage is planned at every start. So the spans of such
files are kept in the folder of that stage, by all that they follow from: the file, with its size
and time of change, the settings of its reader and the size of the parts. What is missing or damaged
is looked for again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from configs.load import fingerprint
from data_prep.engine.records import read_checked, write_checked
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span
from data_prep.readers.kinds import Compression
from data_prep.readers.reader import FilesConfig, Reader
from data_prep.readers.restarts import Restart, Sharing, XzRest

_NAME = "spans.json"
_VERSION = 1
"""Raised when code gives other spans, or writes them in another form."""


class KnownSpans:
    """The spans that are remembered in the folder of a stage."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._stored = (read_checked(self._path) or {}).get("spans", {})
        self._used: dict[str, Any] = {}

    def reader(self, config: FilesConfig) -> Reader:
        """The reader of a source, whose spans are those that are remembered."""
        return _RememberingReader(config, self._stored, self._used)

    def write(self) -> None:
        """Keeps the spans that were asked for, and no others."""
        if self._used.keys() != self._stored.keys():
            write_checked(self._path, {"spans": self._used})
            self._stored = dict(self._used)


class _RememberingReader:
    """Gives, and remembers, the spans of large compressed files and of those at URLs; else as the
    reader itself."""

    def __init__(
        self, config: FilesConfig, stored: Mapping[str, Any], used: dict[str, Any]
    ) -> None:
        self._reader = config.build()
        self._settings = config.model_dump(mode="json", exclude={"files"})
        self._stored, self._used = stored, used

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        is_remote = "://" in file.path
        if file.num_bytes <= part_bytes and not is_remote:
            return self._reader.spans(file, part_bytes)
        key = fingerprint([_VERSION, astuple(file), self._settings, part_bytes])
        if key in self._stored:
            self._used[key] = self._stored[key]
            return _spans_in(self._stored[key], file)
        spans = self._reader.spans(file, part_bytes)
        if not spans or not file.modified:
            return spans
        if all(span.sharing is not None for span in spans):
            self._used[key] = _tree_of(spans)
        elif is_remote and all(span.sharing is None for span in spans):
            self._used[key] = {"plain": [[s.start, s.end, s.group_bytes, s.archive] for s in spans]}
        return spans

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        return self._reader.read(span, bad)


def _tree_of(spans: Sequence[Span]) -> dict[str, Any]:
    """The spans of a compressed file as JSON values. The next restarts of each are the restarts of
    the span after it."""
    sharings = [span.sharing for span in spans if span.sharing is not None]
    return {
        "compression": sharings[0].compression,
        "ends": [span.end for span in spans],
        "restarts": [[_numbers(restart) for restart in s.restarts] for s in sharings],
    }


def _spans_in(tree: Mapping[str, Any], file: SourceFile) -> list[Span]:
    if "plain" in tree:
        return [Span(file, *numbers) for numbers in tree["plain"]]
    compression, ends = Compression(tree["compression"]), tree["ends"]
    restarts = [tuple(_restart(*numbers) for numbers in of_span) for of_span in tree["restarts"]]
    return [
        Span(file, start, end, sharing=Sharing(compression, own, following))
        for start, end, own, following in zip(
            [0, *ends[:-1]], ends, restarts, [*restarts[1:], ()], strict=True
        )
    ]


def _numbers(restart: Restart) -> list[Any]:
    raw_at, offset, xz = restart
    return [raw_at, offset] if xz is None else [raw_at, offset, xz.header.hex(), *xz[1:]]


def _restart(raw_at: int, offset: int, header: str | None = None, *xz: int) -> Restart:
    rest = None if header is None else XzRest(bytes.fromhex(header), *xz)
    return Restart(raw_at, offset, rest)

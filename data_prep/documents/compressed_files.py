"""What it costs that compressed files cannot be read from where a part starts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from configs.terminal import visible_name
from data_prep.readers.files import Span
from data_prep.readers.kinds import Compression

_MOST_TIMES = 1.5
"""How often the content of a file may be decompressed before it is worth a notice."""
_SPLIT = "split it before it is compressed (`split -C 1G`)"
_BLOCKS = "recompress it with `xz -T0`, whose blocks are independent"
_ADVICE: Mapping[Compression, str] = {
    Compression.GZIP: f"recompress it with `bgzip`, or {_SPLIT}",
    Compression.ZSTANDARD: f"recompress it in frames with a seek table (`t2sz`), or {_SPLIT}",
    Compression.LZ4: _SPLIT,
    Compression.BZIP2: f"{_BLOCKS}, or with `bgzip`",
    Compression.LZMA: f"{_BLOCKS}, or with `bgzip`",
    Compression.XZ: _BLOCKS,
}
"""What makes a file one of many parts."""


class _File(NamedTuple):
    path: str
    num_bytes: int
    num_spans: int
    times: float
    """How often its content is decompressed, all spans together."""


def poorly_shared(parts: Iterable[Sequence[Span]]) -> Iterator[str]:
    """A line for each compression, about its large files of lines that only one worker can read, or
    that several workers decompress more than once; by the spans of all parts."""
    spans_of: dict[str, list[Span]] = defaultdict(list)
    for span in chain.from_iterable(parts):
        if span.sharing is not None:
            spans_of[span.file.path].append(span)
    files: dict[Compression, list[_File]] = defaultdict(list)
    for of_file in spans_of.values():
        file = _file_of(of_file)
        assert of_file[0].sharing is not None
        if file.num_spans == 1 or file.times > _MOST_TIMES:
            files[of_file[0].sharing.compression].append(file)
    for compression, found in sorted(files.items()):
        yield _line(compression, found)


def _file_of(spans: Sequence[Span]) -> _File:
    file, num_read = spans[0].file, 0
    for span in spans:
        restarts = span.sharing.restarts if span.sharing is not None else ()
        num_read += span.end - (restarts[0].raw_at if restarts else 0)
    return _File(file.path, file.num_bytes, len(spans), num_read / file.num_bytes)


def _line(compression: Compression, files: Sequence[_File]) -> str:
    largest = max(files, key=lambda file: file.num_bytes)
    num_bytes = sum(file.num_bytes for file in files)
    times = sum(file.times * file.num_bytes for file in files) / num_bytes
    what, which, it = f"one {compression} file", "", "it"
    if len(files) > 1:
        what, which, it = f"{len(files):,} {compression} files", "the largest is ", "the largest"
    workers = f"{largest.num_spans} workers" if largest.num_spans > 1 else "one worker"
    return (
        f"{what} ({num_bytes / 1e6:,.0f} MB; {which}{visible_name(largest.path)}) cannot be read "
        f"from many places: {workers} at most can share {it}, and the content is decompressed "
        f"{times:.1f} times in all; if that is too slow, {_ADVICE[compression]}"
    )

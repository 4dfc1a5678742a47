"""How compressed files of lines are cut into spans, and from where each of these is read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from data_prep.readers.compression import CHUNK_BYTES
from data_prep.readers.files import SourceFile, Span, byte_spans, in_windows, open_ranges
from data_prep.readers.frame_starts import (
    lz4_starts,
    seek_table_starts,
    starts_with_dictionary,
    zstandard_starts,
)
from data_prep.readers.gzip_starts import gzip_starts
from data_prep.readers.kinds import Compression
from data_prep.readers.restarts import (
    Restart,
    Sharing,
    longest_part,
    restarts_between,
    thinned,
)
from data_prep.readers.xz_blocks import xz_starts

MAX_SPANS_OF_PART = 8
"""Most spans into which an independent part of a file is cut."""
_SLOW = (Compression.BZIP2, Compression.XZ, Compression.LZMA)
"""What takes so long to decompress that a part is not cut."""
_PARTS_OF_SPACING = 64


def compressed_spans(
    file: SourceFile,
    compression: Compression | None,
    part_bytes: int,
    chunk_bytes: int = CHUNK_BYTES,
    is_shared: bool = True,
) -> list[Span]:
    """Spans of whole raw chunks of a file of lines that is not plain, none but the last smaller
    than four times `part_bytes`.

    The reader of a span decompresses, and discards, what is between it and the start of an
    independent part of the file before it. So n spans of one part decompress that part (n + 1) / 2
    times. This is cheap compared with what is done with the documents, but not for any n, and the
    last span never takes less time than decompressing the whole part: hence at most eight.
    Decompressing bzip2 takes half of the total time, too much to repeat: a part of a bzip2 or xz
    file is not cut. A small file is not worth cutting, as other files run in parallel with it.

    With `is_shared` false, as for texts that are not in UTF-8, whose decoder has to start with the
    file, the file is one part.
    """
    least_bytes = 4 * part_bytes
    is_shared = is_shared and compression is not None and file.num_bytes > least_bytes
    starts: list[Restart] = []
    if compression is not None and is_shared:
        starts = restarts_of(file, compression, part_bytes // _PARTS_OF_SPACING)
    longest = longest_part(starts, file.num_bytes)
    step = max(least_bytes, longest if compression in _SLOW else -(-longest // MAX_SPANS_OF_PART))
    spans = byte_spans(file, -(-step // chunk_bytes) * chunk_bytes)
    return _shared(spans, compression, starts) if compression and is_shared else spans


def _shared(spans: list[Span], compression: Compression, starts: Sequence[Restart]) -> list[Span]:
    """The spans with the restarts of their readers; those of a span are within the one before,
    whose reader passes them."""
    restarts = [
        (),
        *(restarts_between(starts, before.start, span.start) for before, span in pairwise(spans)),
    ]
    return [
        replace(span, sharing=Sharing(compression, own, following))
        for span, own, following in zip(spans, restarts, [*restarts[1:], ()], strict=True)
    ]


def restarts_of(file: SourceFile, compression: Compression, spacing: int) -> list[Restart]:
    """Where decompression of `file` can start again, as it says itself, at distances of at least
    `spacing` bytes; as far as this is known without decompressing it.

    Of a URL, only the tables at the ends of zstandard and xz files are fetched. Frames and members
    of other files are looked for up to one that takes more than an eighth of the file: there is
    nothing to gain by what follows it.
    """
    with open_ranges(file) as read_at:
        found = _starts(read_at, file, compression)
        return list(thinned(found, max(spacing, 1)))


def _starts(
    read_at: Callable[[int, int], bytes], file: SourceFile, compression: Compression
) -> Iterator[Restart]:
    num_bytes = file.num_bytes
    longest = -(-num_bytes // MAX_SPANS_OF_PART)
    is_local = "://" not in file.path
    match compression:
        case Compression.XZ:
            yield from xz_starts(read_at, num_bytes)
        case Compression.ZSTANDARD if not starts_with_dictionary(read_at):
            has_table = False
            for start in seek_table_starts(read_at, num_bytes):
                has_table = True
                yield start
            if is_local and not has_table:
                yield from zstandard_starts(in_windows(read_at), num_bytes, longest)
        case Compression.GZIP if is_local:
            yield from gzip_starts(in_windows(read_at), num_bytes, longest)
        case Compression.LZ4 if is_local:
            yield from lz4_starts(in_windows(read_at), num_bytes, longest)
        case _:
            return

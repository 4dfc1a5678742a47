"""Lines of files, compressed or not, with their byte spans."""

import io
import sys
from collections.abc import Iterator
from typing import BinaryIO

from data_prep.readers.compression import chunks_of, compressed_spans, is_compressed
from data_prep.readers.document import BadRecords
from data_prep.readers.files import SourceFile, Span, byte_spans

_SKIPPED_BYTES = 1 << 20


def line_spans(file: SourceFile, part_bytes: int) -> list[Span]:
    """Spans for `lines_in`."""
    cut = compressed_spans if is_compressed(file.name) else byte_spans
    return cut(file, part_bytes)


def lines_in(
    stream: BinaryIO, span: Span, bad: BadRecords, run_on: bool = False
) -> Iterator[tuple[int, bytes]]:
    """(offset, line with its newline) of every line that begins in `span`.

    With `run_on`, the lines after the span too, unless the file is compressed. There offsets count
    decompressed bytes, a line begins in the span that holds the raw chunk that its first byte comes
    from, and what follows damage is one bad record of the span in which the damage shows.
    """
    if is_compressed(span.file.name):
        return _lines_of_chunks(stream, span, bad)
    return _lines_of_bytes(stream, span, bad, run_on)


def _lines_of_bytes(
    stream: BinaryIO, span: Span, bad: BadRecords, run_on: bool
) -> Iterator[tuple[int, bytes]]:
    offset = span.start
    longest = bad.max_raw_bytes
    stream.seek(max(0, span.start - 1))
    if span.start > 0:
        offset = _end_of_line(stream, span.start - 1, span.end)
    while run_on or offset < span.end:
        line = stream.readline(longest)
        if not line:
            return
        if len(line) == longest and not line.endswith(b"\n"):
            bad.add_too_long(span.file.path, offset, len(line))
            enough = sys.maxsize if run_on else span.end
            offset = _end_of_line(stream, offset + len(line), enough)
            continue
        yield offset, line
        offset += len(line)


def _end_of_line(stream: BinaryIO, position: int, enough: int) -> int:
    """Where the line that `stream` stands in, at `position`, ends; or a place at or beyond `enough`
    inside it. However long the line, little memory is taken."""
    while position < enough:
        rest = stream.readline(_SKIPPED_BYTES)
        position += len(rest)
        if not rest or rest.endswith(b"\n"):
            break
    return position


def _lines_of_chunks(stream: BinaryIO, span: Span, bad: BadRecords) -> Iterator[tuple[int, bytes]]:
    offset = 0  # of what is held: a line without its end, in pieces
    held: list[bytes] = []
    is_rest = False  # what is held, or comes next, is the rest of a line that began before the span
    for raw_at, content, error in chunks_of(stream, span.file.name):
        follows_span = raw_at >= span.end
        if error is not None:
            # A truncated file ends behind its last byte, which only the last span can answer for.
            if raw_at >= span.start and (not follows_span or span.end >= span.file.num_bytes):
                offset += sum(map(len, held))
                reason = "damaged or truncated compression"
                bad.add(span.file.path, offset, reason, str(error))
            return
        if follows_span and (is_rest or not held):
            return
        if not content:
            continue
        if raw_at < span.start:
            offset += len(content)
            is_rest = not content.endswith(b"\n")
            continue
        cut = 1 + (content.find(b"\n") if follows_span else content.rfind(b"\n"))
        if not cut:
            held.append(content)
            num_bytes = sum(map(len, held))
            if not is_rest and num_bytes >= bad.max_raw_bytes:
                bad.add_too_long(span.file.path, offset, num_bytes)
                is_rest = True
            if is_rest:
                offset += num_bytes
                held = []
            continue
        lines = io.BytesIO(b"".join((*held, content[:cut])))
        held = [content[cut:]] if cut < len(content) else []
        if is_rest:
            offset += len(lines.readline())
            is_rest = False
        for line in lines:
            yield offset, line
            offset += len(line)
        if follows_span:
            return
    if held and not is_rest:
        yield offset, b"".join(held)

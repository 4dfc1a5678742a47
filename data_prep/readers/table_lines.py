r"""The lines of a whole table, which may end in \n, \r\n or \r, as Python's csv module has them."""

from collections.abc import Iterator

from data_prep.readers.content import Content
from data_prep.readers.document import BadRecords
from data_prep.readers.url_stream import expect

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def table_lines(content: Content, chunk_bytes: int, bad: BadRecords) -> Iterator[bytes | None]:
    """The lines with their ends; None stands for damage, which is counted, and what it takes."""
    held: list[bytes] = []  # of the line that has not ended
    num_held = offset = 0
    is_skipping, is_start = False, True  # `num_held` counts what is skipped of a line as well
    path = content.file.path
    expect(content.raw, (0, content.file.num_bytes))
    for chunk in content.chunks(chunk_bytes):
        if chunk.error is not None:
            if is_skipping:
                bad.add_too_long(path, offset - num_held, num_held)
            chunk.error.count(bad, path, offset)
            held, num_held, is_skipping = [], 0, False
            yield None
            continue
        piece = chunk.content
        offset += len(piece)
        if b"\n" not in piece and b"\r" not in piece and not (held and held[-1].endswith(b"\r")):
            num_held += len(piece)
            if not is_skipping and piece:
                held.append(piece)
                if num_held >= bad.max_raw_bytes:
                    held, is_skipping = [], True
            continue
        lines = b"".join((*held, piece)).splitlines(keepends=True)
        if is_start:
            lines[0], is_start = lines[0].removeprefix(_BYTE_ORDER_MARK), False
        if is_skipping:
            line_at = offset - len(piece) - num_held
            bad.add_too_long(path, line_at, num_held + len(lines.pop(0)))
            is_skipping = False
        rest = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        yield from lines
        held, num_held = ([rest], len(rest)) if rest else ([], 0)
    if is_skipping:
        bad.add_too_long(path, offset - num_held, num_held)
    last = b"".join(held)
    if last:
        yield last.removeprefix(_BYTE_ORDER_MARK) if is_start else last


def has_only_returns(content: Content, num_bytes: int, chunk_bytes: int) -> bool:
    r"""Whether the lines of the content end in \r alone, by its first bytes."""
    head = content.head(num_bytes, chunk_bytes)
    return b"\r" in head.rstrip(b"\r") and b"\n" not in head

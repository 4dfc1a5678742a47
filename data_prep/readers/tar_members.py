"""The members of tar archives, read from the start to the end of a stream.

The standard library's reader ends without an error at a damaged header, at the end of the first of
several archives in one file, and holds headers of any size in memory. So only single headers are
parsed by it.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from data_prep.readers.archive_members import DAMAGED_ARCHIVE, Member, is_metadata, printable
from data_prep.readers.compression import Damage
from data_prep.readers.document import BadRecords

_BLOCK = tarfile.BLOCKSIZE
_MAX_HEADER_BYTES = 1 << 20
"""Of the names and attributes that stand in blocks of their own before a member."""
_SKIP_BYTES = 1 << 16
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_KINDS = {
    tarfile.DIRTYPE: "folder",
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
}


@dataclass
class _Attributes:
    """What precedes a member: a long name, or pax records."""

    name: str | None = None
    num_bytes: int | None = None
    is_sparse: bool = False
    records: dict[str, str] = field(default_factory=dict)


class TarMembers:
    """The members of a tar archive; several archives one after another are read as one."""

    def __init__(self, stream: io.BufferedReader, path: str, bad: BadRecords) -> None:
        self._stream, self._path, self._bad = stream, path, bad
        self._position = 0
        self._held = b""
        """A header that was read, but not used."""
        self._can_seek = stream.seekable()
        self._is_cut = False
        self._cut = Damage(
            "the archive ends inside a member", 0, is_cut=True, reason=DAMAGED_ARCHIVE
        )

    def members(self, start: int, end: int) -> Iterator[Member]:
        """The members whose headers start in [start, end); the stream of one is read before the
        next is asked for. Damage is counted if it is there, too."""
        attributes = _Attributes()
        has_ended = self._is_cut = False
        header_at = 0
        while True:
            at = self._position
            block = self._read(_BLOCK)
            if len(block) < _BLOCK:
                break
            if not block.strip(b"\0"):
                has_ended, attributes = True, _Attributes()
                continue
            if attributes.name is None and not attributes.records:
                header_at = at
            if header_at >= end:
                return
            is_ours = header_at >= start
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                if not self._is_attributes(header, attributes):
                    self._skip_sparse_map(header, block)
                    yield from self._member(header, attributes, header_at, is_ours)
                    attributes = _Attributes()
            except (tarfile.HeaderError, _HeaderTooLargeError) as error:
                self._skip_to_header()
                lost = self._position - header_at
                if is_ours:
                    self._bad.add_damage(self._path, header_at, DAMAGED_ARCHIVE, str(error), lost)
                attributes = _Attributes()
            has_ended = False
        is_cut = not has_ended or block.strip(b"\0")
        if is_cut and not self._is_cut and start <= self._position <= end:
            detail, num_bytes = "the end of the archive is missing", len(block)
            self._bad.add_cut(self._path, self._position, DAMAGED_ARCHIVE, detail, num_bytes)

    def _member(
        self, header: tarfile.TarInfo, attributes: _Attributes, at: int, is_ours: bool
    ) -> Iterator[Member]:
        """The member of a header, if it is in the span; moves on to the next header."""
        name = printable(attributes.name or header.name)
        num_bytes = max(0, header.size if attributes.num_bytes is None else attributes.num_bytes)
        if header.type in _KINDS:
            num_bytes = 0
        content_at = self._position
        if is_ours:
            content = _MemberContent(self, num_bytes)
            member = Member(name, at, num_bytes, None)
            if header.type == tarfile.GNUTYPE_SPARSE or attributes.is_sparse:
                yield member._replace(problem="sparse member of an archive")
            elif header.type in _KINDS or (header.type not in _REGULAR and not num_bytes):
                kind = _KINDS.get(header.type, "label")
                yield member._replace(skipped=f"{kind} in an archive")
            elif header.type not in _REGULAR:  # such as the rest of a file of another volume
                yield member._replace(problem="entry of unknown type in an archive")
            elif is_metadata(name):
                yield member._replace(skipped="macOS metadata in an archive")
            elif name.endswith("/"):  # how folders are written in the oldest archives
                yield member._replace(skipped="folder in an archive")
            else:
                yield member._replace(stream=content)
        padded = -(-num_bytes // _BLOCK) * _BLOCK
        self._skip(content_at + padded, cut_from=content_at + num_bytes, is_ours=is_ours)

    def _is_attributes(self, header: tarfile.TarInfo, attributes: _Attributes) -> bool:
        """Whether a header holds attributes of the next one, which are read."""
        if header.type not in (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        ):
            return False
        if not 0 <= header.size <= _MAX_HEADER_BYTES:
            raise _HeaderTooLargeError(f"attributes of {header.size:,} bytes")
        content = self._read(-(-header.size // _BLOCK) * _BLOCK)[: header.size]
        if header.type == tarfile.GNUTYPE_LONGNAME:
            attributes.name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            attributes.records.update(_pax_records(content))
            attributes.name = attributes.records.get("path", attributes.name)
            size = attributes.records.get("size", "")
            attributes.num_bytes = int(size) if size.isdecimal() else attributes.num_bytes
            attributes.is_sparse = any(key.startswith("GNU.sparse") for key in attributes.records)
        return True

    def _skip_sparse_map(self, header: tarfile.TarInfo, block: bytes) -> None:
        more_at = 482
        while header.type == tarfile.GNUTYPE_SPARSE and block[more_at : more_at + 1].strip(b"\0"):
            block, more_at = self._read(_BLOCK), 504

    def read_content(self, num_bytes: int) -> bytes:
        """Up to `num_bytes` of what follows; raises `Damage` at the end of the archive."""
        content = self._stream.read1(num_bytes)
        if not content:
            raise self._cut
        self._position += len(content)
        return content

    def _read(self, num_bytes: int) -> bytes:
        content = self._held + self._stream.read(num_bytes - len(self._held))
        self._position += len(content) - len(self._held)
        self._held = b""
        return content

    def _skip(self, position: int, cut_from: int, is_ours: bool) -> None:
        """Moves on to `position`; counts a cut if the archive ends before `cut_from`."""
        if self._can_seek and position - self._position > _SKIP_BYTES:
            end = self._stream.seek(0, io.SEEK_END)
            self._position = self._stream.seek(min(position, end))
        while self._position < position:
            if not self._read(min(_SKIP_BYTES, position - self._position)):
                break
        self._is_cut = self._position < cut_from
        if self._is_cut and is_ours:
            self._cut.count(self._bad, self._path, self._position)

    def _skip_to_header(self) -> None:
        """Moves on to the next block that is a header."""
        while len(block := self._read(_BLOCK)) == _BLOCK:
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                continue
            self._held = block
            self._position -= len(block)
            break


class _MemberContent(io.RawIOBase):
    """The content of the member at which the archive is."""

    def __init__(self, archive: TarMembers, num_bytes: int) -> None:
        self._archive, self._left = archive, num_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            return 0
        content = self._archive.read_content(min(len(buffer), self._left))
        buffer[: len(content)] = content
        self._left -= len(content)
        return len(content)


class _HeaderTooLargeError(Exception):
    """Attributes of a member that are not held in memory."""


def _pax_records(content: bytes) -> Iterator[tuple[str, str]]:
    """(key, value) of the records of a pax header: lines of LENGTH KEY=VALUE."""
    at = 0
    while (space := content.find(b" ", at)) > at and content[at:space].isdigit():
        end = at + int(content[at:space])
        key, _, value = content[space + 1 : end - 1].partition(b"=")
        yield (
            key.decode("utf-8", "surrogateescape"),
            value.decode("utf-8", "surrogateescape"),
        )
        if end <= space:
            return
        at = end

"""Reads the members of archives as files of their own, by the reader of any format.

    corpus.tar.gz                        ids
      news/                              (skipped: folder)
      news/a.jsonl                       corpus.tar.gz!news/a.jsonl:0, ...
      news/b.jsonl.zst                   corpus.tar.gz!news/b.jsonl.zst:0, ...

A member belongs to the span that holds its first byte in the file. A compressed tar archive is one
span: what lies in it is found by decompressing everything before it only.
"""

import io
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import cast

from configs.load import UserError
from configs.terminal import visible_name
from data_prep.readers.archive_members import Member
from data_prep.readers.compression import Damage
from data_prep.readers.content import (
    Content,
    MemberFile,
    head_of_member,
    open_content,
)
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, byte_spans, head_of
from data_prep.readers.frames import needs_dictionary
from data_prep.readers.kinds import HEAD_BYTES, Archive, archive_by, compression_by
from data_prep.readers.reader import FilesConfig, Reader
from data_prep.readers.signatures import check_format, format_of
from data_prep.readers.tar_members import TarMembers
from data_prep.readers.url_stream import expect
from data_prep.readers.zip_members import ZipMembers

_WHOLE = 1 << 62
_MAX_SPANS = {Archive.TAR: 8, Archive.ZIP: 64}
"""Every span reads the directory of a zip archive, and walks a tar archive from its start."""
_BUFFER_BYTES = 1 << 17


class _UnreadableError(Exception):
    """A member of an archive is of a kind that its reader does not read; its text names it."""


class ArchiveReader:
    """Reads files by the reader of their format, archives member by member."""

    def __init__(self, reader: Reader, config: FilesConfig) -> None:
        self._reader, self._type, self._patterns = reader, config.type, config.members

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Those of the reader, or spans of whole members. Raises UserError for a file that the
        reader cannot read, whatever is in it."""
        head, is_compressed = self._head_of_content(file)
        archive = archive_by(head, file.name)
        if archive is None:
            return self._reader.spans(file, part_bytes)
        if is_compressed and archive is Archive.ZIP:
            raise UserError(
                f"{visible_name(file.path)}: is a compressed zip archive; decompress it"
            )
        if is_compressed:
            return [Span(file, 0, file.num_bytes, archive=archive)]
        step = max(4 * part_bytes, -(-file.num_bytes // _MAX_SPANS[archive]))
        return [
            Span(file, span.start, span.end, archive=archive) for span in byte_spans(file, step)
        ]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of one span."""
        if span.archive is None:
            yield from self._reader.read(span, bad)
            return
        with open_content(span.file) as content:
            members = _members_of(content, Archive(span.archive), span, bad)
            while True:
                try:
                    member = next(members, None)
                except Damage as damage:
                    damage.count(bad, span.file.path, span.start)
                    return
                if member is None:
                    return
                yield from self._documents(member, span.file, bad)

    def _head_of_content(self, file: SourceFile) -> tuple[bytes, bool]:
        """(first bytes of a file, decompressed; whether it is compressed); raises UserError for a
        file of a kind that is not read."""
        head, path = head_of(file, HEAD_BYTES), visible_name(file.path)
        check_format(head, file.path, self._type)
        if compression_by(head, file.name) is None:
            return head, False
        if needs_dictionary(head):
            raise UserError(
                f"{path}: is compressed with a dictionary that is not in the file; decompress it"
            )
        with open_content(file) as content:
            head = content.head(HEAD_BYTES)[:HEAD_BYTES]
        check_format(head, file.path, self._type)
        if compression_by(head) is not None:
            raise UserError(f"{path}: is compressed twice; decompress it once")
        return head, True

    def _documents(
        self, member: Member, archive: SourceFile, bad: BadRecords
    ) -> Iterator[Document]:
        path = f"{archive.path}!{member.name}"
        if member.problem:
            bad.add_damage(path, 0, member.problem, num_bytes=member.num_bytes)
        elif member.stream is None:
            bad.skip(member.skipped, member.num_bytes, path, 0)
        elif not any(fnmatchcase(member.name, pattern) for pattern in self._patterns):
            bad.skip("member not in `members`", member.num_bytes, path, 0)
        else:
            stream: io.BufferedReader = io.BufferedReader(member.stream, _BUFFER_BYTES)
            file = MemberFile(
                path,
                f"{archive.name}!{member.name}",
                member.num_bytes,
                archive.modified,
                stream=stream,
                check=self._check_content,
            )
            try:
                head = head_of_member(stream)
                if compression_by(head) is None:
                    self._check_content(head)
                yield from self._reader.read(Span(file, 0, _WHOLE), bad)
            except _UnreadableError as error:
                bad.add_damage(path, 0, f"{error} in an archive", num_bytes=member.num_bytes)

    def _check_content(self, head: bytes) -> None:
        """Raises `_UnreadableError` for the first bytes of a member that the reader does not
        read."""
        found = format_of(head, self._type)
        if (archive := archive_by(head)) is not None:
            raise _UnreadableError(f"a {archive} archive")
        if compression_by(head) is not None:
            raise _UnreadableError("a file that is compressed twice")
        if found is not None:
            raise _UnreadableError(found.name)


def _members_of(
    content: Content, archive: Archive, span: Span, bad: BadRecords
) -> Iterator[Member]:
    path = span.file.path
    is_compressed = content.compression is not None
    end = _WHOLE if is_compressed else span.end
    if not is_compressed:
        expect(content.raw, (span.start, span.end))
    if archive is Archive.ZIP and not is_compressed:
        return ZipMembers(content.raw, path, bad).members(span.start, end)
    stream = content.stream() if is_compressed else cast(io.BufferedReader, content.raw)
    return TarMembers(stream, path, bad).members(span.start, end)

"""Plain text: a file, a section, a paragraph or a line is a document."""

import codecs
import sys
from collections.abc import Iterator
from typing import BinaryIO, Literal

from pydantic import Field

from data_prep.readers.archives import ArchiveReader
from data_prep.readers.content import Content, kind_of, open_content
from data_prep.readers.document import BadRecords, Document, decoded
from data_prep.readers.encodings import Encoding
from data_prep.readers.files import SourceFile, Span, byte_spans
from data_prep.readers.lines import LineFiles
from data_prep.readers.reader import FilesConfig, Reader

_LOOK_BACK_BYTES = 1 << 16


class TextReaderConfig(FilesConfig):
    """Text files, plain, compressed or in archives."""

    type: Literal["text"]
    encoding: Encoding | None = None
    """Encoding of the files, such as utf-16 or cp1252; by default a byte order mark decides, or
    else UTF-8."""
    document: Literal["file", "section", "paragraph", "line"] = "file"
    """What makes a document. Paragraphs end at blank lines; a section is the paragraphs that start
    within the same `section_bytes` of the file."""
    section_bytes: int = Field(default=8192, ge=256)
    """Length of a section, bytes."""

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(TextReader(self), self)


class TextReader:
    """Reads plain text."""

    def __init__(self, config: TextReaderConfig, files: LineFiles | None = None) -> None:
        self._unit = config.document
        self._section_bytes = config.section_bytes
        self._files = files or LineFiles(encoding=config.encoding)

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a document belongs to the range in which it starts.

        A compressed file is one span, unless its lines are the documents.
        """
        if self._unit == "line":
            return self._files.spans(file, part_bytes)
        if self._unit == "file" or not kind_of(file, self._files.encoding).is_plain:
            return [Span(file, 0, file.num_bytes)]
        align = self._section_bytes if self._unit == "section" else 1
        return byte_spans(file, part_bytes, align)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents that start in `span`."""
        path = span.file.path
        with open_content(span.file, self._files.encoding) as content:
            for offset, document, num_bytes in self._contents(content, span, bad):
                if num_bytes > len(document):
                    bad.add_too_long(path, offset, num_bytes)
                    continue
                if offset == 0:
                    document = document.removeprefix(codecs.BOM_UTF8)
                text = decoded(document, path, offset, bad)
                if text is not None and (text.strip() or self._unit == "file"):
                    yield Document(text, f"{span.file.name}:{offset}", offset)

    def _contents(
        self, content: Content, span: Span, bad: BadRecords
    ) -> Iterator[tuple[int, bytes, int]]:
        """(offset, bytes, size) of each document; of one that is too long, only its start."""
        if self._unit == "file":
            document = _Pieces(bad.max_document_bytes)
            for _, line in self._files.lines_in(content, span, bad):
                document.append(line)
            yield 0, document.joined(), document.num_bytes
        elif self._unit == "line":
            for offset, line in self._files.lines_in(content, span, bad):
                yield offset, line, len(line)
        else:
            yield from self._sections(content, span, bad)

    def _sections(
        self, content: Content, span: Span, bad: BadRecords
    ) -> Iterator[tuple[int, bytes, int]]:
        r"""Paragraphs, or groups of paragraphs that start in the same section.

        A paragraph starts at a line after a blank one, and belongs to the span in which it starts::

            one\n one\n \n two\n two\n \n three\n
            [---- span 0 ---)[----- span 1 -----)

        Span 0 gives "one one" and "two two", and for this reads up to the start of "three". Span 1
        skips the rest of the paragraph that it starts in, and gives "three".
        """
        section_bytes = self._section_bytes if self._unit == "section" else 1
        # Offsets in a file that is not plain, which is one span, count bytes of the content.
        end = span.end if content.is_plain else sys.maxsize
        document = _Pieces(bad.max_document_bytes)
        document_at = 0
        is_after_blank = span.start == 0 or _line_before_is_blank(content.raw, span.start)
        for offset, line in self._files.lines_in(content, span, bad, run_on=True):
            is_blank = not line.strip()
            starts_paragraph = is_after_blank and not is_blank
            is_after_blank = is_blank
            if offset >= end and (starts_paragraph or not document):
                break
            if starts_paragraph:
                if document and offset // section_bytes != document_at // section_bytes:
                    yield document_at, document.joined(), document.num_bytes
                    document = _Pieces(bad.max_document_bytes)
                if not document:
                    document_at = offset
            if starts_paragraph or document:  # else the rest of a paragraph of the span before
                document.append(line)
        if document:
            yield document_at, document.joined(), document.num_bytes


class _Pieces:
    """A document in pieces; of one that is too long, only enough to know that."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.num_bytes = 0
        """Size of the document."""
        self._pieces: list[bytes] = []

    def append(self, piece: bytes) -> None:
        """Adds a piece, unless the document is already too long."""
        if self.num_bytes <= self._max_bytes:
            self._pieces.append(piece)
        self.num_bytes += len(piece)

    def joined(self) -> bytes:
        """The document, or the start of it."""
        return b"".join(self._pieces)

    def __bool__(self) -> bool:
        return bool(self._pieces)


def _line_before_is_blank(stream: BinaryIO, start: int) -> bool:
    """Whether the last line that starts before `start` is blank."""
    at = max(0, start - _LOOK_BACK_BYTES)
    stream.seek(at)
    before = stream.read(start - at)
    if before.endswith(b"\n"):
        before = before[:-1]
    elif before[before.rfind(b"\n") + 1 :].strip():
        return False
    else:
        before += stream.readline().rstrip(b"\n")
    return not before[before.rfind(b"\n") + 1 :].strip()

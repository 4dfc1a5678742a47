"""Plain text: a file, a section, a paragraph or a line is a document."""

import sys
from collections.abc import Iterator
from typing import BinaryIO, Literal

from pydantic import Field

from configs.load import Config
from data_prep.readers.compression import is_compressed
from data_prep.readers.document import BadRecords, Document, decoded
from data_prep.readers.files import SourceFile, Span, byte_spans, open_file
from data_prep.readers.lines import line_spans, lines_in

_LOOK_BACK_BYTES = 1 << 16


class TextReaderConfig(Config):
    """Plain UTF-8 text files; .gz, .zst and .bz2 too."""

    type: Literal["text"]
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    document: Literal["file", "section", "paragraph", "line"] = "file"
    """What makes a document. Paragraphs end at blank lines; a section is the paragraphs that begin
    within the same `section_bytes` of the file."""
    section_bytes: int = Field(default=8192, ge=256)
    """Length of a section, bytes."""

    def build(self) -> "TextReader":
        """The reader."""
        return TextReader(self)


class TextReader:
    """Reads plain text."""

    def __init__(self, config: TextReaderConfig) -> None:
        self._unit = config.document
        self._section_bytes = config.section_bytes

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a document belongs to the range in which it begins.

        A compressed file is one span, unless lines are its documents.
        """
        if self._unit == "line":
            return line_spans(file, part_bytes)
        if self._unit == "file" or is_compressed(file.name):
            return [Span(file, 0, file.num_bytes)]
        align = self._section_bytes if self._unit == "section" else 1
        return byte_spans(file, part_bytes, align)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents that begin in `span`."""
        path = span.file.path
        with open_file(span.file) as stream:
            for offset, content in self._contents(stream, span, bad):
                text = decoded(content, path, offset, bad)
                if text is not None and (text.strip() or self._unit == "file"):
                    yield Document(text, f"{span.file.name}:{offset}", offset)

    def _contents(
        self, stream: BinaryIO, span: Span, bad: BadRecords
    ) -> Iterator[tuple[int, bytes]]:
        if self._unit == "file":
            document = _Pieces(bad.max_document_bytes)
            for _, line in lines_in(stream, span, bad):
                document.append(line)
                if document.is_too_long:
                    break
            yield 0, document.joined()
        elif self._unit == "line":
            yield from lines_in(stream, span, bad)
        else:
            yield from self._sections(stream, span, bad)

    def _sections(
        self, stream: BinaryIO, span: Span, bad: BadRecords
    ) -> Iterator[tuple[int, bytes]]:
        """Paragraphs, or runs of them that begin in one section."""
        section_bytes = self._section_bytes if self._unit == "section" else 1
        # Offsets in a compressed file, which is one span, count what it decompresses to.
        end = sys.maxsize if is_compressed(span.file.name) else span.end
        content = _Pieces(bad.max_document_bytes)
        begin = section = -1
        after_blank = span.start == 0 or _line_before_is_blank(stream, span.start)
        within = False  # inside a paragraph that began in this span
        for offset, line in lines_in(stream, span, bad, run_on=True):
            is_blank = not line.strip()
            if not is_blank and after_blank:
                if offset >= end:
                    break
                within = True
                if content and offset // section_bytes != section:
                    yield begin, content.joined()
                    content = _Pieces(bad.max_document_bytes)
                if not content:
                    begin, section = offset, offset // section_bytes
            elif offset >= end and not within:
                break
            if within:
                content.append(line)
            after_blank = is_blank
        if content:
            yield begin, content.joined()


class _Pieces:
    """A document in pieces; of a longer one than allowed, enough to tell that it is."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._pieces: list[bytes] = []

    @property
    def is_too_long(self) -> bool:
        """Whether the document is longer than allowed."""
        return self._num_bytes > self._max_bytes

    def append(self, piece: bytes) -> None:
        """Adds a piece, unless there are too many bytes already."""
        if not self.is_too_long:
            self._pieces.append(piece)
            self._num_bytes += len(piece)

    def joined(self) -> bytes:
        """The document."""
        return b"".join(self._pieces)

    def __bool__(self) -> bool:
        return bool(self._pieces)


def _line_before_is_blank(stream: BinaryIO, start: int) -> bool:
    """Whether the last line that begins before `start` is blank."""
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

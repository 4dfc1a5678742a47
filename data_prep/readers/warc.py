"""WARC and WET archives of web pages, read by fastwarc; HTML becomes text by resiliparse."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from configs.load import Config
from data_prep.document import BadRecords, Document
from data_prep.readers.files import TRUNCATED, SourceFile, Span, decompressed, is_damage, open_file


class WarcReaderConfig(Config):
    """WARC or WET files, plain or .gz."""

    type: Literal["warc"]
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    main_content: bool = True
    """Of an HTML page, keep the main content only: no navigation, headers and footers."""

    def build(self) -> "WarcReader":
        """The reader."""
        return WarcReader(self)


class WarcReader:
    """Reads WARC: pages of successful HTTP responses, and WET: their extracted text."""

    def __init__(self, config: WarcReaderConfig) -> None:
        self._main_content = config.main_content

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """The whole file: crawls come in files of about a gigabyte."""
        return [Span(file, 0, file.num_bytes)]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The pages, named by their addresses."""
        from fastwarc.warc import ArchiveIterator, WarcRecordType

        kinds = WarcRecordType.response | WarcRecordType.conversion
        path, offset = span.file.path, 0
        with open_file(span.file) as stream:
            plain: Any = _UntilFailure(decompressed(stream, span.file.name))
            for record in ArchiveIterator(plain, record_types=kinds, parse_http=True):
                offset = record.stream_pos
                expected_bytes = record.content_length
                content = record.reader.read()
                whole_head = record.headers.get("Content-Length") is not None
                if not whole_head or len(content) != expected_bytes:
                    bad.add(path, offset, "truncated record")
                    continue
                text = self._text_of(record, content)
                if text is None:
                    continue
                if "\0" in text:
                    bad.add(path, offset, "NUL byte")
                    continue
                uri = record.headers.get("WARC-Target-URI") or f"{span.file.name}:{offset}"
                yield Document(text, uri)
            if plain.error is not None:
                if not is_damage(plain.error):
                    raise plain.error
                bad.add(path, plain.tell(), "damaged or truncated compression", str(plain.error))

    def _text_of(self, record: object, content: bytes) -> str | None:
        """The text of a page, None where the record holds none."""
        headers = record.http_headers  # type: ignore[attr-defined]
        if headers is None:
            return decode(content, "utf-8")
        if headers.status_code != 200:
            return None
        kind = record.http_content_type or ""  # type: ignore[attr-defined]
        charset = record.http_charset  # type: ignore[attr-defined]
        if kind.startswith("text/plain"):
            return decode(content, charset)
        if "html" in kind:
            return text_of_html(content, charset, self._main_content)
        return None


class _UntilFailure:
    """A stream that ends where reading fails and keeps the error: fastwarc panics on an exception
    in its source, and takes a truncated compressed file's end for its end."""

    def __init__(self, stream: Any) -> None:
        self.error: Exception | None = None
        self._stream = stream
        self._position = 0

    def read(self, num_bytes: int) -> bytes:
        try:
            content = bytes(self._stream.read1(num_bytes))
        except (*TRUNCATED, OSError) as error:
            self.error = error
            return b""
        self._position += len(content)
        return content

    def tell(self) -> int:
        return self._position


def text_of_html(content: bytes, charset: str | None = None, main_content: bool = True) -> str:
    """The readable text of an HTML page; `charset` is what its headers say."""
    from resiliparse.extract.html2text import extract_plain_text

    return str(extract_plain_text(decode(content, charset), main_content=main_content))


def decode(content: bytes, charset: str | None) -> str:
    """`content` as text: in the stated encoding, or the one that it seems to be in."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return str(
        bytes_to_str(content, charset or detect_encoding(content) or "utf-8", errors="ignore")
    )

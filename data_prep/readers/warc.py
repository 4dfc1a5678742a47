"""Web archives: WARC, WET and the older ARC."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from data_prep.readers.archives import ArchiveReader
from data_prep.readers.charsets import decode
from data_prep.readers.content import kind_of, open_content
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, byte_spans
from data_prep.readers.html import NestedTooDeeplyError, looks_like_html, text_of_html
from data_prep.readers.http_message import (
    BodyError,
    BodyTooLongError,
    Response,
    decoded_body,
    looks_binary,
    response_of,
)
from data_prep.readers.reader import FilesConfig, Reader
from data_prep.readers.warc_records import Lost, Record, records_of

_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';,]{1,40})""", re.IGNORECASE)
_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9][a-z0-9.+_-]{0,80}")
_UNKNOWN_TYPES = ("unknown/unknown", "application/unknown", "no-type", "unknown", "*/*", "-")
_KINDS_OF_MEDIA = ("image", "audio", "video", "font")
_MAX_ELEMENTS = 2_000_000
"""Of an HTML page; each takes some hundred bytes of memory."""


class WarcReaderConfig(FilesConfig):
    """WARC, WET or ARC files, compressed or not."""

    type: Literal["warc"]
    main_content: bool = True
    """Of an HTML page, keep the main content only: no navigation, headers and footers."""
    metadata_fields: tuple[Literal["url", "date"], ...] = ()
    """What is stored with the documents, and what filters can use: address and date of the record.
    """

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(WarcReader(self), self)


class WarcReader:
    """Reads the text of web archives: HTML pages and plain text of successful HTTP responses and of
    `resource` records, and text that was extracted before (`conversion` records, WET)."""

    def __init__(self, config: WarcReaderConfig) -> None:
        self._main_content = config.main_content
        self._metadata_fields = config.metadata_fields

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a record belongs to the range in which it, or its compressed stream, starts.

        So a compressed file of a single stream is in effect one span.
        """
        kind = kind_of(file)
        if kind.is_plain or kind.compression is not None:
            return byte_spans(file, part_bytes)
        return [Span(file, 0, file.num_bytes)]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The pages; their addresses are the ids."""
        path = span.file.path
        if not span.file.num_bytes:
            bad.add_cut(path, 0, "empty file")
        with open_content(span.file) as content:
            for found in records_of(content, span, bad.max_raw_bytes):
                if isinstance(found, Lost):
                    _count(found, path, bad)
                    continue
                text = _PageReader(found, path, bad).text(self._main_content)
                if text is None:
                    continue
                uri = found.fields.get("warc-target-uri", "").strip("<> ")
                name = f"{span.file.name}:{found.offset}"
                name += f"+{found.within}" * (found.within > 0)
                metadata: dict[str, str] | None = None
                if self._metadata_fields:
                    values = {"url": uri, "date": found.fields.get("warc-date", "")}
                    metadata = {f: values[f] for f in self._metadata_fields if values[f]}
                yield Document(text, uri or name, found.offset, metadata)


def _count(lost: Lost, path: str, bad: BadRecords) -> None:
    offset, reason, detail, num_bytes, is_cut, is_padding = lost
    if is_padding:
        bad.skip("zeros at the end of the file", num_bytes, path, offset)
    elif is_cut:
        bad.add_cut(path, offset, reason, detail, num_bytes)
    else:
        bad.add_damage(path, offset, reason, detail, num_bytes)


class _Payload(NamedTuple):
    """The content of a record, without the encodings of its transfer."""

    content: bytes
    media_type: str
    """In lower case, without parameters; empty if none is stated."""
    charset: str | None


class _PageReader:
    """Reads the page in one record, or counts why there is none."""

    def __init__(self, record: Record, path: str, bad: BadRecords) -> None:
        self._record, self._path, self._bad = record, path, bad

    def text(self, main_content: bool) -> str | None:
        """The text of the page; None if the record holds none and is counted."""
        try:
            payload = self._payload()
            text = None if payload is None else self._text_of(payload, main_content)
            if text is None or "\0" not in text:
                return text
            self._add("NUL byte")
        except BodyTooLongError as error:
            self._bad.add_too_long(self._path, self._record.offset, error.num_bytes)
        except BodyError as error:
            self._add("damaged or unknown encoding of the body", str(error))
        except NestedTooDeeplyError:
            self._add("HTML nested too deeply")
        return None

    def _payload(self) -> _Payload | None:
        """What the record holds; None if this is nothing to read, and counted."""
        fields, content = self._record.fields, self._record.content
        kind, stated = fields["warc-type"].lower(), fields.get("content-type", "")
        if kind == "continuation" or (kind in _READ_TYPES and "warc-segment-number" in fields):
            self._add("record in segments", f"of type {kind}")
            return None
        if kind not in _READ_TYPES:
            self._skip(f"{kind[:40]} record")
            return None
        if content is None:
            raise BodyTooLongError(self._record.num_bytes)
        response = None
        if kind == "response" or not stated or stated.lower().startswith("application/http"):
            response = response_of(content)
        if response is None:
            is_http = stated.lower().startswith("application/http")
            stated = "" if is_http else stated
            charset = _charset_in(stated) or ("utf-8" if kind == "conversion" else None)
            return _Payload(content, _media_type(stated), charset)
        if response.status != 200:
            self._skip(f"HTTP status {response.status}")
            return None
        stated = response.fields.get("content-type", "")
        media_type = _media_type(stated)
        body = response.body
        if media_type == "" or _is_text(media_type):
            body = self._body(response, media_type)
        return _Payload(body, media_type, _charset_in(stated))

    def _body(self, response: Response, media_type: str) -> bytes:
        is_truncated = "warc-truncated" in self._record.fields
        limit = self._bad.max_raw_bytes
        return decoded_body(response, limit, bool(media_type), is_truncated)

    def _text_of(self, payload: _Payload, main_content: bool) -> str | None:
        content, media_type, charset = payload
        is_html = "html" in media_type
        if media_type in ("", "text/xml", "application/xml"):
            is_html = looks_like_html(content)
        if not content.strip():
            self._skip("empty body")
        elif is_html:
            offset = self._record.offset
            if not self._bad.has_too_many(content, b"<", _MAX_ELEMENTS, self._path, offset):
                return text_of_html(content, charset, main_content)
        elif media_type == "text/plain" or (media_type == "" and not looks_binary(content)):
            return decode(content, charset)
        else:
            self._skip(_kind_of(media_type))
        return None

    def _add(self, reason: str, detail: str = "") -> None:
        record = self._record
        self._bad.add(self._path, record.offset, reason, detail, record.num_bytes)

    def _skip(self, kind: str) -> None:
        self._bad.skip(kind, self._record.num_bytes, self._path, self._record.offset)


_READ_TYPES = ("response", "resource", "conversion")


def _media_type(stated: str) -> str:
    media_type = re.split("[;, \t]", stated.strip().lower(), maxsplit=1)[0]
    return "" if media_type in _UNKNOWN_TYPES or "/" not in media_type else media_type


def _charset_in(stated: str) -> str | None:
    found = _CHARSET.search(stated)
    return found[1] if found else None


def _is_text(media_type: str) -> bool:
    return "html" in media_type or media_type in ("text/plain", "text/xml", "application/xml")


def _kind_of(media_type: str) -> str:
    """What a record without text is counted as."""
    if not media_type:
        return "content of an unknown type"
    top = media_type.partition("/")[0]
    if top in _KINDS_OF_MEDIA or _TYPE.fullmatch(media_type):
        return top if top in _KINDS_OF_MEDIA else media_type
    return "content of a malformed type"

"""Builds web archives for the tests of their reader, and reads them."""

from pathlib import Path

from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.readers.reading import WHOLE_BYTES, reader_config

HTTP = "application/http; msgtype=response"


def record(
    kind: str, content: bytes, uri: str, content_type: str | None = "text/plain", more: str = ""
) -> bytes:
    """A WARC record; `more` are further lines of its head."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\n"
        "WARC-Record-ID: <urn:uuid:1>\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
    )
    if content_type is not None:
        head += f"Content-Type: {content_type}\r\n"
    return f"{head}{more}Content-Length: {len(content)}\r\n\r\n".encode() + content + b"\r\n\r\n"


def response(
    body: bytes, uri: str, fields: str = "Content-Type: text/html", more: str = ""
) -> bytes:
    """A `response` record of an HTTP response with status 200; `fields` are lines of its head."""
    head = "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", *filter(None, fields.split("\n"))))
    return record("response", head.encode("latin-1") + b"\r\n" + body, uri, HTTP, more)


def page(text: str, head: str = "") -> str:
    """An HTML page."""
    return f"<!DOCTYPE html><html><head>{head}</head><body><p>{text}</p></body></html>"


def chunked(body: bytes, size: int = 50, line: str = "{:x}\r\n") -> bytes:
    """A body in HTTP chunks of `size` bytes."""
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"".join(
            line.format(len(chunk)).encode() + chunk + b"\r\n" for chunk in (*chunks, b"")
        ).removesuffix(b"\r\n")
        + b"\r\n"
    )


def read_warc(
    path: Path, part_bytes: int = WHOLE_BYTES, max_document_bytes: int = 1 << 62
) -> tuple[list[tuple[str, str]], BadRecords]:
    """([(stripped text, id)], what is bad or skipped)."""
    config = reader_config({"type": "warc", "files": [str(path)]})
    reader, bad = config.build(), BadRecords("skip", max_document_bytes)
    (file,) = list_files(config.files, "files")
    documents = [
        (document.text.strip(), document.id)
        for span in reader.spans(file, part_bytes)
        for document in reader.read(span, bad)
    ]
    return documents, bad


def texts_of(tmp_path: Path, *records: bytes) -> list[str]:
    """The texts in an archive of `records`, of which none may be bad."""
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(records))
    documents, bad = read_warc(path)
    assert not bad.counts, bad.examples
    return [text for text, _ in documents]

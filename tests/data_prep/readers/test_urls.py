"""Sources at URLs: read through fsspec, in blocks, with clear errors."""

import functools
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from fsspec.spec import AbstractBufferedFile  # type: ignore[import-untyped]

from configs.load import UserError
from data_prep.dataset.url_files import BLOCK_BYTES, UrlFile
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files, open_file
from data_prep.readers.lines import LineFiles
from data_prep.readers.text import TextReader, TextReaderConfig
from data_prep.readers.url_stream import UrlStream
from tests.data_prep.corpora import random_texts
from tests.data_prep.readers.compressed_parts import WRITERS
from tests.data_prep.readers.reading import read_documents

READ_BYTES: list[int] = []


class BlockFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file in an object store: fetched in blocks."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def read(self, length: int = -1) -> bytes:
        content: bytes = super().read(length)
        READ_BYTES.append(len(content))
        return content


class BlockFiles(LocalFileSystem):  # type: ignore[misc]
    """Local files that behave like files in an object store."""

    protocol = "blocks"

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **settings: Any
    ) -> BlockFile:
        return BlockFile(self, path, mode, size=self.info(path)["size"])

    def unstrip_protocol(self, name: str) -> str:
        return f"blocks://{name}"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A file of JSON lines, 2 MB."""
    fsspec.register_implementation("blocks", BlockFiles, clobber=True)
    READ_BYTES.clear()
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text}) + "\n" for text in random_texts(400, words=1000)]
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("scheme", ["file", "blocks"])
def test_urls_give_the_same_documents_as_paths(corpus: Path, scheme: str) -> None:
    url = f"{scheme}://{corpus.parent}/*.jsonl"
    expected = read_documents(corpus, type="jsonl")
    assert read_documents(url, 70_000, type="jsonl") == expected
    assert len(expected[0]) == 400


def test_a_file_at_a_url_is_read_once(corpus: Path) -> None:
    """fsspec's own file objects read a block of megabytes for every line."""
    read_documents(f"blocks://{corpus}", type="jsonl")
    size = corpus.stat().st_size
    assert size <= sum(READ_BYTES) <= 2 * size


def test_a_url_that_cannot_be_listed_is_a_clear_error() -> None:
    with pytest.raises(UserError, match=r"files: 'nowhere://a/\*' cannot be listed: .*s3fs"):
        list_files(["nowhere://a/*"], "files")


def test_a_library_that_fails_before_its_first_request_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those that look for credentials when they start."""

    class NoCredentials(BlockFiles):
        cachable = False

        def __init__(self, **settings: Any) -> None:
            raise RuntimeError("no default credentials")

    fsspec.register_implementation("blocks", NoCredentials, clobber=True)
    with pytest.raises(UserError, match=r"'blocks:///a' cannot .*: no default .*the credentials"):
        list_files(["blocks:///a"], "files")


class OnePositionFile(BlockFile):
    """A file whose reads start where the connection of its file system says."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fs.position = start
        time.sleep(0.001)
        return super()._fetch_range(self.fs.position, self.fs.position + end - start)


class OnePositionFiles(BlockFiles):
    """Files behind a connection with a state, as the REST command of FTP makes one."""

    protocol = "one-position"

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **settings: Any
    ) -> OnePositionFile:
        return OnePositionFile(self, path, mode, size=self.info(path)["size"], **settings)

    def unstrip_protocol(self, name: str) -> str:
        return f"one-position://{name}"


def test_file_systems_that_serve_one_thread_are_not_shared(tmp_path: Path) -> None:
    fsspec.register_implementation("one-position", OnePositionFiles, clobber=True)
    path = tmp_path / "a.jsonl"
    texts = random_texts(2000, words=1000)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert path.stat().st_size > 8_000_000
    expected = read_documents(path, type="jsonl")
    assert read_documents(f"one-position://{path}", type="jsonl") == expected


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of Python's HTTP server, which always sends whole files."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_without_ranges_of_files_is_a_clear_error(corpus: Path) -> None:
    """At once: asking again would not help."""
    with served(corpus.parent) as address:
        (file,) = list_files([f"{address}/a.jsonl"], "files")
        with (
            pytest.raises(UserError, match=r"its server does not give ranges of files; copy"),
            open_file(file) as stream,
        ):
            stream.read(1000)


def test_reading_backwards_holds_a_block_and_a_little_more() -> None:
    content = random.Random(0).randbytes(30 << 20)
    stream = UrlStream(lambda start, end: content[start:end], len(content))
    held = []
    for at in range(len(content) - 1000, 0, -500_000):
        stream.seek(at)
        assert stream.read(1000) == content[at : at + 1000]
        held.append(len(stream._held))
    assert max(held) <= BLOCK_BYTES + (1 << 20)
    stream.seek(0)
    found = b"".join(iter(lambda: stream.read(1 << 20), b""))
    assert found == content


@pytest.mark.parametrize("kind", ["zstandard with a seek table", "xz blocks", "gzip members"])
def test_a_part_of_a_compressed_url_fetches_what_it_needs(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of zstandard and xz, only the table at the end and the bytes from the restart; a file of gzip
    members is not searched for them."""
    fsspec.register_implementation("blocks", BlockFiles, clobber=True)
    suffix, write = WRITERS[kind]
    lines = [f"{text}\n" for text in random_texts(4000, words=1000)]
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(write(["".join(lines[k : k + 4]).encode() for k in range(0, 4000, 4)]))
    fetched: list[int] = []
    read_range = UrlFile._range

    def counted(self: UrlFile, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return read_range(self, start, end)

    monkeypatch.setattr(UrlFile, "_range", counted)
    url = f"blocks://{path}"
    (file,) = list_files([url], "files")
    config = TextReaderConfig(type="text", files=(url,), document="line")
    reader = TextReader(config, LineFiles(1 << 12))
    part_bytes = file.num_bytes // 100
    spans = reader.spans(file, part_bytes)
    assert sum(fetched) < file.num_bytes / 5
    has_parts = kind != "gzip members"
    assert (len(spans) > 20) == has_parts
    found = []
    for span in spans:
        fetched.clear()
        bad = BadRecords("stop")
        found += [document.text for document in reader.read(span, bad)]
        if has_parts:
            assert sum(fetched) < 2 * span.num_bytes + (1 << 17)
    assert found == lines

"""Sources at URLs: read through fsspec, in blocks, with clear errors."""

import json
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from fsspec.spec import AbstractBufferedFile  # type: ignore[import-untyped]

from configs.load import UserError
from data_prep.dataset.url_files import UrlFile
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from data_prep.readers.lines import LineFiles
from data_prep.readers.text import TextReader, TextReaderConfig
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

"""Sources behind URLs: read through fsspec, in blocks, with clear errors."""

import json

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from configs.load import UserError
from data_prep.readers.files import list_files
from tests.data_prep.corpora import random_texts, read_documents

READ_BYTES: list[int] = []


class BlockFile(AbstractBufferedFile):
    """A file as object stores have it: fetched in blocks."""

    def _fetch_range(self, start, end):
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def read(self, length=-1):
        content = super().read(length)
        READ_BYTES.append(len(content))
        return content


class BlockFiles(LocalFileSystem):
    """Local files that behave as if they lay in an object store."""

    protocol = "blocks"

    def _open(self, path, mode="rb", block_size=None, **settings):
        return BlockFile(self, path, mode, size=self.info(path)["size"])

    def unstrip_protocol(self, name):
        return f"blocks://{name}"


@pytest.fixture
def corpus(tmp_path):
    """A file of JSON lines, 2 MB."""
    fsspec.register_implementation("blocks", BlockFiles, clobber=True)
    READ_BYTES.clear()
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text}) + "\n" for text in random_texts(400, words=1000)]
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("scheme", ["file", "blocks"])
def test_urls_give_what_paths_give(corpus, scheme):
    url = f"{scheme}://{corpus.parent}/*.jsonl"
    expected = read_documents(corpus, type="jsonl")
    assert read_documents(url, 70_000, type="jsonl") == expected
    assert len(expected[0]) == 400


def test_a_file_behind_a_url_is_read_once(corpus):
    """Line by line, fsspec's own files read a block, megabytes, for each."""
    read_documents(f"blocks://{corpus}", type="jsonl")
    size = corpus.stat().st_size
    assert size <= sum(READ_BYTES) <= 2 * size


def test_a_url_that_cannot_be_listed_is_a_clear_error():
    with pytest.raises(UserError, match=r"files: 'nowhere://a/\*' cannot be listed: .*s3fs"):
        list_files(["nowhere://a/*"], "files")

"""Sources in an object store, by its real protocol: same documents, few requests, clear errors."""

import bz2
import csv
import gzip
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.load import UserError
from data_prep.dataset import url_files
from data_prep.dataset.url_files import BLOCK_BYTES
from data_prep.readers.document import BadRecords
from data_prep.readers.files import byte_spans, list_files, open_file
from tests.data_prep.corpora import random_texts
from tests.data_prep.readers.compressed_parts import gzip_members
from tests.data_prep.readers.formats import FORMATS
from tests.data_prep.readers.reading import WHOLE_BYTES, read_documents, reader_config
from tests.data_prep.readers.warcs import page, response
from tests.s3_server import PAGE_KEYS, Request, S3Server

MB = 1 << 20


def json_lines(num_bytes: int) -> bytes:
    """JSON lines of about `num_bytes`, which compress to half."""
    texts = random.Random(0).randbytes(num_bytes // 2).hex()
    lines = (texts[at : at + 50_000] for at in range(0, len(texts), 50_000))
    return b"".join(json.dumps({"text": line}).encode() + b"\n" for line in lines)


def put(s3: S3Server, url: str, content: bytes) -> str:
    s3.files.pipe_file(url, content)
    s3.reset()
    return url


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The URL of an empty bucket."""
    return s3.new_bucket()


def uploaded(s3: S3Server, bucket: str, path: Path) -> str:
    return put(s3, f"{bucket}/{path.name}", path.read_bytes())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part_bytes", [1500, WHOLE_BYTES])
def test_every_format_gives_the_documents_of_local_files(
    s3: S3Server, bucket: str, tmp_path: Path, name: str, part_bytes: int
) -> None:
    kind, write = FORMATS[name]
    write(tmp_path / name)
    url = uploaded(s3, bucket, tmp_path / name)
    expected = read_documents(tmp_path / name, part_bytes, type=kind)
    assert expected[0]
    assert read_documents(url, part_bytes, type=kind) == expected


def _warc(path: Path) -> None:
    pages = [page(text).encode() for text in random_texts(300, words=1000)]
    records = [response(content, f"http://{n}/") for n, content in enumerate(pages)]
    path.write_bytes(gzip_members(records) if path.suffix == ".gz" else b"".join(records))


def _tar(path: Path) -> None:
    folder = path.parent / "members"
    folder.mkdir()
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for number in range(3):
            member = folder / f"{number}.jsonl.gz"
            member.write_bytes(gzip.compress(json_lines(MB)))
            archive.add(member, member.name)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.jsonl", json_lines(MB))


def _csv(path: Path) -> None:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["text"], *([f"{text},\n"] for text in random_texts(300, words=1500))])


def _wiki(path: Path) -> None:
    texts = enumerate(random_texts(300, words=1500))
    pages = (
        f"<page><title>{n}</title><ns>0</ns><revision><text>{text}</text></revision></page>\n"
        for n, text in texts
    )
    content = f"<mediawiki>\n{''.join(pages)}</mediawiki>\n".encode()
    streams = (content[at : at + 400_000] for at in range(0, len(content), 400_000))
    path.write_bytes(b"".join(map(bz2.compress, streams)) if path.suffix == ".bz2" else content)


def _lines(compress: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(compress(json_lines(3 * MB)))


LARGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a.jsonl": ("jsonl", _lines(bytes)),
    "a.jsonl.gz": ("jsonl", _lines(gzip.compress)),
    "a.jsonl.zst": ("jsonl", _lines(zstandard.ZstdCompressor().compress)),
    "a.jsonl.bz2": ("jsonl", _lines(bz2.compress)),
    "a.warc": ("warc", _warc),
    "a.warc.gz": ("warc", _warc),
    "a.tar": ("jsonl", _tar),
    "a.tar.gz": ("jsonl", _tar),
    "a.zip": ("jsonl", _zip),
    "a.csv": ("csv", _csv),
    "a.xml": ("mediawiki", _wiki),
    "a.xml.bz2": ("mediawiki", _wiki),
}


@pytest.mark.parametrize("name", LARGE)
def test_files_of_several_blocks_give_the_documents_of_local_files(
    s3: S3Server, bucket: str, tmp_path: Path, name: str
) -> None:
    kind, write = LARGE[name]
    write(tmp_path / name)
    url = uploaded(s3, bucket, tmp_path / name)
    expected = read_documents(tmp_path / name, type=kind)
    assert len(expected[0]) > 50
    assert read_documents(url, type=kind) == expected
    assert read_documents(url, 300_000, type=kind) == expected


def fetched(requests: list[Request]) -> tuple[int, int]:
    """(number of requests, bytes) of these."""
    return len(requests), sum(request.num_bytes for request in requests)


def test_a_part_of_a_plain_file_is_fetched_once_in_large_blocks(s3: S3Server, bucket: str) -> None:
    url = put(s3, f"{bucket}/a.jsonl", json_lines(40 * MB))
    reader = reader_config({"type": "jsonl", "files": [url]}).build()
    (file,) = list_files([url], "files")
    spans = reader.spans(file, 16 * MB)
    assert len(spans) == 3
    for span in spans:
        s3.reset()
        assert list(reader.read(span, BadRecords("stop")))
        num_requests, num_bytes = fetched(s3.requests())
        # Two for the state of the file, its head, six of growing size, the rest of the last line.
        assert num_requests <= 2 + 1 + 6 + span.num_bytes / BLOCK_BYTES + 1
        assert span.num_bytes <= num_bytes <= 1.1 * span.num_bytes


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_file_is_fetched_once(s3: S3Server, bucket: str, suffix: str) -> None:
    compress = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor(level=1).compress}[suffix]
    content = compress(json_lines(24 * MB))
    url = put(s3, f"{bucket}/a.jsonl.{suffix}", content)
    reader = reader_config({"type": "jsonl", "files": [url]}).build()
    (file,) = list_files([url], "files")
    (span,) = reader.spans(file, WHOLE_BYTES)
    s3.reset()
    assert list(reader.read(span, BadRecords("stop")))
    num_requests, num_bytes = fetched(s3.requests())
    assert num_requests <= 9 + len(content) / BLOCK_BYTES
    assert len(content) <= num_bytes <= 1.1 * len(content)


def test_of_parquet_the_columns_that_are_read_are_fetched_once(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    texts = random_texts(600, words=6000)
    other = random_texts(600, words=6000, seed=1)
    table = pa.table({"text": texts, "unused": other, "id": [str(n) for n in range(600)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=100, compression="none", use_dictionary=False)
    url = uploaded(s3, bucket, path)
    reader = reader_config({"type": "parquet", "files": [url], "id_field": "id"}).build()
    (file,) = list_files([url], "files")
    spans = reader.spans(file, 16 * MB)
    assert len(spans) == 3
    for span in spans:
        s3.reset()
        documents = list(reader.read(span, BadRecords("stop")))
        assert [d.text for d in documents] == texts[span.start * 100 : span.end * 100]
        wanted = sum(len(d.text) for d in documents)
        num_requests, num_bytes = fetched(s3.requests())
        groups = span.end - span.start
        assert num_requests <= 2 + 1 + 6 + 2 * groups + wanted / BLOCK_BYTES
        assert wanted <= num_bytes <= 1.1 * wanted


def test_a_pattern_is_listed_by_pages_and_no_file_is_asked_for(s3: S3Server, bucket: str) -> None:
    names = [f"{bucket}/crawl/part-{number:04d}.txt" for number in range(2 * PAGE_KEYS + 1)]
    s3.files.pipe(dict.fromkeys(names, b"text"))
    s3.reset()
    found = list_files([f"{bucket}/crawl/part-*.txt"], "files")
    assert [file.path for file in found] == names
    assert len(s3.requests()) <= 2 + 3  # whether a file has this name; three pages
    s3.reset()
    assert [file.path for file in list_files([f"{bucket}/**/*.txt"], "files")] == names
    assert len(s3.requests()) <= 2 + 3


def test_globs_find_what_they_find_in_local_folders(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    names = ["a/x.txt", "a/y.txt", "b/x.txt", "b/c/x.txt", "b/c/[1].txt", "z.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
        s3.files.pipe_file(f"{bucket}/{name}", b"text")
    for pattern in ("*.txt", "*/x.txt", "**/x.txt", "[ab]/?.txt", "b/c/[1].txt", "b/**/*"):
        here = [file.name for file in list_files([f"{tmp_path}/{pattern}"], "files")]
        assert [file.name for file in list_files([f"{bucket}/{pattern}"], "files")] == here


FAILURES: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "503": {"status": 503},
    "closed without an answer": {"closed": True},
    "closed within the answer": {"cut": True},
    "slow": {"delay_s": 1.0},
}


@pytest.fixture
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_files, "RETRY_DELAYS_S", (0.0, 0.0))


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.usefixtures("short_delays")
def test_a_failed_request_is_repeated(
    s3: S3Server, bucket: str, tmp_path: Path, failure: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(3 * MB))
    url = uploaded(s3, bucket, path)
    s3.fail("a.jsonl", times=2, **FAILURES[failure])
    assert read_documents(url, MB, type="jsonl") == read_documents(path, MB, type="jsonl")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.usefixtures("short_delays")
def test_a_server_that_keeps_failing_is_a_clear_error(
    s3: S3Server, bucket: str, tmp_path: Path, kind: str, status: int
) -> None:
    """It is never taken for damage of the file, whose records would be counted as bad."""
    path = tmp_path / f"a.{kind}"
    FORMATS[path.name][1](path)
    url = uploaded(s3, bucket, path)
    (file,) = list_files([url], "files")
    reader = reader_config({"type": kind, "files": [url]}).build()
    (span,) = reader.spans(file, WHOLE_BYTES)
    s3.fail(path.name, times=1000, status=status)
    with pytest.raises(UserError, match=rf"cannot be read: {url}: .*tried 3 times"):
        list(reader.read(span, BadRecords("skip")))
    s3.reset()
    s3.fail("/", times=1000, status=status)
    with pytest.raises(UserError, match=rf"files: '{bucket}/\*' cannot be listed: .*tried 3 times"):
        list_files([f"{bucket}/*"], "files")


@pytest.mark.usefixtures("short_delays")
def test_a_file_that_changes_or_disappears_stops_the_job(s3: S3Server, bucket: str) -> None:
    url = put(s3, f"{bucket}/a.jsonl", json_lines(MB))
    (file,) = list_files([url], "files")
    put(s3, url, json_lines(MB).replace(b"b", b"d"))  # of the same size
    with (
        pytest.raises(UserError, match=r"a.jsonl: changed since the plan was made"),
        open_file(file),
    ):
        pass
    (file,) = list_files([url], "files")
    reader = reader_config({"type": "jsonl", "files": [url]}).build()
    (span,) = reader.spans(file, WHOLE_BYTES)
    documents = reader.read(span, BadRecords("stop"))
    assert next(documents)
    put(s3, url, b"short")
    with pytest.raises(UserError, match="changed since the plan"):
        list(documents)
    (file,) = list_files([put(s3, url, json_lines(8 * MB))], "files")
    documents = reader.read(byte_spans(file, WHOLE_BYTES)[0], BadRecords("skip"))
    assert next(documents)
    put(s3, url, b"short")  # so that ranges of it are refused
    with pytest.raises(UserError, match="changed since the plan"):
        list(documents)
    (file,) = list_files([url], "files")
    s3.files.rm(url)
    with pytest.raises(UserError, match=r"a.jsonl: disappeared since the plan"), open_file(file):
        pass
    with pytest.raises(UserError, match=rf"files: '{url}' matches no file"):
        list_files([url], "files")


def test_what_may_not_be_read_is_a_clear_error(s3: S3Server, bucket: str) -> None:
    url = put(s3, f"{bucket}/a.jsonl", json_lines(MB))
    (file,) = list_files([url], "files")
    s3.fail("a.jsonl", method="HEAD", times=1000, status=403)
    with (
        pytest.raises(UserError, match=rf"{url}: PermissionError: .*check the credentials"),
        open_file(file),
    ):
        pass
    s3.fail(bucket.removeprefix("s3:/"), times=1000, status=403)
    with pytest.raises(UserError, match=r"cannot be listed: .*check the credentials"):
        list_files([f"{bucket}/*"], "files")

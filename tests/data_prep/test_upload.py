"""Rows in an object store, by its real protocol: uploaded, continued, and read by the cache."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from configs.load import UserError
from data_prep import upload
from data_prep.dataset import object_store
from data_prep.dataset.manifest import MANIFEST_NAME, SPLITS, read_manifest
from data_prep.dataset.object_store import ObjectStore, hashes_of
from pipeline.data.config import DataConfig
from pipeline.data.shard_cache import check_sizes, open_data_set, row_reader, shard_cache
from tests.s3_server import S3Server
from tests.synthetic_rows import SyntheticSource, write_data_set


def write_rows(folder: Path) -> None:
    """A data set of four shards."""
    random = np.random.default_rng(0)
    sources = [
        SyntheticSource(split, name, [random.integers(4, 99, (64, 32), np.uint16)] * 5)
        for split in SPLITS
        for name in ("a", "b")
    ]
    write_data_set(folder, sources, row_tokens=32, vocab_size=100, block_rows=64)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with its shards."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder)
    return folder


@pytest.fixture
def url(s3: S3Server) -> str:
    """A folder in an empty bucket."""
    return s3.new_bucket() + "/sets/rows"


def names_in(rows: Path) -> set[str]:
    manifest = read_manifest(rows)
    return {shard.path for shard in manifest.shards()} | {manifest.tokenizer.path, MANIFEST_NAME}


def test_uploaded_rows_are_read_by_the_cache(
    s3: S3Server, url: str, rows: Path, tmp_path: Path
) -> None:
    assert set(upload.upload(rows, url)) == names_in(rows)
    data = DataConfig(path=tmp_path, url=url, shuffle_unit="shard")
    manifest = open_data_set(data)
    check_sizes(data, manifest)
    (source,) = list(manifest.splits["train"])[:1]
    numbers = np.arange(manifest.splits["train"][source].rows)
    here = row_reader(DataConfig(path=rows), manifest, "train").read(source, numbers)
    assert (row_reader(data, manifest, "train").read(source, numbers) == here).all()
    gets = s3.requests("GET", ".tar")
    assert sum(r.num_bytes for r in gets) == sum(
        shard.bytes for shard in manifest.splits["train"][source].shards
    )
    damaged = manifest.splits["train"][source].shards[0]
    assert s3.files.cat(f"{url}/{damaged.path}") == (rows / damaged.path).read_bytes()
    s3.files.pipe_file(f"{url}/{damaged.path}", b"x" * damaged.bytes)
    (tmp_path / damaged.path).unlink()
    cache = shard_cache(data)
    assert cache is not None
    with pytest.raises(UserError, match=rf"{url}/{damaged.path}: fetched .* is damaged"):
        cache.open(damaged)


def test_a_forked_process_fetches_too(s3: S3Server, url: str, rows: Path, tmp_path: Path) -> None:
    """As the workers of a loader are, after their rank used the store."""
    upload.upload(rows, url)
    data = DataConfig(path=tmp_path, url=url, shuffle_unit="shard")
    shard = open_data_set(data).splits["train"]["a"].shards[0]
    cache = shard_cache(data)
    assert cache is not None
    process = multiprocessing.get_context("fork").Process(target=cache.fetch, args=(shard,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert (tmp_path / shard.path).read_bytes() == (rows / shard.path).read_bytes()


def test_an_interrupted_upload_continues(s3: S3Server, url: str, rows: Path) -> None:
    names = sorted(names_in(rows) - {MANIFEST_NAME})
    s3.fail(names[-1], method="PUT", times=1000, status=403)
    with pytest.raises(UserError, match=rf"{url}/{names[-1]}: PermissionError: .*credentials"):
        upload.upload(rows, url)
    there = set(ObjectStore(url).files())
    assert there < names_in(rows)
    assert MANIFEST_NAME not in there  # it comes last
    s3.reset()
    assert set(upload.upload(rows, url)) == names_in(rows) - there
    assert len(s3.requests("PUT")) == len(names_in(rows) - there)
    s3.reset()
    assert upload.upload(rows, url) == []
    assert not s3.requests("PUT")
    assert [r.path for r in s3.requests("GET", ".tar")] == []  # known by their MD5


def test_what_is_damaged_in_the_store_is_uploaded_again(s3: S3Server, url: str, rows: Path) -> None:
    upload.upload(rows, url)
    shard = read_manifest(rows).splits["train"]["a"].shards[0]
    s3.files.pipe_file(f"{url}/{shard.path}", b"x" * shard.bytes)
    assert upload.upload(rows, url) == [shard.path]
    assert s3.files.cat(f"{url}/{shard.path}") == (rows / shard.path).read_bytes()


def test_large_files_are_uploaded_in_parts(
    s3: S3Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "UPLOAD_PART_BYTES", 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(np.random.default_rng(0).bytes(12 << 20))
    store, hashes = ObjectStore(url), hashes_of(path)
    s3.fail("large", method="PUT", times=1, closed=True)
    store.upload("large", path, hashes)
    assert len({r.query for r in s3.requests("PUT", "large") if "partNumber=3" in r.query}) == 1
    assert s3.files.cat(f"{url}/large") == path.read_bytes()
    s3.reset()
    assert store.holds("large", store.files()["large"], hashes)
    assert not s3.requests("GET", "large")  # its ETag says so
    entry = {**store.files()["large"], "ETag": '"of an encrypted file"'}
    assert store.holds("large", entry, hashes)
    assert sum(r.num_bytes for r in s3.requests("GET", "large")) == hashes.num_bytes
    s3.files.pipe_file(f"{url}/large", bytes(hashes.num_bytes))
    assert not store.holds("large", store.files()["large"], hashes)


def test_errors_name_what_is_wrong(s3: S3Server, url: str, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished data set"):
        upload.upload(tmp_path / "nowhere", url)
    for folder in ("rows", "s3://", "s3:"):  # the last two would be a folder "s3:" here
        with pytest.raises(UserError, match=rf"^{folder}: names no folder in a store, as s3://"):
            upload.upload(rows, folder)
    with pytest.raises(UserError, match=r"nowhere://rows: .*check the address"):
        upload.upload(rows, "nowhere://rows")
    s3.files.pipe_file(f"{url}/{MANIFEST_NAME}", b"{}")
    with pytest.raises(UserError, match=f"{url}: holds another data set"):
        upload.upload(rows, url)
    s3.files.rm(f"{url}/{MANIFEST_NAME}")
    other = tmp_path / "copy"
    write_rows(other)
    shard = read_manifest(other).splits["train"]["a"].shards[0]
    (other / shard.path).write_bytes(b"x" * shard.bytes)
    with pytest.raises(UserError, match=f"{shard.path}: damaged: its sha256"):
        upload.upload(other, url)
    assert MANIFEST_NAME not in ObjectStore(url).files()


def test_rows_that_are_made_again_during_an_upload_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest comes last, maybe hours after it was read."""
    write_rows(tmp_path / "rows")
    manifest = tmp_path / "rows" / MANIFEST_NAME
    send = upload._Upload.send

    def replaced(self: upload._Upload, name: str, sha256: str | None) -> bool:
        if name == MANIFEST_NAME:
            manifest.write_text(manifest.read_text() + "\n")
        return send(self, name, sha256)

    monkeypatch.setattr(upload._Upload, "send", replaced)
    url = f"file://{tmp_path}/store/rows"
    with pytest.raises(UserError, match=r"manifest\.json: changed during the upload"):
        upload.upload(tmp_path / "rows", url)
    assert MANIFEST_NAME not in ObjectStore(url).files()


def test_rows_are_uploaded_to_any_file_system(rows: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store/rows"
    assert set(upload.upload(rows, url)) == names_in(rows)
    assert upload.upload(rows, url) == []

"""Rows in an object store: the same batches, checked hashes, retries, a bounded cache."""

import io
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from configs.load import ConfigError, UserError
from data_prep.dataset.manifest import Shard, read_manifest, write_manifest
from data_prep.dataset.shard_writer import ShardWriter
from pipeline.data.config import DataConfig
from pipeline.data.order import SourceSize, build_order, train_sources
from pipeline.data.shard_cache import (
    Prefetcher,
    ShardCache,
    check_sizes,
    open_data_set,
    row_reader,
    shard_cache,
)
from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.resume import plan_segments
from pipeline.run.plan import plan_run
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    pretrain,
)

SHARD_ROWS = 32
NO_DELAYS_S = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose source "a" lies in 16 shards of 32 rows."""
    folder = tmp_path_factory.mktemp("store")
    make_rows(folder)
    manifest = read_manifest(folder)
    source = manifest.splits["train"]["a"]
    rows = row_reader(DataConfig(path=folder), manifest, "train").read("a", np.arange(source.rows))
    shards = []
    for start in range(0, source.rows, SHARD_ROWS):
        name = f"train/a-{start:05d}.tar"
        with ShardWriter(folder, name, "train", "a", start, manifest.dtype) as writer:
            writer.write_block(rows[start : start + SHARD_ROWS])
        assert writer.shard is not None
        shards.append(writer.shard)
    (folder / source.shards[0].path).unlink()
    split = source.model_copy(update={"block_rows": SHARD_ROWS, "shards": tuple(shards)})
    train = {**manifest.splits["train"], "a": split}
    write_manifest(
        folder, manifest.model_copy(update={"splits": {**manifest.splits, "train": train}})
    )
    return folder


def remote(store: Path, cache: Path, **changes: Any) -> DataConfig:
    settings = {"url": f"file://{store}", "shuffle_unit": "shard", "workers": 0, **changes}
    return DataConfig.model_validate({"path": cache, **settings})


class FlakyFiles(LocalFileSystem):  # type: ignore[misc]
    """Fails, or damages what is read, as often as its class attributes say."""

    protocol = "flaky"
    cachable = False
    failures = 0
    damages = 0

    def _open(self, path: str, mode: str = "rb", **arguments: Any) -> Any:
        if FlakyFiles.failures:
            FlakyFiles.failures -= 1
            raise TimeoutError("the store is slow")
        file = super()._open(path, mode=mode, **arguments)
        if FlakyFiles.damages and str(path).endswith(".tar"):
            FlakyFiles.damages -= 1
            return io.BytesIO(bytes(Path(path).stat().st_size))
        return file


fsspec.register_implementation("flaky", FlakyFiles)


def test_a_run_from_a_store_equals_one_from_the_folder(store: Path, tmp_path: Path) -> None:
    folder = {"path": str(store), "workers": 0, "shuffle_unit": "shard"}
    local = make_config(store, tmp_path / "local", data=folder)
    run_ranks(pretrain, 1, local)
    data = remote(store, tmp_path / "cache", workers=2).model_dump(mode="json")
    away = make_config(store, tmp_path / "away", data=data)
    run_ranks(pretrain, 2, away.model_copy(update={"parallel": local.parallel}))
    assert final_state(away).keys() == final_state(local).keys()
    alone = make_config(store, tmp_path / "alone", data={**data, "path": str(tmp_path / "cache2")})
    run_ranks(pretrain, 1, alone)
    assert_same_bits(final_state(local), final_state(alone))


def test_the_cache_stays_within_its_limit_and_every_row_is_right(
    store: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(store)
    shards = manifest.splits["train"]["a"].shards
    limit = 10 * shards[0].bytes
    data = remote(store, tmp_path, cache_gb=limit / 1e9)
    opened = open_data_set(data, window_rows=2 * SHARD_ROWS)
    assert opened.fingerprint == manifest.fingerprint
    cache = shard_cache(data)
    assert cache is not None
    largest = 0
    for shard in shards:
        with cache.open(shard) as file:
            assert file.read() == (store / shard.path).read_bytes()
        largest = max(largest, sum(p.stat().st_size for p in tmp_path.rglob("*.tar")))
    assert 8 * shards[0].bytes < largest <= limit
    here = row_reader(data, manifest, "train").read("a", np.arange(512))
    there = row_reader(DataConfig(path=store), manifest, "train").read("a", np.arange(512))
    assert (here == there).all()


def test_shards_are_fetched_ahead_of_the_rows(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = remote(store, tmp_path / "cache")
    config = make_config(store, tmp_path / "run", data=data.model_dump(mode="json"))
    plan = plan_run(config, 1)
    asked: list[list[Shard]] = []
    monkeypatch.setattr(Prefetcher, "ask", lambda self, shards: asked.append(list(shards)))
    batches = run_batches(plan, plan_segments(plan, None), (), 0, 0)
    next(batches)
    batches.close()
    assert {shard.path for shard in asked[0]} == {
        shard.path
        for source in plan.phases[0].manifest.splits["train"].values()
        for shard in source.shards
    }  # a window of this small set is all of it


def test_the_prefetcher_fetches_shards(store: Path, tmp_path: Path) -> None:
    manifest = read_manifest(store)
    shards = manifest.splits["train"]["a"].shards[:3]
    prefetcher = Prefetcher(ShardCache(f"file://{store}", tmp_path, 10**9))
    prefetcher.ask(shards)
    assert prefetcher._thread is not None
    prefetcher._thread.join()
    assert sorted(p.name for p in tmp_path.rglob("*.tar")) == [Path(s.path).name for s in shards]


def test_failures_and_damaged_bytes_are_retried(store: Path, tmp_path: Path) -> None:
    shard = read_manifest(store).splits["train"]["a"].shards[0]
    cache = ShardCache(f"flaky://{store}", tmp_path, 10**9, retry_delays_s=NO_DELAYS_S)
    FlakyFiles.failures, FlakyFiles.damages = 2, 1
    with cache.open(shard) as file:
        assert file.read() == (store / shard.path).read_bytes()
    assert (FlakyFiles.failures, FlakyFiles.damages) == (0, 0)
    other = read_manifest(store).splits["train"]["a"].shards[1]
    FlakyFiles.damages = 99
    with pytest.raises(UserError, match="its sha256 is never the manifest's"):
        cache.open(other)
    FlakyFiles.damages, FlakyFiles.failures = 0, 99
    with pytest.raises(UserError, match=r"the store is slow \(tried 4 times\)"):
        cache.open(other)
    FlakyFiles.failures = 0
    assert not list(tmp_path.rglob("*.partial-*"))


def open_all(cache: ShardCache, shards: Sequence[Shard], found: Any) -> None:
    sizes = []
    for shard in shards:
        with cache.open(shard) as file:
            sizes.append(os.fstat(file.fileno()).st_size)
    found.put(sizes)


def test_processes_of_a_node_share_the_cache(store: Path, tmp_path: Path) -> None:
    shards = read_manifest(store).splits["train"]["a"].shards
    cache = ShardCache(f"file://{store}", tmp_path, 5 * shards[0].bytes)
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    processes = [context.Process(target=open_all, args=(cache, shards, found)) for _ in range(3)]
    for process in processes:
        process.start()
    expected = [shard.bytes for shard in shards]
    assert [found.get(timeout=60) for _ in processes] == [expected] * 3
    for process in processes:
        process.join(10)
        assert process.exitcode == 0


def test_errors_name_what_is_wrong(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="url needs shuffle_unit: shard"):
        DataConfig(path=tmp_path, url="s3://bucket/rows")
    with pytest.raises(UserError, match=r"nowhere/manifest.json: FileNotFoundError"):
        open_data_set(remote(tmp_path / "nowhere", tmp_path / "cache"))
    with pytest.raises(ConfigError, match="cache_gb 1e-06 is too small"):
        open_data_set(remote(store, tmp_path / "small", cache_gb=1e-6))
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    manifest = read_manifest(copy)
    first, second = manifest.splits["train"]["a"].shards[:2]
    (copy / first.path).unlink()
    (copy / second.path).write_bytes(b"short")
    data = remote(copy, tmp_path / "cache")
    with pytest.raises(UserError, match=r"2 shard\(s\) differ") as caught:
        check_sizes(data, open_data_set(data))
    assert f"{first.path}: missing" in str(caught.value)
    assert f"{second.path}: 5 bytes instead of" in str(caught.value)
    other = manifest.model_copy(update={"stages": {"another": "one"}})
    write_manifest(copy, other)
    with pytest.raises(UserError, match="caches a different data set"):
        open_data_set(data)


@pytest.mark.parametrize("start", [0, 100, 777, 4000])
def test_blocks_between_hold_all_rows_between(start: int) -> None:
    sources = [SourceSize("a", 1000, 64), SourceSize("b", 130, 64), SourceSize("c", 7, 64)]
    segments: list[tuple[int, dict[str, float] | None]]
    segments = [(0, {"a": 2.0, "b": 1.0, "c": 0.1}), (900, {"a": 1.0, "b": 0.0, "c": 0.5})]
    row_order = build_order(sources, segments, seed=3, window_rows=256)
    for length in (1, 50, 700):
        blocks = row_order.blocks_between(start, start + length)
        address = row_order.rows_at(np.arange(start, start + length))
        for number, size in enumerate(sources):
            rows = address.row[address.source == number]
            assert set(rows // 64) <= blocks.get(size.name, set()), (length, size.name)


def test_shards_as_units_of_the_order(store: Path) -> None:
    sizes = train_sources(read_manifest(store), "shard")
    assert (sizes[0].name, sizes[0].block_rows) == ("a", SHARD_ROWS)

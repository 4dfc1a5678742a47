"""Offsets and checksums of blocks in memory: few bytes a block, the same fingerprints and rows."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from configs.load import UserError, fingerprint
from data_prep.dataset.manifest import Manifest, file_sha256, read_manifest
from data_prep.dataset.row_reader import RowReader
from tests.data_prep.dataset.test_damage import source_of, write_tree
from tests.data_prep.dataset.test_shards import BLOCK_ROWS, make_data_set

SHARDS, BLOCKS = 20, 1000


def make_large_manifest(folder: Path, uneven: bool = False) -> Manifest:
    """A manifest of `SHARDS` shards of `BLOCKS` blocks, without their files."""
    make_data_set(folder)
    tree = json.loads((folder / "manifest.json").read_text())
    source = source_of(tree)
    rows = BLOCKS * BLOCK_ROWS
    sums = np.random.default_rng(0).bytes(8 * BLOCKS).hex()
    shard = {**source["shards"][0], "bytes": 4096 * BLOCKS, "rows": rows, "block_xxh3_64": sums}
    shard["block_offsets"] = [640 + 2048 * n + (n % 2 if uneven else 0) for n in range(BLOCKS)]
    source["shards"] = [{**shard, "path": f"{number}.tar"} for number in range(SHARDS)]
    source["rows"] = SHARDS * rows
    write_tree(folder, tree)
    return read_manifest(folder)


def test_a_block_takes_as_many_bytes_as_its_checksum(tmp_path: Path) -> None:
    make_large_manifest(tmp_path)
    tracemalloc.start()
    try:
        manifest = read_manifest(tmp_path)
        reader = RowReader(tmp_path, manifest, "train")
        assert manifest.fingerprint
        kept, peak = (size / SHARDS / BLOCKS for size in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert reader is not None
    assert 8 <= kept < 12
    assert peak < 80  # the file, its text, and what becomes of it


@pytest.mark.parametrize("uneven", [False, True])
def test_fingerprints_are_those_of_the_whole_tree(tmp_path: Path, uneven: bool) -> None:
    manifest = make_large_manifest(tmp_path, uneven)
    shards = manifest.source("train", "books").shards
    assert all(isinstance(shard.block_offsets, range) is not uneven for shard in shards)
    tree = manifest.model_dump(mode="json")
    tree["special_tokens"] = manifest.special_tokens.tree()
    del tree["tokenizer"]["parent_sha256"]
    for shard in source_of(tree)["shards"]:
        assert len(shard.pop("block_xxh3_64")) == 16 * BLOCKS
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert manifest.fingerprint == fingerprint(json.loads(text))


def test_blocks_at_uneven_distances_are_read_too(tmp_path: Path) -> None:
    """As another writer may put them: with empty members of the tar file between them."""
    _, rows = make_data_set(tmp_path)
    tree = json.loads((tmp_path / "manifest.json").read_text())
    shard = source_of(tree)["shards"][0]
    path = tmp_path / shard["path"]
    content = path.read_bytes()
    second = shard["block_offsets"][1]
    path.write_bytes(content[: second - 640] + bytes(512) + content[second - 640 :])
    shard["block_offsets"] = [
        offset + (512 if number else 0) for number, offset in enumerate(shard["block_offsets"])
    ]
    shard["bytes"] += 512
    shard["sha256"] = file_sha256(path)
    write_tree(tmp_path, tree)
    manifest = read_manifest(tmp_path)
    assert not isinstance(manifest.source("train", "books").shards[0].block_offsets, range)
    reader = RowReader(tmp_path, manifest, "train")
    numbers = np.random.default_rng(1).permutation(len(rows))
    np.testing.assert_array_equal(reader.read("books", numbers), rows[numbers])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("block_offsets", [640, 641, 642], "block 1 starts at byte 641, inside of the block be"),
        ("block_offsets", [640, "a", 3000], "should be a list of integers"),
        ("block_offsets", None, "should be a list of integers"),
        ("block_xxh3_64", "AB" * 24, "16 digits from 0-9 and a-f for each block"),
        ("block_xxh3_64", "ab" * 23, "16 digits from 0-9 and a-f for each block"),
        ("block_xxh3_64", 7, "16 digits from 0-9 and a-f for each block"),
    ],
)
def test_wrong_numbers_of_blocks_are_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    make_data_set(tmp_path)
    tree = json.loads((tmp_path / "manifest.json").read_text())
    source_of(tree)["shards"][0][key] = value
    write_tree(tmp_path, tree)
    with pytest.raises(UserError, match=f"damaged manifest: .*{message}"):
        read_manifest(tmp_path)

"""Damaged manifests are refused, and rows that are not those of the manifest are never returned."""

import contextlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from configs.load import UserError, fingerprint
from data_prep.dataset.manifest import Manifest, read_manifest, write_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.verify import verify_shards
from tests import damage
from tests.damage import Tree, changed_bytes
from tests.data_prep.dataset.test_shards import BLOCK_ROWS, ROW_TOKENS, make_data_set

ALL_ROWS = np.arange(45)


def source_of(tree: Tree) -> Tree:
    source: Tree = tree["splits"]["train"]["books"]
    return source


def write_tree(folder: Path, tree: Tree) -> None:
    """Writes `tree` as someone would who knows the format: with a sha256 that fits."""
    tree = {key: value for key, value in tree.items() if key != "sha256"}
    (folder / "manifest.json").write_text(json.dumps({**tree, "sha256": fingerprint(tree)}))


def without_checksums(tree: Tree) -> Tree:
    """The manifest of version 0.1.0."""
    for shard in source_of(tree)["shards"]:
        del shard["block_xxh3_64"]
    del tree["sha256"]
    return tree


def test_of_300_manifests_with_a_changed_byte_all_are_refused_or_equal(tmp_path: Path) -> None:
    manifest, _ = make_data_set(tmp_path)
    path = tmp_path / "manifest.json"
    content = path.read_bytes()
    harmless = 0
    for damaged in changed_bytes(content, seed=3):
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            assert read_manifest(tmp_path) == manifest  # white space, at most
            harmless += 1
    assert harmless < 10


def set_in(*keys: str | int, value: object) -> Callable[[Tree], None]:
    """A change of one value of a source."""
    return damage.set_in("splits", "train", "books", *keys, value=value)


def top(key: str, value: object) -> Callable[[Tree], None]:
    return lambda tree: tree.__setitem__(key, value)


def shard_twice(tree: Tree) -> None:
    shards = source_of(tree)["shards"]
    shards[1]["path"] = shards[0]["path"]


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("shards", 0, "bytes", value=-1), "greater than 0"),
        (set_in("shards", 0, "bytes", value=640), "after its end"),
        (set_in("shards", 0, "bytes", value=10**30), "less than or equal"),
        (set_in("shards", 0, "rows", value=25), "block_offsets for 4 blocks"),
        (set_in("shards", 2, "rows", value=4), "45 rows, but its shards have 44"),
        (set_in("shards", 1, "rows", value=15), "its last block is not full"),
        (set_in("shards", 0, "block_offsets", 1, value=700), "inside of the block before"),
        (set_in("shards", 0, "block_offsets", 2, value=10**9), "after its end"),
        (set_in("shards", 0, "block_offsets", 0, value=-5), "greater than or equal to 0"),
        (set_in("shards", 0, "path", value="../a.tar"), "inside the folder"),
        (set_in("shards", 0, "path", value="/etc/passwd"), "inside the folder"),
        (set_in("shards", 0, "path", value="a\x1b[2Jb"), "inside the folder"),
        (set_in("shards", 0, "sha256", value="0" * 63), "match pattern"),
        (set_in("block_rows", value=0), "greater than 0"),
        (set_in("rows", value=float("nan")), "finite number"),
        (set_in("rows", value=1e300), "exceeded maximum size"),
        (set_in("tokens", value=10**6), "do not fit"),
        (shard_twice, "appears twice"),
        (top("row_tokens", 10**12), "less than or equal"),
        (top("row_tokens", 10**6), "inside of the block before"),
        (top("vocab_size", 70_000), "does not fit uint16"),
        (top("vocab_size", 999), "mask 999 is not in a vocabulary of 999"),
        (top("tokenizer", {"path": "../tokenizer.json", "sha256": "0" * 64}), "inside the folder"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    tmp_path: Path, change: Callable[[Tree], None], message: str, is_old: bool
) -> None:
    make_data_set(tmp_path)
    tree = json.loads((tmp_path / "manifest.json").read_text())
    if is_old:
        tree = without_checksums(tree)
    change(tree)
    if is_old:
        (tmp_path / "manifest.json").write_text(json.dumps(tree))
    else:
        write_tree(tmp_path, tree)
    with pytest.raises(UserError, match=f"damaged manifest: .*({message})"):
        read_manifest(tmp_path)


def test_checksums_must_be_complete_and_come_with_the_manifests_own(tmp_path: Path) -> None:
    make_data_set(tmp_path)
    tree = json.loads((tmp_path / "manifest.json").read_text())
    shard = source_of(tree)["shards"][0]
    shard["block_xxh3_64"] = shard["block_xxh3_64"][16:]
    write_tree(tmp_path, tree)
    with pytest.raises(UserError, match="2 checksums for 3 blocks"):
        read_manifest(tmp_path)
    make_data_set(tmp_path)
    tree = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**tree, "sha256": None}))
    with pytest.raises(UserError, match="its own sha256 is missing"):
        read_manifest(tmp_path)


def test_data_sets_of_version_0_1_0_are_read_and_have_the_same_fingerprint(tmp_path: Path) -> None:
    manifest, rows = make_data_set(tmp_path)
    tree = without_checksums(json.loads((tmp_path / "manifest.json").read_text()))
    (tmp_path / "manifest.json").write_text(json.dumps(tree))
    old = read_manifest(tmp_path)
    assert old != manifest
    assert old.fingerprint == manifest.fingerprint == fingerprint(tree)
    np.testing.assert_array_equal(RowReader(tmp_path, old, "train").read("books", ALL_ROWS), rows)
    write_manifest(tmp_path, old)
    assert read_manifest(tmp_path) == old


def first_shard(folder: Path, manifest: Manifest) -> Path:
    return folder / manifest.source("train", "books").shards[0].path


@contextlib.contextmanager
def replaced(path: Path, other: Callable[[], None]) -> Iterator[None]:
    """`path` made into something else by `other`, inside of the block."""
    kept = path.with_name("kept")
    path.rename(kept)
    other()
    yield
    path.unlink()
    kept.rename(path)


def test_a_shard_that_is_no_regular_file_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    manifest, rows = make_data_set(folder)
    path = first_shard(folder, manifest)
    outside = tmp_path / "outside.tar"
    outside.write_bytes(path.read_bytes())
    others = [
        (lambda: os.mkfifo(path), "not a regular file"),
        (lambda: path.symlink_to("/dev/zero"), "outside of the folder"),
        (lambda: path.symlink_to(outside), "outside of the folder"),
        (lambda: path.symlink_to(path), "cannot be opened|cannot be read|Too many levels"),
    ]
    for other, message in others:
        with replaced(path, other):
            with pytest.raises(UserError, match=message):
                RowReader(folder, manifest, "train").read("books", ALL_ROWS)
            with pytest.raises(UserError, match=message):
                verify_shards(folder, manifest)
    with replaced(path, lambda: path.symlink_to("kept")):  # inside of the folder
        got = RowReader(folder, manifest, "train").read("books", ALL_ROWS)
        np.testing.assert_array_equal(got, rows)


def flip(path: Path, place: int) -> None:
    """Changes a bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_bit_is_found_in_every_block_and_named(tmp_path: Path) -> None:
    manifest, rows = make_data_set(tmp_path)
    source = manifest.source("train", "books")
    generator = random.Random(4)
    first = 0
    for shard in source.shards:
        for number, offset in enumerate(shard.block_offsets):
            num_rows = min(BLOCK_ROWS, len(rows) - first)
            place = offset + generator.randrange(num_rows * ROW_TOKENS * 2)
            flip(tmp_path / shard.path, place)
            reader = RowReader(tmp_path, manifest, "train")
            elsewhere = np.setdiff1d(ALL_ROWS, np.arange(first, first + num_rows))
            np.testing.assert_array_equal(reader.read("books", elsewhere), rows[elsewhere])
            message = (
                f"{re.escape(shard.path)}: block {number} .rows {first} to {first + num_rows - 1} "
                f"of its source, bytes {offset:,} to .* is damaged.*restore"
            )
            with pytest.raises(UserError, match=message):
                reader.read("books", np.array([first + num_rows - 1]))
            flip(tmp_path / shard.path, place)
            np.testing.assert_array_equal(reader.read("books", ALL_ROWS), rows)
            first += num_rows


def test_a_change_after_the_first_read_is_found(tmp_path: Path) -> None:
    manifest, rows = make_data_set(tmp_path)
    path = first_shard(tmp_path, manifest)
    reader = RowReader(tmp_path, manifest, "train")
    reader.read("books", ALL_ROWS)
    offset = manifest.source("train", "books").shards[0].block_offsets[1]
    flip(path, offset + 7)
    np.testing.assert_array_equal(reader.read("books", ALL_ROWS[24:]), rows[24:])
    with pytest.raises(UserError, match=r"books-00000\.tar: block 1 "):
        reader.read("books", np.array([9]))


def test_a_shard_that_shrinks_while_it_is_open_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = make_data_set(tmp_path)
    path = first_shard(tmp_path, manifest)
    reader = RowReader(tmp_path, manifest, "train")
    reader.read("books", ALL_ROWS)
    status = path.stat()
    os.truncate(path, 1000)
    with pytest.raises(UserError, match=r"books-00000\.tar: 1,000 bytes, but .* in the manifest"):
        reader.read("books", np.array([20]))
    reader = RowReader(tmp_path, manifest, "train")
    monkeypatch.setattr(os, "fstat", lambda _: status)  # it shrinks only now
    with pytest.raises(UserError, match=r"books-00000\.tar: has no byte 4,736: it became"):
        reader.read("books", np.array([20]))


def test_a_disk_that_fails_is_named_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = make_data_set(tmp_path)
    reader = RowReader(tmp_path, manifest, "train")
    reader.read("books", ALL_ROWS)

    def fail(*_: object) -> int:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "preadv", fail)
    offset = manifest.source("train", "books").shards[0].block_offsets[0]
    message = rf"books-00000\.tar: cannot be read at byte {offset + 32:,}: Input/output error"
    with pytest.raises(UserError, match=message):
        reader.read("books", np.array([1]))
    with pytest.raises(UserError, match=r"books-00000\.tar: cannot be read at byte"):
        RowReader(tmp_path, manifest, "train").read("books", np.array([1]))

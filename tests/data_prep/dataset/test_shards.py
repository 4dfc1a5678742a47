"""The rows on disk: written deterministically, read by number, opened by plain webdataset."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from configs.load import UserError
from data_prep.dataset.manifest import (
    Manifest,
    SourceRows,
    SpecialTokens,
    TokenizerFile,
    file_sha256,
    read_manifest,
    write_manifest,
)
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.shard_writer import ShardWriter
from data_prep.dataset.verify import verify_shards

ROW_TOKENS, BLOCK_ROWS = 16, 8


DType = Literal["uint16", "uint32"]


def make_data_set(
    folder: Path, rows_per_shard: Sequence[int] = (24, 16, 5), dtype: DType = "uint16"
) -> tuple[Manifest, npt.NDArray[Any]]:
    """A data set of one source whose shards hold the given numbers of rows; and all its rows."""
    numbers = np.random.default_rng(0).integers(4, 999, (sum(rows_per_shard), ROW_TOKENS))
    rows: npt.NDArray[Any] = numbers.astype(dtype)
    shards, first = [], 0
    for number, num_rows in enumerate(rows_per_shard):
        name = f"shards/train/books-{number:05d}.tar"
        with ShardWriter(folder, name, "train", "books", first, dtype) as writer:
            for start in range(first, first + num_rows, BLOCK_ROWS):
                writer.write_block(rows[start : min(start + BLOCK_ROWS, first + num_rows)])
        assert writer.shard is not None
        shards.append(writer.shard)
        first += num_rows
    (folder / "tokenizer.json").write_text("{}")
    source = SourceRows(
        rows=first, documents=3, tokens=first * 14, block_rows=BLOCK_ROWS, shards=tuple(shards)
    )
    manifest = Manifest(
        format_version=1,
        row_tokens=ROW_TOKENS,
        vocab_size=1000,
        dtype=dtype,
        packing="full_sentences",
        tokenizer=TokenizerFile(
            path="tokenizer.json", sha256=file_sha256(folder / "tokenizer.json")
        ),
        special_tokens=SpecialTokens(bos=0, pad=1, eos=2, unk=3, mask=999),
        stages={"ingest": "0" * 64},
        splits={"train": {"books": source}, "heldout": {}},
    )
    write_manifest(folder, manifest)
    return manifest, rows


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_any_rows_are_read_in_the_order_asked_for(tmp_path: Path, dtype: DType) -> None:
    manifest, rows = make_data_set(tmp_path, dtype=dtype)
    reader = RowReader(tmp_path, manifest, "train")
    numbers = np.random.default_rng(1).integers(0, len(rows), 200)
    got = reader.read("books", numbers)
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got, rows[numbers])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read("books", numbers), got)
    assert reader.read("books", np.array([], dtype=int)).shape == (0, ROW_TOKENS)


def test_rows_outside_the_source_are_refused(tmp_path: Path) -> None:
    manifest, rows = make_data_set(tmp_path)
    reader = RowReader(tmp_path, manifest, "train")
    for bad in (-1, len(rows)):
        with pytest.raises(IndexError, match=f"row {bad} of books"):
            reader.read("books", np.array([0, bad]))
    with pytest.raises(UserError, match="no train rows of 'film'; it has: books"):
        reader.read("film", np.array([0]))


def test_plain_webdataset_opens_the_shards(tmp_path: Path) -> None:
    import webdataset

    manifest, rows = make_data_set(tmp_path)
    urls = [str(tmp_path / shard.path) for shard in manifest.source("train", "books").shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    np.testing.assert_array_equal(np.concatenate([s["rows.npy"] for s in samples]), rows)
    assert samples[1]["json"] == {"split": "train", "source": "books", "first_row": 8, "rows": 8}
    assert len({sample["__key__"] for sample in samples}) == len(samples) == 6


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    first, _ = make_data_set(tmp_path / "a")
    second, _ = make_data_set(tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    assert (tmp_path / "a/manifest.json").read_bytes() == (
        tmp_path / "b/manifest.json"
    ).read_bytes()


def test_the_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    manifest, _ = make_data_set(tmp_path)
    again = read_manifest(tmp_path)
    assert again == manifest
    assert again.fingerprint == manifest.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no finished data set"),
        ("{", "not valid JSON"),
        ("[]", "not a JSON mapping"),
        ("{}", "format version None"),
        ('{"format_version": 7}', "format version 7"),
        ('{"format_version": 1}', "damaged manifest"),
    ],
)
def test_an_unusable_manifest_is_a_clear_error(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path)


def test_all_missing_and_damaged_files_are_named_at_once(tmp_path: Path) -> None:
    manifest, _ = make_data_set(tmp_path)
    verify_shards(tmp_path, manifest, full=True)
    paths = [tmp_path / shard.path for shard in manifest.source("train", "books").shards]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-512])
    content = bytearray(paths[2].read_bytes())
    content[700] ^= 1
    paths[2].write_bytes(content)
    with pytest.raises(UserError) as cheap:
        verify_shards(tmp_path, manifest)
    assert "books-00000.tar: missing" in str(cheap.value)
    assert "books-00001.tar: 4,608 bytes instead of 5,120" in str(cheap.value)
    assert "books-00002" not in str(cheap.value)
    with pytest.raises(UserError, match=r"books-00002.tar: its sha256 is not the manifest's"):
        verify_shards(tmp_path, manifest, full=True)


def test_a_shard_shorter_than_in_the_manifest_is_named(tmp_path: Path) -> None:
    manifest, _ = make_data_set(tmp_path)
    path = tmp_path / manifest.source("train", "books").shards[1].path
    path.write_bytes(path.read_bytes()[:-1024])
    reader = RowReader(tmp_path, manifest, "train")
    reader.read("books", np.array([0, 44]))
    with pytest.raises(UserError, match=r"books-00001\.tar: .* bytes, but .* in the manifest"):
        reader.read("books", np.array([30]))
    path.unlink()
    with pytest.raises(UserError, match=r"books-00001\.tar: missing"):
        reader.read("books", np.array([30]))


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with ShardWriter(tmp_path, "a.tar", "train", "books", 0, "uint16") as writer:
            writer.write_block(np.ones((2, 4), dtype=np.uint16))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []

"""Rows that hold documents of all sources: all of them, evenly mixed, whatever the parts."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dataset.manifest import SPLITS, Split, read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.dataset.verify import verify_shards
from data_prep.limits import Limits
from data_prep.packing.id_stream import Segment
from data_prep.packing.streams import (
    MIXED,
    InterleavePart,
    InterleaveStage,
    Streams,
    first_in_range,
)
from data_prep.run import prepare, restart
from tests.data_prep.corpora import config_of, hashes_of, write_corpus


@given(st.integers(0, 1000), st.integers(1, 40))
def test_ranges_hold_every_document_once(count: int, ranges: int) -> None:
    bounds = [first_in_range(count, number, ranges) for number in range(ranges + 1)]
    assert (bounds[0], bounds[-1]) == (0, count)
    assert bounds == sorted(bounds)


lengths_of = st.lists(
    st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=3), min_size=1, max_size=3
)


def ids_of(documents: list[list[int]]) -> npt.NDArray[np.uint16]:
    """The documents' ids with a separator after each."""
    return np.array([n for document in documents for n in (*document, 2)], "<u2")


def write_streams(folder: Path, lengths: list[list[list[int]]]) -> tuple[Streams, list[list[int]]]:
    """Files of encoded documents (`lengths` by source and part) and the documents, as mixed."""
    sources: dict[tuple[Split, str], list[Segment]] = {}
    documents: list[tuple[float, int, list[int]]] = []
    for source, parts in enumerate(lengths):
        of_source: list[list[int]] = []
        sources["train", str(source)] = []
        for number, part in enumerate(parts):
            here = [[100 * source + 10 + len(of_source) + k] * n for k, n in enumerate(part)]
            ids_of(here).tofile(folder / f"{source}-{number}.ids")
            np.save(folder / f"{source}-{number}.lengths.npy", np.array(part, np.uint32))
            sources["train", str(source)].append(
                Segment(f"{source}-{number}", len(part), sum(part))
            )
            of_source += here
        total = 2 * max(len(of_source), 1)
        documents += [((2 * n + 1) / total, source, d) for n, d in enumerate(of_source)]
    in_order = sorted(documents, key=lambda entry: entry[:2])
    return Streams(folder, "uint16", sources, {}), [document for _, _, document in in_order]


@settings(max_examples=80)
@given(lengths_of, st.integers(1, 5), st.lists(st.integers(0, 200), min_size=2, max_size=8))
def test_a_mixed_stream_reads_what_its_documents_are(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[list[list[int]]],
    ranges: int,
    cuts: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("streams")
    streams, expected = write_streams(folder, lengths)
    stage = InterleaveStage(parts=(), inputs={}, streams=streams)
    mixed = []
    for number in range(ranges):
        part = InterleavePart(
            name=f"p{number}",
            split="train",
            number=number,
            num_ranges=ranges,
            documents=streams.documents("train"),
            counts=streams.documents("train"),
        )
        record, _ = stage.run_part(folder, part)
        mixed.append(Segment(part.name, record["documents"], record["tokens"]))
    stream = replace(streams, order=folder, mixed={"train": mixed}).open("train", MIXED)
    ids = ids_of(expected)
    np.testing.assert_array_equal(stream.read(0, len(ids) + 5), ids)
    for low, high in pairwise(sorted(cuts)):
        np.testing.assert_array_equal(stream.read(low, high), ids[low:high])
    got, starts = stream.documents(0, len(expected))
    assert got.tolist() == [len(document) for document in expected]
    for start, document in zip(starts.tolist(), expected, strict=True):
        assert stream.read(start, start + len(document)).tolist() == document
    half, chosen = got // 2, np.array(sorted(set(cuts) & set(range(len(expected)))), np.int64)
    pieces = [ids_of([expected[n]])[half[n] : -1] for n in chosen.tolist()]
    gathered = stream.gather((starts + half)[chosen], (got - half)[chosen])
    np.testing.assert_array_equal(gathered, np.concatenate([ids[:0], *pieces]))
    low, high = sorted(cuts[:2])
    assert stream.documents(low, high)[0].tolist() == got[low:high].tolist()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_corpus(folder / "raw")
    prepare(config_of(folder))
    return folder


def texts_of(folder: Path, sources: list[str]) -> list[str]:
    manifest = read_manifest(folder / "rows")
    tokenizer = load_tokenizer(folder / "rows/tokenizer.json")
    found: list[str] = []
    for split in SPLITS:
        reader = RowReader(folder / "rows", manifest, split)
        for source in sources:
            rows = reader.read(source, np.arange(manifest.source(split, source).rows))
            ids = rows[(rows != 0) & (rows != 1)]
            if manifest.packing == "full_sentences":
                ids = rows[:, 1:-1].ravel()
                ids = ids[ids != 1]
            pieces = np.split(ids, np.flatnonzero(ids == 2) + 1)
            found += [tokenizer.decode(piece[piece != 2].tolist()) for piece in pieces]
    return sorted(filter(None, found))


@pytest.mark.parametrize("mode", ["full_sentences", "doc_sentences", "best_fit"])
def test_mixed_rows_hold_the_same_documents_whatever_the_parts(
    raw: Path, tmp_path: Path, mode: str
) -> None:
    limits = Limits(interleave_documents=50)
    (tmp_path / "raw").symlink_to(raw / "raw")
    pack = {"row_tokens": 1024, "block_rows": 8, "shard_mb": 1, "mode": mode, "mixed": True}
    prepare(config_of(tmp_path, pack=pack), limits)
    manifest = read_manifest(tmp_path / "rows")
    verify_shards(tmp_path / "rows", manifest, full=True)
    assert list(manifest.splits["train"]) == [MIXED]
    if mode == "full_sentences":
        assert texts_of(tmp_path, [MIXED]) == texts_of(raw, ["books", "forum"])
    whole = hashes_of(tmp_path / "rows")
    restart(config_of(tmp_path), "ingest")
    prepare(config_of(tmp_path, pack=pack, part_mb=0.009), limits)
    assert hashes_of(tmp_path / "rows") == whole
    packed = json.loads((tmp_path / "rows/report.json").read_text())["packed"]
    assert packed[MIXED]["rows"]["train"] == manifest.source("train", MIXED).rows


def test_every_range_has_the_sources_in_their_proportions(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(raw / "raw")
    prepare(config_of(tmp_path, pack={"row_tokens": 32, "block_rows": 8, "mixed": True}))
    order = np.load(tmp_path / "work/interleave/train-000000.order.npy")
    books = np.flatnonzero(order[0] == 0)
    gaps = np.diff(books)
    assert gaps.max() - gaps.min() <= 2
    assert abs(books.mean() / order.shape[1] - 0.5) < 0.05


@pytest.mark.parametrize("row_tokens", [128, 512, 2048, 8192])
@pytest.mark.parametrize("mixed", [False, True])
def test_only_the_last_row_is_padded_whatever_the_row_length(
    raw: Path, tmp_path: Path, row_tokens: int, mixed: bool
) -> None:
    (tmp_path / "raw").symlink_to(raw / "raw")
    prepare(config_of(tmp_path, pack={"row_tokens": row_tokens, "mixed": mixed}))
    manifest = read_manifest(tmp_path / "rows")
    for source, entry in manifest.splits["train"].items():
        ids = RowReader(tmp_path / "rows", manifest, "train").read(source, np.arange(entry.rows))
        assert ids.shape == (entry.rows, row_tokens)
        assert (ids > 3).sum() == entry.tokens
        assert (ids[:-1] != 1).all()

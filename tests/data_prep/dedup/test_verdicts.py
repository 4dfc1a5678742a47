"""Clusters and verdicts in little memory are those of all documents at once, to the byte."""

import tempfile
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dataset.atomic import save_array
from data_prep.dedup import buckets
from data_prep.dedup.buckets import Buckets
from data_prep.dedup.candidates import COPIES, LABELS, PairsPart
from data_prep.dedup.cluster_ranges import ClusterRanges
from data_prep.dedup.cluster_stages import ALL_LABELS, all_clusters_stage, clusters_stage
from data_prep.dedup.clusters import clusters
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signatures import FileRun
from data_prep.dedup.verdict_counts import (
    EXACT,
    KEEP,
    NEAR,
    counts_by_source,
    stays_by_goes,
)
from data_prep.dedup.verdicts import (
    CODES_SUFFIX,
    KEPT_FOR_SUFFIX,
    near_examples,
    verdicts_stage,
)
from data_prep.documents.files import DocumentFile
from data_prep.engine.engine import SerialEngine
from data_prep.engine.execution import run_stage
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import Stage, StageResult
from data_prep.text.batch import I64

SOURCES = ["books", "forum"]


def labels_of(pairs: I64, num_documents: int) -> I64:
    labels = np.arange(num_documents)
    duplicates, kept = clusters(pairs, num_documents)
    labels[duplicates] = kept
    return labels


def random_pairs(generate: np.random.Generator, num_documents: int, count: int) -> I64:
    """Pairs of documents, many of which are near one another."""
    left = generate.integers(0, num_documents, count)
    distance = np.where(generate.random(count) < 0.5, 3, num_documents)
    right = np.minimum(left + generate.integers(1, distance + 1), num_documents - 1)
    pairs = np.stack([left, right])
    return pairs[:, left != right]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 120),
    st.integers(0, 150),
    st.sampled_from([8, 16, 64, 1024]),
    st.booleans(),
)
def test_labels_of_ranges_are_those_of_all_documents(
    seed: int, num_documents: int, num_pairs: int, range_documents: int, is_known: bool
) -> None:
    generate = np.random.default_rng(seed)
    pairs = random_pairs(generate, max(num_documents, 1), num_pairs)
    known_pairs = pairs[:, : num_pairs // 2 if is_known else 0]
    known = labels_of(known_pairs, num_documents)
    expected = labels_of(pairs, num_documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BLOCK_ROWS", 3)
        folder = Path(tempfile.gettempdir())
        with ClusterRanges(folder, num_documents, range_documents, 8) as ranges:
            new = pairs[:, known_pairs.shape[1] :]
            for at in range(0, new.shape[1], 7):
                ranges.add(new[:, at : at + 7])
            count = ranges.contract(lambda at, end: known[at:end])
            found = [*ranges.labels()]
    assert count == (expected != np.arange(num_documents)).sum()
    assert [first for first, _ in found] == list(range(0, num_documents, range_documents))
    joined = np.concatenate([np.empty(0, np.uint32), *(labels for _, labels in found)])
    np.testing.assert_array_equal(joined, expected)


def test_a_chain_over_all_ranges_is_one_cluster(tmp_path: Path) -> None:
    chain = np.stack([np.arange(999), np.arange(1, 1000)])
    with ClusterRanges(tmp_path, 1000, 8, 8) as ranges:
        ranges.add(chain[:, ::-1])
        assert ranges.contract() == 999
        assert all((labels == 0).all() for _, labels in ranges.labels())
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_number_of_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "HELD_ROWS", 1000)
    bucket_of = np.arange(40_000) % 400
    with Buckets(tmp_path, 400, 1, np.uint32) as made:
        for at in range(0, 40_000, 500):
            made.add(bucket_of[at : at + 500], np.arange(at, at + 500)[None])
        assert sum(rows.shape[1] for held in made._held for rows in held) <= 1000
        found = np.concatenate(list(made.read(7)), axis=1)
        np.testing.assert_array_equal(found[0], np.flatnonzero(bucket_of == 7))


def test_rows_of_a_bucket_come_back_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "BLOCK_ROWS", 10)
    rows = np.arange(2 * 300).reshape(2, 300)
    bucket_of = np.random.default_rng(0).integers(0, 4, 300)
    with Buckets(tmp_path, 5, 2, np.uint32) as made:
        for at in range(0, 300, 13):
            made.add(bucket_of[at : at + 13], rows[:, at : at + 13])
        for bucket in range(5):
            pieces = [np.empty((2, 0), np.uint32), *made.read(bucket)]
            found = np.concatenate(pieces, axis=1)
            np.testing.assert_array_equal(found, rows[:, bucket_of == bucket])
        assert sum(part.shape[1] for part in made._held[0]) < 10


def signed_in(folder: Path, counts: list[tuple[str, list[int]]]) -> StageResult[FileRun]:
    """Made-up documents: (source, documents of each file) of each run."""
    folder.mkdir()
    parts, records, first = [], [], 0
    for number, (source, sizes) in enumerate(counts):
        files = []
        for place, size in enumerate(sizes):
            name = f"{source}-{number}-{place}"
            files.append(
                DocumentFile(
                    name=name, source=source, num_documents=size, first=first, content=name
                )
            )
            first += size
        name = f"{source}-{number:06d}"
        lengths = np.arange(sum(sizes), dtype=np.uint32) + 100 * number
        save_array(folder / f"{name}.bytes.npy", lengths)
        parts.append(FileRun(name=name, source=source, files=files))
        records.append({"documents": sum(sizes), "outputs": {}})
    return StageResult(folder=folder, parts=parts, records=records, content_fingerprint="signed")


def pairs_in(folder: Path, by_band: list[tuple[int | None, I64]]) -> StageResult[PairsPart]:
    folder.mkdir()
    parts = []
    for number, (band, pairs) in enumerate(by_band):
        parts.append(PairsPart(name=f"pairs-{number}", band=band, number=0, num_ranges=1))
        save_array(folder / f"pairs-{number}.pairs.npy", pairs.astype(np.uint32))
    return StageResult(
        folder=folder,
        parts=parts,
        records=[{"pairs": p.shape[1]} for _, p in by_band],
        content_fingerprint=folder.name,
    )


def saved(array: Any) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def run(stage: Stage[Any], work: Path) -> StageResult[Any]:
    return run_stage(stage, work, SerialEngine(), ProgressReporter())


@pytest.mark.parametrize("range_documents", [8, 40, 1 << 20])
@pytest.mark.parametrize("has_pairs", [True, False])
def test_the_files_and_the_record_do_not_depend_on_the_ranges(
    tmp_path: Path, range_documents: int, has_pairs: bool
) -> None:
    runs = [("books", [30, 0, 45]), ("books", [26]), ("forum", [150, 50])]
    num_documents = 301
    generate = np.random.default_rng(5)
    exact, near, later = (
        random_pairs(generate, num_documents, count * has_pairs) for count in (60, 70, 40)
    )
    exact_duplicates, exact_kept = clusters(exact, num_documents)
    exact = np.stack([exact_kept, exact_duplicates])
    signed = signed_in(tmp_path / "signed", runs)
    first = pairs_in(tmp_path / "first", [(None, exact), (0, near)])
    limits = DedupLimits(cluster_documents=range_documents, labels=16, pairs=9)
    joined = run(clusters_stage(signed, first, limits), tmp_path)
    labels = labels_of(np.concatenate([exact, near], axis=1), num_documents)
    is_copy = np.isin(np.arange(num_documents), exact_duplicates)
    assert (joined.folder / LABELS).read_bytes() == saved(labels.astype(np.uint32))
    assert (joined.folder / COPIES).read_bytes() == saved(np.packbits(is_copy))
    assert joined.records[0]["joined"] == (labels != np.arange(num_documents)).sum()

    pairs = pairs_in(tmp_path / "pairs", [(5, labels[later]), (6, labels[later[:, :3]])])
    whole = run(all_clusters_stage(signed, joined, pairs, limits), tmp_path)
    labels = labels_of(np.concatenate([exact, near, later], axis=1), num_documents)
    duplicates = np.flatnonzero(labels != np.arange(num_documents))
    assert (whole.folder / ALL_LABELS).read_bytes() == saved(labels.astype(np.uint32))
    (record,) = whole.records
    sizes = Counter(Counter(labels[duplicates].tolist()).values())
    expected = {str(size + 1): sizes[size] for size in sorted(sizes)}
    assert list(record["cluster_sizes"].items()) == list(expected.items())
    assert record["duplicates"] == len(duplicates)

    result = run(verdicts_stage(signed, joined, whole, SOURCES, limits), tmp_path)
    codes = np.full(num_documents, KEEP, np.uint8)
    codes[duplicates] = NEAR
    codes[exact_duplicates] = EXACT
    kept_for = np.stack([duplicates, labels[duplicates]]).astype(np.uint32)
    for part in result.parts:
        first, end = part.files[0].first, part.files[0].first + part.num_documents
        here = (duplicates >= first) & (duplicates < end)
        files = [result.folder / f"{part.name}{s}" for s in (CODES_SUFFIX, KEPT_FOR_SUFFIX)]
        assert files[0].read_bytes() == saved(codes[first:end])
        assert files[1].read_bytes() == saved(np.ascontiguousarray(kept_for[:, here]))

    is_book = np.arange(num_documents) < 101
    stays, goes = labels[duplicates], duplicates
    assert stays_by_goes(result, SOURCES) == [
        [int((is_book[stays] == a)[is_book[goes] == b].sum()) for b in (True, False)]
        for a in (True, False)
    ]
    near_pairs = [[int(labels[d]), int(d)] for d in duplicates if codes[d] == NEAR]
    chosen = np.linspace(0, len(near_pairs) - 1, min(30, len(near_pairs))).astype(int)
    examples = near_examples(result)
    assert examples == [near_pairs[k] for k in chosen]
    lengths = np.concatenate([np.arange(75), 100 + np.arange(26), 200 + np.arange(200)])
    assert counts_by_source(result, SOURCES)["books"] == {
        f"{word}_{unit}": int((values * (is_book & (codes == code))).sum())
        for code, word in ((KEEP, "kept"), (EXACT, "exact"), (NEAR, "near"))
        for unit, values in (("documents", np.ones(num_documents, int)), ("bytes", lengths))
    }
    hashes = [record["files"] for record in result.records]
    assert hashes[2]["forum-2-1"] == xxhash.xxh3_128_hexdigest(codes[251:].tobytes())
    assert [list(names) for names in hashes] == [[f.name for f in p.files] for p in signed.parts]

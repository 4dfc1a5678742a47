"""Joins of ranges of keys: the pairs are those of all keys at once, whatever is read at once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dataset.atomic import save_array
from data_prep.dedup import joins, key_order, range_join, signature_batches
from data_prep.dedup import keys as keys_module
from data_prep.dedup.clusters import clusters, join, roots_of
from data_prep.dedup.joins import SimilarToFirst, exact_pairs, exact_pairs_of_one_key, near_pairs
from data_prep.dedup.keys import KeyRuns, keys_stage
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.minhash import NUM_BANDS, band_keys
from data_prep.dedup.range_join import KnownClusters, RangeJoin
from data_prep.dedup.signature_store import SignatureStore
from data_prep.dedup.signatures import FileRun
from data_prep.documents.files import DocumentFile
from data_prep.engine.engine import SerialEngine
from data_prep.engine.execution import run_stage
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import StageResult
from data_prep.text.batch import I64, U64

HIGHEST = (1 << 64) - 1
BANDS = [None, *range(2 * NUM_BANDS)]


def made(num_documents: int, num_kinds: int, seed: int = 0) -> tuple[U64, U64]:
    """Signatures [D, 14] and hashes [2, D] of documents, many of which are equal or similar."""
    generate = np.random.default_rng(seed)
    kinds = generate.integers(0, 1 << 64, (num_kinds, NUM_BANDS), dtype=np.uint64)
    kind = generate.integers(0, num_kinds, num_documents)
    signatures = kinds[kind]
    is_changed = generate.random(num_documents) < 0.5
    signatures[is_changed, generate.integers(0, NUM_BANDS)] ^= np.uint64(7)
    hashes = np.stack([signatures[:, 3] * np.uint64(3) + is_changed, signatures[:, 5]])
    return signatures, hashes


def signed_in(
    folder: Path, signatures: U64, hashes: U64, sizes: Sequence[int]
) -> StageResult[FileRun]:
    """The result of a signatures stage whose parts have `sizes` documents."""
    parts, records, first = [], [], 0
    folder.mkdir()
    for number, size in enumerate(sizes):
        name = f"made-{number:06d}"
        here = slice(first, first + size)
        save_array(folder / f"{name}.signatures.npy", signatures[here])
        save_array(folder / f"{name}.hashes.npy", np.ascontiguousarray(hashes[:, here]))
        file = DocumentFile(
            name=name,
            num_bytes=size,
            source="made",
            num_documents=size,
            first=first,
            content=f"{name} {size}",
        )
        parts.append(FileRun(name=name, num_bytes=size, source="made", files=[file]))
        records.append({"documents": size, "outputs": {name: {"xxh3_128": name}}})
        first += size
    return StageResult(folder=folder, parts=parts, records=records, content_fingerprint="made")


def join_of(
    folder: Path, signed: StageResult[FileRun], limits: DedupLimits, known: KnownClusters
) -> RangeJoin:
    stage = keys_stage(signed, BANDS)
    keys = run_stage(stage, folder, SerialEngine(), ProgressReporter())
    runs = KeyRuns(keys.folder, signed.parts, BANDS, limits)
    store = SignatureStore(signed.folder, signed.parts, limits)
    return RangeJoin(runs, store, known, 0.75, limits, folder)


def in_order(pairs: I64) -> I64:
    return pairs[:, np.lexsort((pairs[0], pairs[1]))]


@pytest.mark.parametrize("band", [None, 0, 9, 17])
@pytest.mark.parametrize(
    "limits",
    [
        DedupLimits(),
        DedupLimits(range_keys=40, open_files=2),
        DedupLimits(set_documents=20),
        DedupLimits(range_keys=20, set_documents=20, open_files=1),
    ],
    ids=["at once", "divided", "large sets", "divided to single keys"],
)
def test_pairs_are_those_of_all_keys_at_once(
    tmp_path: Path, band: int | None, limits: DedupLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_join, "_AT_ONCE", 7)
    monkeypatch.setattr(key_order, "KEYS_AT_ONCE", 16)
    monkeypatch.setattr(keys_module, "_DOCUMENTS_AT_ONCE", 50)
    monkeypatch.setattr(joins, "_DOCUMENTS_AT_ONCE", 30)
    monkeypatch.setattr(range_join, "_ENOUGH_HELD", 100)
    monkeypatch.setattr(range_join, "_MOST_HELD", 200)
    if limits.open_files == 1:  # as for more than 2^32 documents
        monkeypatch.setattr(keys_module, "number_type", lambda num_documents: np.int64)
    signatures, hashes = made(500, 9)
    numbers = np.arange(500)
    signed = signed_in(tmp_path / "signatures", signatures, hashes, [100, 1, 0, 250, 149])
    join = join_of(tmp_path, signed, limits, KnownClusters())
    found = [np.empty((2, 0), np.int64)]
    for low, high in ((0, HIGHEST // 3), (HIGHEST // 3 + 1, HIGHEST)):
        found += join.pairs(band, low, high)
    if band is None:
        expected = exact_pairs(hashes[0], hashes[1], numbers)
    else:
        keys = band_keys(signatures, band)
        expected, compared = near_pairs(keys, numbers, lambda n: signatures[n], 0.75)
        assert join.compared == compared
    assert expected.shape[1] > 300
    np.testing.assert_array_equal(in_order(np.concatenate(found, axis=1)), in_order(expected))


@pytest.mark.parametrize("sizes", [[], [40], [1, 1], [300, 299, 1, 150]])
def test_signatures_of_batches_are_those_of_each(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signature_batches, "_DOCUMENTS_AT_ONCE", 100)
    monkeypatch.setattr(signature_batches, "_SAMPLED", 10)
    signatures, hashes = made(900, 50)
    signed = signed_in(tmp_path / "signatures", signatures, hashes, [300, 1, 0, 450, 149])
    store = SignatureStore(signed.folder, signed.parts)
    chosen = np.random.default_rng(0).permutation(900)[: sum(sizes)].astype(np.uint32)
    batches = np.split(chosen, np.cumsum(sizes)[:-1]) if sizes else []
    found = list(signature_batches.signatures_of_batches(store, tmp_path, batches))
    assert len(found) == len(batches)
    for one, numbers in zip(found, batches, strict=True):
        np.testing.assert_array_equal(one, signatures[numbers])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("band", [0, 9])
def test_what_is_compared_does_not_depend_on_ranges_and_parts(
    tmp_path: Path, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_join, "_AT_ONCE", 7)
    signatures, hashes = made(500, 9)
    labels = np.arange(500)
    join(labels, exact_pairs(hashes[0], hashes[1], np.arange(500)))
    save_array(tmp_path / "labels.npy", roots_of(labels, np.arange(500)))
    known = KnownClusters(labels=tmp_path / "labels.npy")
    compared = []
    for number, (sizes, range_keys) in enumerate(
        [([500], 500), ([500], 10), ([100, 1, 0, 250, 149], 500), ([100, 1, 0, 250, 149], 10)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        signed = signed_in(folder / "signatures", signatures, hashes, sizes)
        limits = DedupLimits(range_keys=range_keys, set_documents=20)
        ranges = join_of(folder, signed, limits, known)
        assert list(ranges.pairs(band, 0, HIGHEST))
        compared.append(ranges.compared)
    assert compared[0]["candidates"] > 100
    assert compared == compared[:1] * 4


def test_copies_of_equal_documents_are_left_out_of_near_pairs(tmp_path: Path) -> None:
    signatures, hashes = made(200, 3)
    signed = signed_in(tmp_path / "signatures", signatures, hashes, [120, 80])
    copies = np.zeros(200, dtype=bool)
    copies[exact_pairs(hashes[0], hashes[1], np.arange(200))[1]] = True
    assert copies.sum() > 150
    save_array(tmp_path / "copies.npy", np.packbits(copies))
    known = KnownClusters(copies=tmp_path / "copies.npy")
    np.testing.assert_array_equal(known.are_first(np.arange(200)), ~copies)
    join = join_of(tmp_path, signed, DedupLimits(), known)
    for pairs in join.pairs(0, 0, HIGHEST):
        assert not copies[pairs].any()
    assert join.compared["candidates"] < 100


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 90), st.sampled_from([2, 40, 100]))
def test_a_set_read_in_parts_has_the_pairs_of_the_whole_set(
    seed: int, at_once: int, num_kinds: int
) -> None:
    signatures, hashes = made(300, num_kinds, seed)
    numbers = np.arange(300) * 3  # not the rows
    keys = np.zeros(300, dtype=np.uint64)
    chunks = [numbers[at : at + at_once] for at in range(0, 300, at_once)]
    similar = SimilarToFirst(lambda n: signatures[n // 3], 0.75)
    found = np.concatenate(list(similar.pairs(lambda: chunks)), axis=1)
    expected, compared = near_pairs(keys, numbers, lambda n: signatures[n // 3], 0.75)
    np.testing.assert_array_equal(in_order(found), in_order(expected))
    assert similar.compared == compared
    exact = list(exact_pairs_of_one_key(chunks, lambda n: hashes[1][n // 3]))
    expected = exact_pairs(keys, hashes[1], numbers)
    np.testing.assert_array_equal(in_order(np.concatenate(exact, axis=1)), in_order(expected))


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 90), st.sampled_from([1, 2, 40]), st.booleans())
def test_known_clusters_are_skipped_in_large_sets_and_change_no_cluster(
    seed: int, at_once: int, num_kinds: int, is_known: bool
) -> None:
    signatures, hashes = made(300, num_kinds, seed)
    numbers = np.arange(300)
    keys = np.zeros(300, dtype=np.uint64)
    first = exact_pairs(hashes[0], hashes[1], numbers)
    if is_known:  # all that is alike
        first = near_pairs(keys, numbers, lambda n: signatures[n], 0.75)[0]
    labels = np.arange(300)
    join(labels, first)
    root_of = labels[np.arange(300)]
    everything, before = near_pairs(keys, numbers, lambda n: signatures[n], 0.75)
    expected = clusters(np.concatenate([first, everything], axis=1), 300)

    def roots_of(some: I64) -> I64:
        return root_of[some]

    found, compared = near_pairs(keys, numbers, lambda n: signatures[n], 0.75, roots_of)
    similar = SimilarToFirst(lambda n: signatures[n], 0.75, roots_of)
    chunks = [numbers[at : at + at_once] for at in range(0, 300, at_once)]
    streamed = np.concatenate([*similar.pairs(lambda: chunks), found[:, :0]], axis=1)
    for pairs in (found, streamed):
        assert (root_of[pairs[0]] != root_of[pairs[1]]).all()
        again = clusters(np.concatenate([first, pairs], axis=1), 300)
        np.testing.assert_array_equal(again, expected)
    assert compared["candidates"] <= before["candidates"]
    if is_known and num_kinds == 1:
        assert compared["candidates"] == similar.compared["candidates"] == 0

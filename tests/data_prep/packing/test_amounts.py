"""Repeated sources, and sources of which only the first tokens are packed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.load import ConfigError
from data_prep.config import DataConfig
from data_prep.dataset.manifest import read_manifest
from data_prep.packing.amounts import first_tokens, places_of, repeated, repeated_count
from data_prep.packing.id_stream import Segment, SourceStream
from data_prep.run import prepare
from tests.data_prep.corpora import config_of, decoded_documents, random_texts, write_forum

READER = {"type": "jsonl"}


@given(st.integers(1, 60), st.floats(0.01, 5))
def test_documents_are_repeated_evenly(count: int, repeat: float) -> None:
    total = repeated_count(count, repeat)
    documents = repeated(count, total, np.arange(total)).tolist()
    times = Counter(documents)
    assert set(documents) <= set(range(count))
    assert all(abs(times[d] - total / count) < 1 for d in range(count))
    for start in range(0, total - count + 1, count):
        assert documents[start : start + count] == list(range(count))
    for document in range(count):
        places = places_of(count, total, document)
        assert places == [at for at, d in enumerate(documents) if d == document]


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=4), st.integers(1, 60)
)
def test_the_first_documents_that_fit_are_packed(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], most: int
) -> None:
    folder = tmp_path_factory.mktemp("streams")
    segments = []
    ids = np.empty(0, np.uint16)
    for number, part in enumerate(lengths):
        content = np.concatenate([[*range(7, 7 + length), 2] for length in part] or [[]])
        content.astype("<u2").tofile(folder / f"{number}.ids")
        np.save(folder / f"{number}.lengths.npy", np.array(part, dtype=np.uint32))
        segments.append(Segment(f"{number}", len(part), sum(part)))
        ids = np.concatenate([ids, content.astype(np.uint16)])
    found = first_tokens(folder, segments, most)
    of_all = [length for part in lengths for length in part]
    fitting = int((np.cumsum(of_all) <= most).sum()) if of_all else 0
    assert sum(s.documents for s in found) == fitting
    assert sum(s.tokens for s in found) == sum(of_all[:fitting])
    stream = SourceStream(folder, found, "uint16")
    got, starts = stream.documents(0, fitting)
    assert got.tolist() == of_all[:fitting]
    np.testing.assert_array_equal(stream.read(0, 10_000), ids[: sum(of_all[:fitting]) + fitting])
    np.testing.assert_array_equal(
        stream.gather(starts, got), np.concatenate([ids[:0], *(np.arange(7, 7 + n) for n in got)])
    )


def config(folder: Path, **changes: Any) -> DataConfig:
    """Two sources of 60 documents of 40 words."""
    sources = {}
    for seed, name in enumerate(("forum", "other")):
        if not (folder / name).exists():
            write_forum(folder / name, random_texts(60, seed=seed))
        sources[name] = {"reader": {**READER, "files": [f"{folder}/{name}/forum.jsonl"]}}
    sources["other"] |= changes.pop("other", {})
    filters = {"min_words": 5, "min_stop_words": 0, "repetition": None, "min_alphabetic_share": 0}
    return config_of(
        folder, **{"sources": sources, "filters": filters, "heldout_share": 0.2, **changes}
    )


def test_a_source_is_repeated_but_not_its_held_out_documents(tmp_path: Path) -> None:
    write_forum(tmp_path / "forum", random_texts(60))
    pack = {"row_tokens": 32, "block_rows": 8, "shard_mb": 1, "mixed": True}
    for mode in ("full_sentences", "best_fit"):
        prepare(config(tmp_path / mode, other={"repeat": 2.5}, pack={**pack, "mode": mode}))
        manifest = read_manifest(tmp_path / mode / "rows")
        report = json.loads((tmp_path / mode / "rows/report.json").read_text())
        kept = {name: account["kept"]["documents"] for name, account in report["accounts"].items()}
        assert kept == {"forum": 60, "other": 60}
        heldout = manifest.source("heldout", "mixed").documents
        rest = manifest.source("train", "mixed").documents
        assert heldout < 60
        # with h held-out documents of `other`: (60 - h) * 2.5 + 60 - (heldout - h)
        of_other = (120 - heldout) * 2.5 - rest
        of_forum_trained = of_other / 1.5
        assert abs(of_forum_trained - (60 - heldout / 2)) < 12
    with pytest.raises(ConfigError, match=r"other\.repeat is for pack\.mixed"):
        config(tmp_path, other={"repeat": 2})


def test_max_tokens_packs_the_first_documents(tmp_path: Path) -> None:
    documents = {}
    for part_mb in (64, 0.002):
        folder = tmp_path / str(part_mb)
        sources_of = config(folder, other={"max_tokens": 700}, part_mb=part_mb)
        prepare(sources_of)
        manifest = read_manifest(folder / "rows")
        entry = manifest.source("train", "other")
        assert 500 < entry.tokens <= 700
        documents[part_mb] = entry.documents, entry.tokens, manifest.source("train", "forum").tokens
        report = json.loads((folder / "rows/report.json").read_text())
        left_out = report["accounts"]["other"]["beyond_max_tokens"]
        assert (
            left_out["documents"]
            == 60 - entry.documents - manifest.source("heldout", "other").documents
        )
        assert len(decoded_documents(folder)) > entry.documents
    assert documents[64] == documents[0.002]

"""`pack.order_by`: related documents share rows, the same ones whatever the parts."""

import json
import random
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import ConfigError, UserError
from data_prep.checks import check
from data_prep.config import DataConfig
from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.dedup.signatures import FileRun
from data_prep.documents.files import DocumentFile
from data_prep.engine.costs import measured_costs
from data_prep.engine.engine import SerialEngine
from data_prep.engine.execution import run_stage
from data_prep.engine.progress import ProgressReporter
from data_prep.engine.stage import StageResult
from data_prep.explain import explain
from data_prep.limits import Limits
from data_prep.packing.id_stream import Segment
from data_prep.packing.order import _ranges, order_stage
from data_prep.packing.order_keys import BUCKETS, NO_KEY, buckets_of, key_hashes
from data_prep.packing.order_runs import OrderRunsStage
from data_prep.packing.placement import best_fit, grouped_best_fit
from data_prep.packing.streams import Streams
from data_prep.run import prepare
from tests.data_prep.corpora import WORDS, decoded_documents, forum_config, hashes_of

THREADS = ["red", "blue", 7, "7"]


def write_threads(folder: Path, number: int = 90) -> list[tuple[str, Any]]:
    """(text, thread) of documents whose threads alternate; every fifth has none."""
    generate = random.Random(0)
    records = []
    (folder / "raw").mkdir(parents=True)
    with open(folder / "raw/forum.jsonl", "w") as file:
        for place in range(number):
            text = f"document {place} " + " ".join(generate.choices(WORDS, k=8 + place % 7))
            record: dict[str, Any] = {"text": text}
            thread = None if place % 5 == 0 else THREADS[place % 4]
            if place % 10:
                record["thread"] = thread
            records.append((text, thread))
            file.write(json.dumps(record) + "\n")
    return records


def config_for(folder: Path, output: str, **changes: Any) -> DataConfig:
    reader = {
        "type": "jsonl",
        "files": [str(folder / "raw/forum.jsonl")],
        "metadata_fields": ["thread"],
    }
    pack = {"row_tokens": 64, "block_rows": 4, "shard_mb": 1, **changes.pop("pack", {})}
    config = forum_config(folder, sources={"forum": {"reader": reader}}, pack=pack, **changes)
    root = folder / output
    return config.model_copy(update={"output": root / "rows", "work": root / "work"})


BY_THREAD = {"type": "field", "field": "thread"}


def number_of(text: str) -> int:
    return int(text.split()[1])


def test_documents_of_a_key_follow_each_other_in_their_order(tmp_path: Path) -> None:
    records = write_threads(tmp_path)
    config = config_for(tmp_path, "whole", pack={"order_by": BY_THREAD}, heldout_share=0.1)
    prepare(config)
    found = decoded_documents(config.output.parent)
    threads = [repr(records[number_of(text)][1]) for text in found]
    runs = [thread for thread, _ in groupby(threads)]
    assert sorted(runs) == sorted({repr(thread) for thread in (*THREADS, None)})
    assert runs[-1] == "None"  # without a key: last
    for thread in set(threads):
        numbers = [number_of(t) for t, of in zip(found, threads, strict=True) if of == thread]
        assert numbers == sorted(numbers)
    report = json.loads((config.output / "report.json").read_text())
    assert report["accounts"]["forum"]["without_order_key"] == 18
    assert (
        "Documents without the field of pack.order_by"
        in (config.output / "report.html").read_text()
    )


@pytest.mark.parametrize("mode", ["full_sentences", "best_fit"])
def test_rows_do_not_depend_on_parts(tmp_path: Path, mode: str) -> None:
    write_threads(tmp_path)
    sums = []
    for name, part_mb, limits in (("one", 64.0, None), ("many", 0.001, Limits(order_documents=30))):
        pack = {"order_by": BY_THREAD, "mode": mode}
        config = config_for(tmp_path, name, pack=pack, part_mb=part_mb)
        prepare(config, limits)
        hashes = hashes_of(config.output.parent)
        sums.append({path: hashes[path] for path in hashes if path.endswith(".tar")})
    assert sums[0] == sums[1]
    assert sums[0]


def test_more_documents_than_are_sorted_at_once_are_divided(tmp_path: Path) -> None:
    records = write_threads(tmp_path)
    config = config_for(tmp_path, "few", pack={"order_by": BY_THREAD}, heldout_share=0)
    prepare(config, Limits(order_documents=8))
    found = decoded_documents(config.output.parent)
    assert sorted(map(number_of, found)) == list(range(len(records)))  # each one once
    threads = [repr(records[number_of(text)][1]) for text in found]
    assert len(list(groupby(threads))) < len(found) / 2
    without = [number_of(t) for t, of in zip(found, threads, strict=True) if of == "None"]
    assert threads[-len(without) :] == ["None"] * len(without)
    assert without == sorted(without)


def pieces_in_rows(config: DataConfig) -> list[list[int]]:
    """The numbers of the documents in each row."""
    manifest = read_manifest(config.output)
    reader = RowReader(config.output, manifest, "train")
    rows = reader.read("forum", np.arange(manifest.source("train", "forum").rows))
    tokenizer = load_tokenizer(config.output / "tokenizer.json")
    result = []
    for row in rows.astype(int).tolist():
        starts = [place for place, number in enumerate(row) if number == 0]
        texts = [
            tokenizer.decode(row[a:b]) for a, b in zip(starts, [*starts[1:], 128], strict=True)
        ]
        numbers = [number_of(t) for t in texts if t.startswith("document")]
        result.append(numbers)
    return result


def shared(rows: list[list[int]], related: Any) -> float:
    """Share of the pairs of neighbours in rows that are related."""
    pairs = [related(a, b) for row in rows for a, b in pairwise(row)]
    return float(np.mean(pairs))


def test_best_fit_puts_related_documents_into_rows(tmp_path: Path) -> None:
    records = write_threads(tmp_path)
    rows: dict[str, list[list[int]]] = {}
    orders: dict[str, Any] = {"none": None, "source": {"type": "source"}, "field": BY_THREAD}
    for name, order_by in orders.items():
        pack = {"order_by": order_by, "mode": "best_fit", "row_tokens": 128}
        config = config_for(tmp_path, name, pack=pack, heldout_share=0)
        prepare(config)
        rows[name] = pieces_in_rows(config)

    lines = (tmp_path / "raw/forum.jsonl").read_bytes().splitlines(keepends=True)
    offsets = np.cumsum([0, *map(len, lines)])[: len(lines)]
    fates = explain(config, [f"forum.jsonl:{offset}" for offset in offsets])
    for number, fate in enumerate(fates):  # of the last one, by field
        numbers = [n for first, last in fate["rows"] for n in range(first, last + 1)]
        assert numbers == [n for n, row in enumerate(rows["field"]) if number in row]

    def same_thread(a: int, b: int) -> bool:
        return repr(records[a][1]) == repr(records[b][1]) != "None"

    def neighbours(a: int, b: int) -> bool:
        return b == a + 1

    assert shared(rows["field"], same_thread) > 0.5 > shared(rows["none"], same_thread)
    assert shared(rows["source"], neighbours) > 0.5 > shared(rows["none"], neighbours)
    assert len(rows["field"]) <= 1.25 * len(rows["none"])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 70), st.integers(-1, 3)), max_size=40), st.integers(8, 24))
def test_grouped_placements_hold_every_id_once(
    documents: list[tuple[int, int]], row_tokens: int
) -> None:
    lengths = np.array([length for length, _ in documents], np.int64)
    groups = np.array([group for _, group in documents], np.int64)
    starts = np.cumsum(lengths + 1) - (lengths + 1)
    placed = grouped_best_fit(lengths, starts, groups, row_tokens)
    ends = placed.column + placed.length + 2
    assert (ends <= row_tokens).all()
    same_row = placed.row[1:] == placed.row[:-1]
    assert (placed.column[1:][same_row] == ends[:-1][same_row]).all()  # no gap, no overlap
    assert (placed.column[np.append(True, ~same_row)[: len(placed.row)]] == 0).all()
    ids: npt.NDArray[np.int64] = np.concatenate(
        [np.arange(s, s + n) for s, n in zip(placed.start, placed.length, strict=True)]
        or [np.empty(0, np.int64)]
    )
    expected = np.concatenate(
        [np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)]
        or [np.empty(0, np.int64)]
    )
    assert np.array_equal(np.sort(ids), expected)
    alone = grouped_best_fit(lengths, starts, np.full(len(lengths), -1), row_tokens)
    for found, wanted in zip(alone, best_fit(lengths, starts, row_tokens), strict=True):
        assert np.array_equal(found, wanted)  # every document is a group: plain best fit


@settings(max_examples=100)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 99))
def test_parts_cover_every_document_once(counts: list[int], at_once: int) -> None:
    documents = sum(counts)
    covered = np.zeros(len(counts), np.int64)
    for first, end, low, high in _ranges(np.array(counts), documents, at_once):
        covered[first:end] += high - low
        assert min(high - low, sum(counts[first:end])) <= at_once
    assert (covered[np.array(counts) > 0] == documents).all()


@pytest.mark.parametrize("share_without", [0.0, 0.6])
def test_what_is_read_of_a_document_does_not_depend_on_the_parts(
    tmp_path: Path, share_without: float
) -> None:
    sorted_keys, streams = sorted_runs(tmp_path, share_without)
    documents = sum(streams.documents("train"))
    num_parts, bytes_read = [], []
    for at_once in (documents // 2, documents // 8):
        stage = order_stage(sorted_keys, streams, at_once)
        found = 0
        with measured_costs() as costs:
            for part in stage.parts:
                found += stage.run_part(tmp_path, part).counts["documents"]
        assert found == documents
        num_parts.append(len(stage.parts))
        bytes_read.append(costs.bytes_read)
    assert num_parts[1] > 2.5 * num_parts[0]
    assert 32 * documents <= bytes_read[0] < 40 * documents
    # Runs at the ends of ranges of documents are read by two parts.
    assert bytes_read[1] < 1.1 * bytes_read[0]


def test_parts_of_a_stream_that_ends_early_do_not_depend_on_the_runs(tmp_path: Path) -> None:
    plans = []
    for files_of_run in (1, 2, 16):
        folder = tmp_path / str(files_of_run)
        folder.mkdir()
        sorted_keys, streams = sorted_runs(folder, 0.3, files_of_run)
        segments = streams.sources["train", "forum"]
        cut = Segment(segments[20].name, 300, 6_000)  # as by `max_tokens`, within a file
        streams = replace(streams, sources={("train", "forum"): [*segments[:20], cut]})
        stage = order_stage(sorted_keys, streams, 8_000)
        plans.append([part.plan() for part in stage.parts])
        found = [stage.run_part(folder, part).counts["documents"] for part in stage.parts]
        assert sum(found) == 20 * 1_250 + 300
    assert plans[0] == plans[1] == plans[2]


def sorted_runs(
    folder: Path, share_without: float, files_of_run: int = 2
) -> tuple[StageResult[FileRun], Streams]:
    """Sorted keys of 80 files in runs, and the streams of their documents."""
    generate = np.random.default_rng(0)
    files, segments = [], []
    for number in range(80):
        name = f"forum-{number:06d}"
        keys = generate.integers(0, NO_KEY, 1_250, dtype=np.uint64)
        keys[generate.random(1_250) < share_without] = NO_KEY
        lengths = generate.integers(1, 50, 1_250, dtype=np.uint32)
        for split, count in (("train", 1_250), ("heldout", 0)):
            save_array(folder / f"{name}.{split}.keys.npy", keys[:count])
            save_array(folder / f"{name}.{split}.lengths.npy", lengths[:count])
        segments.append(Segment(f"{name}.train", 1_250, int(lengths.sum())))
        files.append(
            DocumentFile(
                name=name,
                source="forum",
                num_documents=1_250,
                first=number * 1_250,
                content=name,
            )
        )
    runs = [
        FileRun(name=f"forum-{first:06d}", source="forum", files=files[first:][:files_of_run])
        for first in range(0, len(files), files_of_run)
    ]
    stage = OrderRunsStage(
        parts=runs,
        inputs={},
        keys=folder,
        encoded=folder,
        contents={file.name: ("", "") for file in files},
    )
    done = run_stage(stage, folder, SerialEngine(), ProgressReporter())
    streams = Streams(folder, "uint16", {("train", "forum"): segments}, {("train", "forum"): ""})
    return done, streams


def test_values_are_hashed_as_json() -> None:
    lines = [b'{"t": 1}', b'{"t": "1"}', b'{"t": null}', b'{"t": ""}', b"{}", b'{"t": 1}']
    keys = key_hashes(lines, len(lines), "t")
    assert (keys == NO_KEY).tolist() == [False, False, True, True, True, False]
    assert keys[0] == keys[5] != keys[1]
    assert (buckets_of(keys) == BUCKETS).tolist() == (keys == NO_KEY).tolist()
    assert (key_hashes(None, 3, "t") == NO_KEY).all()


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        ({"mode": "doc_sentences"}, "does not go with mode doc_sentences"),
        ({"mixed": True}, "does not go with mixed: true"),
        ({"order_by": {"type": "field", "field": "repo"}}, "no source has 'repo' in its reader"),
    ],
)
def test_what_has_no_effect_is_refused(tmp_path: Path, pack: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(tmp_path, "x", pack={"order_by": BY_THREAD, **pack})


def test_a_field_that_no_record_has_is_refused_before_the_work(tmp_path: Path) -> None:
    write_threads(tmp_path)
    config = config_for(tmp_path, "typo", pack={"order_by": BY_THREAD})
    order_by = config.pack.order_by.model_copy(update={"field": "thraed"})  # type: ignore[union-attr]
    pack = config.pack.model_copy(update={"order_by": order_by})
    config = config.model_copy(update={"pack": pack})
    (forum,) = config.sources.values()
    reader = forum.reader.model_copy(update={"metadata_fields": ("thraed",)})
    typo = forum.model_copy(update={"reader": reader})
    alone = config.model_copy(update={"sources": {"forum": typo}})
    with pytest.raises(UserError, match=r"none of the first 20 documents of forum has 'thraed'"):
        check(alone)
    with open(tmp_path / "raw/other.jsonl", "w") as file:
        file.write(json.dumps({"text": "one", "thraed": 0}) + "\n")
    files = (str(tmp_path / "raw/other.jsonl"),)
    other = typo.model_copy(update={"reader": reader.model_copy(update={"files": files})})
    both = config.model_copy(update={"sources": {"forum": typo, "other": other}})
    (notice,) = [n for n in check(both).notices if "order_by" in n]
    assert "documents of forum has 'thraed'" in notice
    assert "other" not in notice

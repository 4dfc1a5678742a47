"""Data preparation as a whole: the same shards whatever the parts, and if killed and resumed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import numpy as np
import pytest

from configs.load import UserError
from data_prep.dataset.manifest import SPLITS, read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.dataset.verify import verify_shards
from data_prep.dedup.limits import DedupLimits
from data_prep.dry_run import describe
from data_prep.engine.workers import LocalEngineConfig
from data_prep.limits import Limits
from data_prep.run import prepare, restart
from tests.data_prep.corpora import config_of, hashes_of, write_corpus


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and its rows, prepared without interruption."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus(folder / "raw")
    prepare(config_of(folder))
    return folder


def test_every_kept_document_is_in_the_rows_once(made: Path) -> None:
    manifest = read_manifest(made / "rows")
    verify_shards(made / "rows", manifest, full=True)
    tokenizer = load_tokenizer(made / "rows/tokenizer.json")
    got = []
    for split in SPLITS:
        entry = manifest.source(split, "forum")
        rows = RowReader(made / "rows", manifest, split).read("forum", np.arange(entry.rows))
        assert (rows[:, 0] == 0).all()
        inner = np.concatenate([row[1 : len(row) - 1 - (row == 1).sum()] for row in rows])
        ends = np.flatnonzero(inner == 2)
        assert len(ends) == entry.documents
        assert len(inner) - len(ends) == entry.tokens
        for start, end in zip(np.append(0, ends[:-1] + 1), ends, strict=True):
            got.append(tokenizer.decode(inner[start:end].tolist()))
    lines = (made / "raw/forum.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    expected = [text for n, text in enumerate(texts) if n % 4 or n < 4]
    assert sorted(got) == sorted(expected)


def test_the_report_counts_dropped_documents_by_reason(made: Path) -> None:
    data = json.loads((made / "rows/report.json").read_text())
    forum, books = data["sources"]["forum"], data["sources"]["books"]
    assert (forum["exact_documents"], forum["near_documents"]) == (30, 29)
    assert books["dropped"] == {"too few words": 1}
    kept = (path.read_text() for path in (made / "raw").glob("book*.txt"))
    num_words = sum(len(text.split()) for text in kept)
    assert books["tokens_per_word"] == pytest.approx(books["tokens"] / num_words)
    assert forum["read_documents"] == 240 == forum["kept_documents"] + 59
    page = (made / "rows/report.html").read_text()
    assert "too few words" in page
    assert "too short" in page


def test_a_second_run_does_nothing(made: Path, logged: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    prepare(config_of(made, engine={"type": "local"}))
    (message,) = logged
    assert "nothing to do" in message
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("mode", ["full_sentences", "doc_sentences", "best_fit"])
def test_rows_do_not_depend_on_parts_or_workers(made: Path, tmp_path: Path, mode: str) -> None:
    (tmp_path / "raw").symlink_to(made / "raw")
    pack = {"row_tokens": 32, "block_rows": 8, "shard_mb": 1, "mode": mode}
    prepare(config_of(tmp_path, pack=pack))
    whole = hashes_of(tmp_path / "rows")
    restart(config_of(tmp_path), "ingest")
    prepare(config_of(tmp_path, pack=pack, part_mb=0.009))
    assert len(list((tmp_path / "work/ingest").glob("forum-*.parquet"))) > 10
    assert hashes_of(tmp_path / "rows") == whole


@pytest.mark.parametrize("extra_stages", [False, True])
def test_rows_do_not_depend_on_the_memory_limits(
    made: Path, tmp_path: Path, extra_stages: bool
) -> None:
    for name in ("at_once", "in_ranges"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "raw").symlink_to(made / "raw")
    rules: dict[str, Any] = {
        "dedup": {"lines": {"min_words": 2, "max_documents": 1}},
        "decontaminate": {"ngram_words": 2, "max_share": 0.15},
    }
    rules = rules if extra_stages else {}
    prepare(config_of(tmp_path / "at_once", **rules))
    limits = DedupLimits(
        signature_parts=3,
        join_documents=50,
        range_keys=20,
        set_documents=2,
        join_lines=70,
        line_files=2,
        join_ids=60,
        table_ngrams=40,
        pairs=3,
        cluster_documents=48,
        labels=8,
        open_files=2,
    )
    prepare(config_of(tmp_path / "in_ranges", **rules, part_mb=0.05), Limits(dedup=limits))
    work = tmp_path / "in_ranges/work"
    assert (work / "pairs/band-27-0002.record.json").exists()
    assert (work / "line_repeats/forum-000005.record.json").exists() == extra_stages
    assert (work / "line_runs/forum-000001.record.json").exists() == extra_stages
    assert hashes_of(tmp_path / "in_ranges/rows") == hashes_of(tmp_path / "at_once/rows")
    reports = [
        json.loads((tmp_path / name / "rows/report.json").read_text())
        for name in ("at_once", "in_ranges")
    ]
    for key in ("cluster_sizes", "stays_by_goes", "near_examples"):
        assert reports[0][key] == reports[1][key]
    forum = reports[0]["sources"]["forum"]
    assert (forum["removed_lines"] > 10) == extra_stages
    assert (150 > forum["contaminated_documents"] > 10) == extra_stages


def test_documents_of_a_file_that_cannot_be_cut_are_written_to_several_files(
    made: Path, tmp_path: Path
) -> None:
    limits = Limits(batch_characters=5000)
    (tmp_path / "raw").mkdir()
    packed = gzip.compress((made / "raw/forum.jsonl").read_bytes())
    (tmp_path / "raw/forum.jsonl.gz").write_bytes(packed)
    (tmp_path / "raw/book.txt").write_bytes((made / "raw/book3.txt").read_bytes())
    reader = {"type": "jsonl", "files": [str(tmp_path / "raw/*.gz")], "id_field": "id"}
    sources = config_of(tmp_path).model_dump(mode="json")["sources"] | {"forum": {"reader": reader}}
    prepare(config_of(tmp_path, sources=sources), limits)
    whole = hashes_of(tmp_path / "rows")
    restart(config_of(tmp_path), "ingest")
    prepare(config_of(tmp_path, sources=sources, part_mb=len(packed) / 1e6), limits)
    pieces = sorted((tmp_path / "work/ingest").glob("forum-000000.*.parquet"))
    assert len(pieces) > 2
    assert len(list((tmp_path / "work/encode").glob("forum-*.train.ids"))) == len(pieces)
    assert hashes_of(tmp_path / "rows") == whole


def test_a_run_that_is_killed_and_resumed_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(made / "raw")
    config = config_of(tmp_path, engine={"type": "local", "workers": 2})
    path = tmp_path / "config.yaml"
    path.write_text(config.model_dump_json())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "data_prep.run", str(path)]
    for seconds in (1.5, 2.5, 3.0):
        job = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )
        time.sleep(seconds)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")


def test_the_dashboard_answers_at_the_logged_address(logged: list[str]) -> None:
    with LocalEngineConfig(workers=1).build() as engine:
        results = engine.run(abs, [(-1,), (-2,)], ["one", "two"])
        done = [next(results)]
        (address,) = (
            line.removeprefix("Dask dashboard: ") for line in logged if "dashboard" in line
        )
        page = build_opener(ProxyHandler({})).open(address, timeout=60).read().decode()
        done += results
    assert sorted(done) == [1, 2]
    assert "Bokeh" in page
    assert "Task Stream" in page


def test_a_lost_shard_is_written_again(made: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(made / "raw")
    config = config_of(tmp_path)
    prepare(config)
    before = hashes_of(tmp_path / "rows")
    (tmp_path / "rows/shards/train-forum-000000.tar").unlink()
    prepare(config)
    assert hashes_of(tmp_path / "rows") == before


def test_different_settings_are_refused_without_restart_from(made: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(made / "raw")
    prepare(config_of(tmp_path))
    before = hashes_of(tmp_path / "rows")
    changed = config_of(tmp_path, pack={"row_tokens": 64, "block_rows": 8, "shard_mb": 1})
    with pytest.raises(UserError, match=r"row_tokens: was 32, now 64(.|\n)*--restart-from layout"):
        prepare(changed)
    assert hashes_of(tmp_path / "rows") == before
    restart(changed, "layout")
    assert not (tmp_path / "rows/manifest.json").exists()
    prepare(changed)
    assert read_manifest(tmp_path / "rows").row_tokens == 64


def test_a_missing_corpus_is_a_clear_error_without_traceback(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_of(tmp_path).model_dump_json())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-m", "data_prep.run", str(path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    head, *problems = result.stderr.splitlines()
    assert head == "error: 2 problem(s) found before the work"
    for name, problem in zip(("books", "forum"), problems, strict=True):
        assert problem.startswith(f"  sources.{name}.reader.files: ")
        assert "matches no file" in problem
    assert "Traceback" not in result.stderr


def test_a_dry_run_prints_sizes_and_stages_and_does_nothing(made: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(made / "raw")
    plan = describe(config_of(tmp_path))
    assert "forum           jsonl" in plan
    assert plan.count("not started") == 15
    assert describe(config_of(made)).count("  done") == 15
    assert not (tmp_path / "work").exists()

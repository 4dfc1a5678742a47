"""Finished work is kept when sources or files are added, and files that changed are named."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.dataset.manifest import read_manifest
from data_prep.publish import withdraw
from data_prep.run import prepare, restart
from tests.data_prep.corpora import config_of, hashes_of, write_corpus

_FILE_TOKENIZER = {"type": "file"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "raw")
    news = folder / "raw/news"
    news.mkdir()
    books = sorted((folder / "raw").glob("book1*.txt"))
    for number, path in enumerate(books):  # one of them is a copy of a book, the others are new
        text = path.read_text()
        words = text.split(" ")
        (news / f"n{number}.txt").write_text(text if number == 0 else " ".join(words[::-1]))
    return folder


def config(
    corpus: Path, folder: Path, *names: str, tokenizer: Path | None = None, **changes: Any
) -> DataConfig:
    sources = {
        "books": {"reader": {"type": "text", "files": [str(corpus / "raw/*.txt")]}},
        "forum": {"reader": {"type": "jsonl", "files": [str(corpus / "raw/*.jsonl")]}},
        "news": {"reader": {"type": "text", "files": [str(corpus / "raw/news/*.txt")]}},
    }
    chosen = {name: sources[name] for name in names}
    if tokenizer is not None:
        changes["tokenizer"] = {"type": "file", "path": str(tokenizer)}
    return config_of(folder, sources=chosen, part_mb=0.03, **changes)


def parts_run(work: Path, before: dict[str, int]) -> dict[str, list[str]]:
    """The names of the parts of each stage whose records are newer than `before`."""
    return {
        stage.name: sorted(
            path.name.removesuffix(".record.json")
            for path in stage.glob("*.record.json")
            if path.stat().st_mtime_ns != before.get(str(path))
        )
        for stage in sorted(work.iterdir())
        if stage.is_dir()
    }


def record_times(work: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in work.rglob("*.record.json")}


@pytest.mark.parametrize("mode", ["full_sentences", "best_fit"])
def test_an_added_source_is_read_alone_and_gives_the_bytes_of_all_at_once(
    corpus: Path, tmp_path: Path, mode: str, logged: list[str]
) -> None:
    pack = {"row_tokens": 32, "block_rows": 8, "shard_mb": 1, "mode": mode}
    lines = {"lines": {"max_documents": 3}}
    prepare(config(corpus, tmp_path / "first", "books", "forum", pack=pack))
    tokenizer = tmp_path / "first/rows/tokenizer.json"
    options: dict[str, Any] = {"tokenizer": tokenizer, "pack": pack, "dedup": lines}
    grown = tmp_path / "grown"
    prepare(config(corpus, grown, "books", "forum", **options))
    before = record_times(grown / "work")
    prepare(config(corpus, grown, "books", "forum", "news", **options))
    prepare(config(corpus, tmp_path / "at_once", "books", "forum", "news", **options))
    assert hashes_of(grown / "rows") == hashes_of(tmp_path / "at_once/rows")
    again = parts_run(grown / "work", before)
    for stage in ("ingest", "line_counts", "line_table", "clean", "signatures", "encode"):
        assert again[stage], stage
        assert all(name.startswith("news") for name in again[stage]), (stage, again[stage])
    assert again["tokenizer"] == []
    assert again["rows"] == ["train-news-000000"]
    assert any("files of the new source 'news'" in line for line in logged)


def test_a_source_before_the_others_gives_the_bytes_of_all_at_once(
    corpus: Path, tmp_path: Path
) -> None:
    """The documents are numbered differently, and other copies are kept."""
    prepare(config(corpus, tmp_path / "grown", "books", "forum"))
    before = record_times(tmp_path / "grown/work")
    prepare(config(corpus, tmp_path / "grown", "news", "books", "forum"))
    prepare(config(corpus, tmp_path / "at_once", "news", "books", "forum"))
    assert hashes_of(tmp_path / "grown/rows") == hashes_of(tmp_path / "at_once/rows")
    again = parts_run(tmp_path / "grown/work", before)
    assert again["ingest"]
    assert all(name.startswith("news") for name in again["ingest"])


def test_a_run_killed_while_a_source_is_added_is_resumed(corpus: Path, tmp_path: Path) -> None:
    prepare(config(corpus, tmp_path / "grown", "books"))
    added = config(corpus, tmp_path / "grown", "books", "forum")

    class Killed(Exception):
        pass

    def killed_before(stage: str) -> Any:
        if stage == "first_pairs":
            raise Killed
        return open(os.devnull)

    with pytest.raises(Killed):
        prepare(added, around_stage=killed_before)
    prepare(added)
    prepare(config(corpus, tmp_path / "at_once", "books", "forum"))
    assert hashes_of(tmp_path / "grown/rows") == hashes_of(tmp_path / "at_once/rows")


def test_files_added_to_a_source_leave_finished_parts(
    corpus: Path, tmp_path: Path, logged: list[str]
) -> None:
    shutil.copytree(corpus / "raw", tmp_path / "corpus/raw")
    held_back = tmp_path / "corpus/raw/short.txt"
    text = held_back.read_text()
    held_back.unlink()
    grown = config(tmp_path / "corpus", tmp_path / "grown", "books", "forum")
    prepare(grown)
    before = record_times(tmp_path / "grown/work")
    held_back.write_text(text)
    shutil.copy(corpus / "raw/news/n1.txt", tmp_path / "corpus/raw/z.txt")
    prepare(grown)
    prepare(config(tmp_path / "corpus", tmp_path / "at_once", "books", "forum"))
    assert hashes_of(tmp_path / "grown/rows") == hashes_of(tmp_path / "at_once/rows")
    again = parts_run(tmp_path / "grown/work", before)["ingest"]
    assert again
    assert not any(name.startswith("forum") for name in again)
    assert "ingest: 2 new files of the source 'books'; parts that are finished are kept" in logged


def test_files_that_changed_or_disappeared_are_named(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus / "raw", tmp_path / "raw")
    changed = config(tmp_path, tmp_path, "books", "forum")
    prepare(changed)
    path = tmp_path / "raw/book3.txt"
    path.write_bytes(path.read_bytes()[::-1])
    (tmp_path / "raw/book4.txt").unlink()
    with pytest.raises(UserError) as error:
        prepare(changed)
    message = str(error.value)
    size = path.stat().st_size
    assert f"books: {path}: changed, was {size:,} bytes of 20" in message
    assert f"books: {tmp_path}/raw/book4.txt: removed" in message
    assert "parts" not in message.replace("finished parts", "")
    assert "--restart-from ingest" in message


def test_an_edit_that_keeps_the_size_and_the_time_changes_the_manifest(
    corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(corpus / "raw", tmp_path / "raw")
    edited = config(tmp_path, tmp_path, "books", "forum")
    prepare(edited)
    before = read_manifest(tmp_path / "rows")
    path = tmp_path / "raw/book3.txt"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes().replace(b"the ", b"and ", 1))
    os.utime(path, ns=times)
    restart(edited, "ingest")
    prepare(edited)
    after = read_manifest(tmp_path / "rows")
    assert after.stages["ingest"] != before.stages["ingest"]
    assert after.stages["rows"] != before.stages["rows"]
    prepare(config(tmp_path, tmp_path / "at_once", "books", "forum"))
    assert hashes_of(tmp_path / "rows") == hashes_of(tmp_path / "at_once/rows")


def test_an_edit_of_an_evaluation_file_that_keeps_its_size_is_seen(
    corpus: Path, tmp_path: Path
) -> None:
    def evaluation(text: str) -> str:
        (tmp_path / "eval.jsonl").write_text(json.dumps({"text": text}) + "\n")
        os.utime(tmp_path / "eval.jsonl", ns=(0, 0))
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        reader = {"type": "jsonl", "files": [str(tmp_path / "eval.jsonl")]}
        rules = {"evaluation": {"quiz": reader}, "ngram_words": 5}
        prepare(config(corpus, tmp_path, "forum", decontaminate=rules))
        withdraw(tmp_path / "rows")
        prepare(config(corpus, tmp_path, "forum", decontaminate=rules))
        return read_manifest(tmp_path / "rows").stages["excluded_ngrams"]

    assert evaluation("one two three four five six") != evaluation("one two three five four six")


def test_rows_stay_finished_when_the_work_folder_is_deleted(
    corpus: Path, tmp_path: Path, logged: list[str]
) -> None:
    made = config(corpus, tmp_path, "books", "forum")
    prepare(made)
    before = hashes_of(tmp_path / "rows")
    shutil.rmtree(tmp_path / "work")
    prepare(made)
    assert not (tmp_path / "work").exists()
    assert logged[-1] == f"{tmp_path}/rows: finished before and whole, nothing to do"
    next((tmp_path / "rows/shards").glob("*.tar")).unlink()
    prepare(made)
    assert hashes_of(tmp_path / "rows") == before
    shutil.rmtree(tmp_path / "work")
    prepare(config(corpus, tmp_path, "books", "forum", heldout_share=0.2))
    assert any("holds rows of other settings or files" in line for line in logged)
    assert hashes_of(tmp_path / "rows") != before

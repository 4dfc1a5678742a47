"""Data preparation as a whole: sources to shards, the same however it is cut, killed or resumed."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs.load import UserError, validate
from data_prep.config import DataConfig
from data_prep.run import prepare
from data_prep.shards import RowReader, read_manifest, verify_shards
from data_prep.stages import restart_from
from data_prep.tokenizer import load_tokenizer

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "nd", "st", "ra")]


def write_corpus(folder: Path, num_documents: int = 240) -> None:
    """Two sources; in "forum", every fourth document copies or nearly copies an earlier one."""
    generate = random.Random(0)

    def text(num_words: int) -> str:
        words = generate.choices(WORDS, k=num_words)
        for at in range(0, num_words, 9):
            words[at] = generate.choice(["the", "of", "and"])
        lines = [" ".join(words[at : at + 12]) for at in range(0, num_words, 12)]
        return ".\n".join(lines)

    folder.mkdir(parents=True)
    forum = [text(generate.randint(60, 300)) for _ in range(num_documents)]
    for number in range(4, num_documents, 4):
        forum[number] = forum[number - 3] + ("" if number % 8 else " and so on")
    with open(folder / "forum.jsonl", "w") as file:
        for number, document in enumerate(forum):
            file.write(json.dumps({"text": document, "id": number}) + "\n")
    (folder / "short.txt").write_text("too short\n")
    for number in range(12):
        (folder / f"book{number}.txt").write_text(text(900))


def config_of(folder: Path, **changes) -> DataConfig:
    tree = {
        "output": str(folder / "rows"),
        "work": str(folder / "work"),
        "sources": {
            "books": {"reader": {"type": "text", "files": [str(folder / "raw/*.txt")]}},
            "forum": {
                "reader": {
                    "type": "jsonl",
                    "files": [str(folder / "raw/*.jsonl")],
                    "id_field": "id",
                }
            },
        },
        "tokenizer": {"type": "train", "vocab_size": 400},
        "pack": {"row_tokens": 32, "block_rows": 8, "shard_mb": 1},
        "heldout_share": 0.1,
        "engine": {"type": "serial"},
    }
    return validate(tree | changes, DataConfig, "test")


def hashes_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a data set but the report."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("report")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus and the rows made of it in one go."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus(folder / "raw")
    prepare(config_of(folder))
    return folder


def test_every_kept_document_is_in_the_rows_once(made):
    manifest = read_manifest(made / "rows")
    verify_shards(made / "rows", manifest, full=True)
    tokenizer = load_tokenizer(made / "rows/tokenizer.json")
    got = []
    for split in ("train", "heldout"):
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


def test_the_report_says_what_was_dropped_and_why(made):
    data = json.loads((made / "rows/report.json").read_text())
    forum, books = data["sources"]["forum"], data["sources"]["books"]
    assert (forum["exact_documents"], forum["near_documents"]) == (30, 29)
    assert books["dropped"] == {"too few words": 1}
    assert forum["read_documents"] == 240 == forum["kept_documents"] + 59
    page = (made / "rows/report.html").read_text()
    assert "too few words" in page
    assert "too short" in page


def test_a_second_run_does_nothing(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    prepare(config_of(made, engine={"type": "local"}))
    assert "nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("mode", ["full_sentences", "doc_sentences", "best_fit"])
def test_rows_do_not_depend_on_parts_or_workers(made, tmp_path, mode):
    (tmp_path / "raw").symlink_to(made / "raw")
    pack = {"row_tokens": 32, "block_rows": 8, "shard_mb": 1, "mode": mode}
    prepare(config_of(tmp_path, pack=pack))
    whole = hashes_of(tmp_path / "rows")
    restart_from(tmp_path / "work", [path.name for path in (tmp_path / "work").iterdir()])
    prepare(config_of(tmp_path, pack=pack, part_mb=0.009))
    assert len(list((tmp_path / "work/ingest").glob("forum-*.parquet"))) > 10
    assert hashes_of(tmp_path / "rows") == whole


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(made, tmp_path):
    (tmp_path / "raw").symlink_to(made / "raw")
    config = config_of(tmp_path, engine={"type": "local", "workers": 2})
    path = tmp_path / "config.yaml"
    path.write_text(config.model_dump_json())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "data_prep.run", str(path)]
    for seconds in (2.0, 3.0, 4.0):
        job = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )
        time.sleep(seconds)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")


def test_a_lost_shard_is_made_again(made, tmp_path):
    (tmp_path / "raw").symlink_to(made / "raw")
    config = config_of(tmp_path)
    prepare(config)
    before = hashes_of(tmp_path / "rows")
    (tmp_path / "rows/shards/train-forum-000000.tar").unlink()
    prepare(config)
    assert hashes_of(tmp_path / "rows") == before


def test_other_settings_are_refused_until_told_where_to_restart(made, tmp_path):
    (tmp_path / "raw").symlink_to(made / "raw")
    prepare(config_of(tmp_path))
    before = hashes_of(tmp_path / "rows")
    changed = config_of(tmp_path, pack={"row_tokens": 64, "block_rows": 8, "shard_mb": 1})
    with pytest.raises(UserError, match=r"row_tokens: was 32, now 64(.|\n)*--restart-from layout"):
        prepare(changed)
    assert hashes_of(tmp_path / "rows") == before
    restart_from(tmp_path / "work", ["layout", "rows"])
    prepare(changed)
    assert read_manifest(tmp_path / "rows").row_tokens == 64


def test_a_missing_corpus_is_a_clear_error_without_traceback(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(config_of(tmp_path).model_dump_json())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    result = subprocess.run(
        [sys.executable, "-m", "data_prep.run", str(path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: sources.books.reader.files: ")
    assert "matches no file" in result.stderr
    assert "Traceback" not in result.stderr

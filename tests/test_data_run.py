"""Data preparation as a whole: sources to shards, the same however it is cut, killed or resumed."""

import errno
import hashlib
import json
import os
import random
import shutil
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


NOTICE = "Subscribe to our weekly letter for more of the same."


def write_forum(folder, texts):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "forum.jsonl").write_text("".join(lines))


def forum_config(folder, **changes):
    reader = {"type": "jsonl", "files": [str(folder / "raw/forum.jsonl")]}
    filters = {"min_words": 5, "min_stop_words": 0, "repetition": None, "min_alphabetic_share": 0}
    return config_of(
        folder,
        **{
            "sources": {"forum": {"reader": reader}},
            "filters": filters,
            "heldout_share": 0.2,
            **changes,
        },
    )


def decoded_documents(folder, split="train"):
    manifest = read_manifest(folder / "rows")
    rows = RowReader(folder / "rows", manifest, split)
    ids = rows.read("forum", np.arange(manifest.source(split, "forum").rows))[:, 1:-1].ravel()
    tokenizer = load_tokenizer(folder / "rows/tokenizer.json")
    pieces = np.split(ids[ids != 1], np.flatnonzero(ids[ids != 1] == 2) + 1)
    return [tokenizer.decode(piece[piece != 2].tolist()) for piece in pieces if len(piece) > 1]


def random_texts(number, words=40, seed=0):
    generate = random.Random(seed)
    return [" ".join(generate.choices(WORDS, k=words)) for _ in range(number)]


@pytest.mark.parametrize("keep_first", [True, False])
def test_lines_that_many_documents_repeat_are_taken_out(tmp_path, keep_first):
    texts = random_texts(60)
    write_forum(tmp_path / "raw", [f"{text}\n{NOTICE}" for text in texts] + [NOTICE])
    lines = {"max_documents": 10, "keep_first": keep_first}
    for part_mb in (64, 0.002):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.rmtree(tmp_path / "rows", ignore_errors=True)
        prepare(forum_config(tmp_path, dedup={"lines": lines}, part_mb=part_mb))
        found = decoded_documents(tmp_path) + decoded_documents(tmp_path, "heldout")
        assert sorted(text.partition("\n")[0] for text in found) == sorted(texts)
        assert sum(NOTICE in text for text in found) == keep_first
        if keep_first:
            assert f"{texts[0]}\n{NOTICE}" in found
    data = json.loads((tmp_path / "rows/report.json").read_text())
    assert data["sources"]["forum"]["dropped"] == {"only repeated lines": 1}


def test_training_documents_that_overlap_evaluation_texts_are_dropped(tmp_path):
    texts = random_texts(200)
    secret = random_texts(1, words=30, seed=1)[0]
    texts[7] = texts[7] + " " + " ".join(secret.split()[5:19])  # 14 words of it
    texts[8] = texts[8] + " " + " ".join(secret.split()[5:17])  # 12 words
    write_forum(tmp_path / "raw", texts)
    (tmp_path / "raw/eval.txt").write_text(secret)
    evaluation = {"secret": {"type": "text", "files": [str(tmp_path / "raw/eval.txt")]}}
    prepare(forum_config(tmp_path, decontaminate={"evaluation": evaluation}, part_mb=0.005))
    trained, held = decoded_documents(tmp_path), decoded_documents(tmp_path, "heldout")
    assert texts[8] in trained + held
    assert (texts[7] in trained) is False
    assert len(trained) + len(held) == 200 - (texts[7] not in held)


def test_training_documents_that_quote_held_out_ones_are_dropped(tmp_path):
    texts = random_texts(150)
    texts += [
        text + " " + more for text, more in zip(texts, random_texts(150, seed=2), strict=True)
    ]
    write_forum(tmp_path / "raw", texts)
    prepare(forum_config(tmp_path, decontaminate={}, dedup={"near": None}))
    trained, held = decoded_documents(tmp_path), decoded_documents(tmp_path, "heldout")
    assert held
    heldout_starts = {text[:60] for text in held}
    assert not heldout_starts & {text[:60] for text in trained}
    data = json.loads((tmp_path / "rows/report.json").read_text())
    contaminated = data["sources"]["forum"]["contaminated_documents"]
    assert contaminated == 300 - len(held) - len(trained) > 5


def test_addresses_are_scrubbed_and_counted(tmp_path):
    texts = random_texts(80)
    texts[3] += " write to jane.doe@example.org or 10.0.0.1 not 1.2.3.4.5 today"
    write_forum(tmp_path / "raw", texts)
    prepare(forum_config(tmp_path, scrub={"emails": True, "ip_addresses": True}))
    found = decoded_documents(tmp_path) + decoded_documents(tmp_path, "heldout")
    (scrubbed,) = [text for text in found if "write to" in text]
    assert scrubbed.endswith("write to [email] or [ip address] not 1.2.3.4.5 today")
    data = json.loads((tmp_path / "rows/report.json").read_text())
    assert data["sources"]["forum"]["scrubbed"] == {"emails": 1, "ip addresses": 1}


def test_literal_special_tokens_are_text(tmp_path):
    texts = [f"{text} </s> <mask> <s> <pad>" for text in random_texts(80)]
    write_forum(tmp_path / "raw", texts)
    prepare(forum_config(tmp_path))
    assert sorted(decoded_documents(tmp_path) + decoded_documents(tmp_path, "heldout")) == sorted(
        texts
    )
    manifest = read_manifest(tmp_path / "rows")
    entry = manifest.source("train", "forum")
    rows = RowReader(tmp_path / "rows", manifest, "train").read("forum", np.arange(entry.rows))
    assert manifest.special_tokens.mask not in rows
    assert (rows == 0).sum() == entry.rows


def test_too_many_bad_records_stop_the_job(tmp_path):
    write_forum(tmp_path / "raw", random_texts(80))
    with open(tmp_path / "raw/forum.jsonl", "a") as file:
        file.write("not json\n" * 20)
    with pytest.raises(UserError, match=r"20 of 100 records \(20.0%\)(.|\n)*not JSON"):
        prepare(forum_config(tmp_path))
    shutil.rmtree(tmp_path / "work")
    prepare(forum_config(tmp_path, max_bad_share=0.3))
    data = json.loads((tmp_path / "rows/report.json").read_text())
    assert data["sources"]["forum"]["bad"] == {"not JSON": 20}
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(UserError, match=r"forum\.jsonl: not JSON at offset \d+"):
        prepare(forum_config(tmp_path, on_bad_record="stop"))


def test_a_full_disk_is_one_message_and_leaves_nothing_half(tmp_path, monkeypatch):
    from data_prep import atomic

    write_forum(tmp_path / "raw", random_texts(80))
    config = forum_config(tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as error:
            prepare(config)
    assert error.value.filename is not None
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    prepare(config)
    verify_shards(tmp_path / "rows", read_manifest(tmp_path / "rows"), full=True)


def test_a_long_document_and_an_empty_file_go_through(tmp_path):
    texts = [*random_texts(80), " ".join(random_texts(400, words=200, seed=5))]
    write_forum(tmp_path / "raw", texts)
    (tmp_path / "raw/empty.jsonl").touch()
    reader = {"type": "jsonl", "files": [str(tmp_path / "raw/*.jsonl")]}
    filters = {"min_words": 5, "min_stop_words": 0, "repetition": None}
    prepare(forum_config(tmp_path, sources={"forum": {"reader": reader, "filters": filters}}))
    found = decoded_documents(tmp_path) + decoded_documents(tmp_path, "heldout")
    assert sorted(found) == sorted(texts)


def test_a_dry_run_says_what_would_be_done(made, tmp_path):
    from data_prep.dry_run import describe
    from data_prep.run import STAGES

    (tmp_path / "raw").symlink_to(made / "raw")
    plan = describe(config_of(tmp_path), STAGES)
    assert "forum           jsonl" in plan
    assert plan.count("not begun") == 8
    assert describe(config_of(made), STAGES).count("  done") == 8
    assert not (tmp_path / "work").exists()


def test_parts_run_on_the_workers_of_a_scheduler(made, tmp_path):
    """A scheduler and a worker started apart, as in a Slurm allocation."""
    (tmp_path / "raw").symlink_to(made / "raw")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    scheduler = subprocess.Popen([*dask, "scheduler", *options, "--port", "0"], **quiet)
    worker_options = [*options, "--nthreads", "1", "--nworkers", "1"]
    worker = subprocess.Popen([*dask, "worker", *worker_options], cwd=tmp_path, **quiet)
    try:
        path = tmp_path / "config.yaml"
        path.write_text(config_of(tmp_path).model_dump_json())
        command = [sys.executable, "-m", "data_prep.run", str(path), "--scheduler-file", str(file)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=100)
        assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    finally:
        worker.terminate()
        scheduler.terminate()
        worker.wait(20)
        scheduler.wait(20)

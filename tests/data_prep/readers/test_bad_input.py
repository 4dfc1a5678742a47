"""Bad input of the heavier kind: folders that cannot be read, huge documents, killed workers."""

import errno
import gzip
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import UserError
from data_prep.engine.workers import LocalEngineConfig
from data_prep.readers import compression, jsonl
from data_prep.readers.document import BadRecords
from data_prep.readers.files import Span, list_files
from data_prep.readers.text import TextReaderConfig
from data_prep.run import prepare
from tests.data_prep.corpora import (
    config_of,
    forum_config,
    hashes_of,
    random_texts,
    read_documents,
    write_corpus,
    write_forum,
)

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("pattern", ["*/*.txt", "**/*.txt", "b/*.txt", "[ab]/[0-9].txt"])
def test_a_folder_that_cannot_be_read_stops_the_job(tmp_path, monkeypatch, code, pattern):
    """glob alone would pass over it, and its documents would be missing without a word."""
    for name in ("a/1.txt", "b/2.txt", "lost+found/3.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    scan = os.scandir

    def broken(path):
        if str(path).rstrip("/") == str(tmp_path / "b"):
            raise OSError(code, os.strerror(code), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(UserError, match=rf"files: {tmp_path}/b cannot be read: .*mounted"):
        list_files([f"{tmp_path}/{pattern}"], "files")
    found = list_files([f"{tmp_path}/a/*.txt"], "files")
    assert [file.name for file in found] == ["1.txt"]


def test_an_unreadable_folder_beside_the_pattern_does_not_matter(tmp_path, monkeypatch):
    for name in ("a1/1.txt", "a2/2.txt", "lost+found/3.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    scan = os.scandir

    def broken(path):
        if "lost+found" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", broken)
    found = list_files([f"{tmp_path}/a?/*.txt"], "files")
    assert [file.name for file in found] == ["a1/1.txt", "a2/2.txt"]


def test_a_file_where_a_folder_is_expected_is_a_clear_error(tmp_path):
    (tmp_path / "raw").write_text("no folder")
    with pytest.raises(UserError, match=r"files: '.*/raw/\*\.txt' matches no file"):
        list_files([f"{tmp_path}/raw/*.txt"], "files")


def test_a_huge_document_is_set_aside_in_little_memory(tmp_path):
    write_forum(tmp_path / "raw", random_texts(80))
    sentence = "It was the best of times, it was the worst of times. "
    with open(tmp_path / "raw/forum.jsonl", "a") as file:
        file.write('{"text": "')
        for _ in range(200):
            file.write(sentence * (1_000_000 // len(sentence)))
        file.write('"}\n{"text": "The last one is of ten words or perhaps of more."}\n')
    config = tmp_path / "config.yaml"
    config.write_text(forum_config(tmp_path).model_dump_json())
    script = (
        "import sys; from data_prep.run import main; main(); "
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    command = [sys.executable, "-c", script, str(config)]
    result = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    peak_kb = int(result.stdout.split()[-1])
    assert 400_000 < peak_kb < 1_500_000
    entry = json.loads((tmp_path / "rows/report.json").read_text())["sources"]["forum"]
    assert entry["bad"] == {"longer than max_document_mb": 1}
    assert entry["read_documents"] == 81
    (example,) = entry["bad_examples"]
    assert re.fullmatch(r"\d+,\d+,\d+ or more bytes", example["detail"])
    assert example["offset"] > 0


def test_a_document_just_within_the_limit_stays(tmp_path):
    texts = random_texts(80)
    texts[5] = " ".join(random_texts(30, words=200, seed=9))
    write_forum(tmp_path / "raw", texts)
    megabytes = len(texts[5]) / 1e6
    prepare(forum_config(tmp_path, max_document_mb=megabytes))
    report = json.loads((tmp_path / "rows/report.json").read_text())
    assert report["sources"]["forum"]["bad"] == {}
    for name in ("work", "rows"):
        subprocess.run(["rm", "-r", str(tmp_path / name)], check=True)
    with pytest.raises(UserError, match=r"forum.jsonl: longer than max_document_mb at offset \d+"):
        prepare(forum_config(tmp_path, max_document_mb=megabytes - 1e-6, on_bad_record="stop"))


def test_parts_run_under_a_scheduler_and_a_killed_worker_changes_nothing(tmp_path):
    """As in a Slurm allocation: the scheduler and a worker with its nanny are started apart."""
    write_corpus(tmp_path / "raw")
    prepare(config_of(tmp_path))
    expected = hashes_of(tmp_path / "rows")
    for name in ("work", "rows"):
        subprocess.run(["rm", "-r", str(tmp_path / name)], check=True)
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": ENVIRONMENT}
    quiet["start_new_session"] = True
    scheduler = subprocess.Popen([*dask, "scheduler", *options, "--port", "0"], **quiet)
    worker = subprocess.Popen(
        [*dask, "worker", *options, "--nthreads", "1", "--nworkers", "1"], cwd=tmp_path, **quiet
    )
    try:
        path = tmp_path / "config.yaml"
        path.write_text(config_of(tmp_path, part_mb=0.01).model_dump_json())
        command = [sys.executable, "-m", "data_prep.run", str(path), "--scheduler-file", str(file)]
        job = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        ingested = tmp_path / "work/ingest"
        wait_until(lambda: len(list(ingested.glob("*.record.json"))) > 1)
        assert not (ingested / "done.json").exists()
        killed = worker_processes_of(worker.pid)
        for process in killed:
            os.kill(process, signal.SIGKILL)
        assert job.wait(100) == 0
        assert killed
        assert not set(killed) & set(worker_processes_of(worker.pid))
        assert hashes_of(tmp_path / "rows") == expected
    finally:
        for process in (worker, scheduler):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(holds, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.005)


def worker_processes_of(pid):
    """The processes in which a dask worker's nanny runs tasks."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*")
        for child in (task / "children").read_text().split()
    ]
    return [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 150), max_size=12),
    st.lists(st.integers(1, 1500), max_size=6),
    st.sampled_from(["txt", "txt.gz"]),
)
def test_lines_too_long_to_be_held_are_counted_once_wherever_a_file_is_cut(
    tmp_path_factory, lengths, cuts, suffix
):
    """Such as a JSON array of many gigabytes, given as JSON lines."""
    path = tmp_path_factory.mktemp("long") / f"a.{suffix}"
    lines = [f"{number:03d}".ljust(length, "x") for number, length in enumerate(lengths)]
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if suffix == "txt.gz" else content)
    reader = TextReaderConfig(type="text", files=(str(path),), document="line").build()
    (file,) = list_files([str(path)], "files")
    results = []
    with patch.object(lines, "_SKIPPED_BYTES", 7), patch.object(compression, "CHUNK_BYTES", 16):
        for edges in ([], sorted({min(cut, file.num_bytes) // 16 * 16 for cut in cuts})):
            bad = BadRecords("skip", max_document_bytes=10)  # and lines of up to 80 bytes are read
            places = [0, *edges, file.num_bytes]
            spans = [Span(file, *pair) for pair in pairwise(places) if pair[0] < pair[1]]
            documents = [d for span in spans for d in reader.read(span, bad)]
            results.append((documents, bad.counts))
    assert results[0] == results[1]
    documents, counts = results[0]
    assert [d.text.strip() for d in documents] == [ln for ln in lines if 0 < len(ln.strip()) < 10]
    assert counts.total() == sum(len(line) >= 10 for line in lines)


@pytest.mark.parametrize("unit", ["file", "section", "paragraph"])
def test_a_text_without_an_end_is_not_held(tmp_path, unit):
    path = tmp_path / "a.txt"
    path.write_text("one line\n" * 1000 + "\nand another\n")
    documents, bad = read_documents(
        path, type="text", document=unit, section_bytes=1 << 20, max_document_bytes=500
    )
    assert bad == {"longer than max_document_mb": 1}
    assert [text for text, _ in documents] == ["and another\n"] * (unit == "paragraph")


def test_a_part_that_kills_its_workers_is_named():
    with (
        LocalEngineConfig(workers=1).build() as engine,
        pytest.raises(UserError, match=r"^ingest/books-03: this part killed its worker process 4"),
    ):
        list(engine.run(os._exit, [(1,)], ["ingest/books-03"]))


def test_an_error_that_nobody_thought_of_names_the_file(tmp_path, monkeypatch):
    write_forum(tmp_path / "raw", random_texts(8))

    def fail(line):
        raise ZeroDivisionError

    monkeypatch.setattr(jsonl, "_parsed", fail)
    with pytest.raises(ZeroDivisionError) as error:
        prepare(forum_config(tmp_path))
    (note,) = pickle.loads(pickle.dumps(error.value)).__notes__  # as it comes from a worker
    assert re.fullmatch(rf"while {tmp_path}/raw/forum.jsonl was read, from 0 to \d+", note)

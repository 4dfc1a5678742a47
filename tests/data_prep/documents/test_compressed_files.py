"""What is said of compressed files that few workers can share."""

import gzip
import json
from pathlib import Path

import pytest

from data_prep import dry_run
from data_prep.documents.compressed_files import poorly_shared
from data_prep.dry_run import describe
from data_prep.readers.compressed_spans import compressed_spans
from data_prep.readers.files import list_files
from data_prep.readers.kinds import Compression
from tests.data_prep.corpora import config_of
from tests.data_prep.documents.ingesting import ingested
from tests.data_prep.readers.compressed_parts import WRITERS

TEXTS = [f"{number} is a number that is not {number + 1}" for number in range(40_000)]
LINES = [(json.dumps({"text": text}) + "\n").encode() for text in TEXTS]


def lines_of(path: Path, compression: Compression, part_bytes: int) -> list[str]:
    files = list_files([str(path)], "files")
    return list(poorly_shared(compressed_spans(f, compression, part_bytes, 64) for f in files))


def test_files_of_one_part_are_a_line_for_all_of_a_compression(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02d}.gz").write_bytes(gzip.compress(b"".join(LINES[:500])))
    (tmp_path / "99.gz").write_bytes(gzip.compress(b"".join(LINES[:900])))
    (line,) = lines_of(tmp_path / "*.gz", Compression.GZIP, 10)
    assert line.startswith("31 gzip files (")
    assert f"the largest is {tmp_path / '99.gz'})" in line
    assert "8 workers at most can share the largest" in line
    assert "decompressed 4.5 times" in line
    assert "`bgzip`" in line


def test_a_slow_file_of_one_part_is_read_by_one_worker(tmp_path: Path) -> None:
    path = tmp_path / "a.xz"
    path.write_bytes(WRITERS["xz streams"][1]([b"".join(LINES[:500])]))
    (line,) = lines_of(path, Compression.XZ, 10)
    assert line.startswith("one xz file (")
    assert "one worker at most can share it" in line
    assert "`xz -T0`" in line


@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_is_said_of_small_files_and_of_many_parts(tmp_path: Path, kind: str) -> None:
    suffix, writer = WRITERS[kind]
    compression = {"zst": "zstandard", "gz": "gzip"}.get(suffix, suffix)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(writer([b"".join(LINES[k : k + 50]) for k in range(0, 5000, 50)]))
    num_bytes = path.stat().st_size
    for part_bytes in (num_bytes // 50, num_bytes):
        assert not lines_of(path, Compression(compression), part_bytes)


def test_the_dry_run_and_the_log_say_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(LINES)))
    reader = {"type": "jsonl", "files": [str(path)]}
    config = config_of(tmp_path, sources={"a": {"reader": reader}}, part_mb=0.02)
    shown = describe(config)
    assert "notice: a: one gzip file (" in shown
    assert "notice" not in describe(config.model_copy(update={"part_mb": 1.0}))
    monkeypatch.setattr(dry_run, "_MAX_CUT_FILES", 1)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES[0]))
    many = {"a": {"reader": reader | {"files": [f"{tmp_path}/*.jsonl.gz"]}}}
    shown = describe(config_of(tmp_path, sources=many, part_mb=0.02))
    assert "~" in shown
    assert "notice: a: one gzip file (" in shown
    ingested(tmp_path / "work", {"a": reader}, part_bytes=20_000)
    (notice,) = [text for text in caplog.messages if "cannot be read from many places" in text]
    assert notice.startswith("ingest: a: one gzip file (")

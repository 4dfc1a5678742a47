"""How large compressed files are cut is remembered between the starts of a run."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.config import DataConfig
from data_prep.documents.ingest import IngestStage
from data_prep.dry_run import describe
from data_prep.preparation import Preparation
from data_prep.readers.jsonl import JsonLinesReader
from data_prep.readers.lines import LineFiles
from data_prep.stage_builders import build_ingest
from tests.data_prep.corpora import config_of
from tests.data_prep.readers.compressed_parts import WRITERS

RECORDS = [(json.dumps({"text": f"{n} is not {n + 1}"}) + "\n").encode() for n in range(20_000)]
PARTS = [b"".join(RECORDS[at : at + 200]) for at in range(0, len(RECORDS), 200)]
VALUES = [b"[" + b", ".join(record[:-1] for record in RECORDS) + b"]"]
MEMORY = Path("ingest/spans.json")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are cut at every 64 bytes, not 32 KB."""
    monkeypatch.setattr(JsonLinesReader.__init__, "__defaults__", (LineFiles(64),))


@pytest.fixture
def num_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Receives the size of each read of a range of a file."""
    sizes: list[int] = []

    def counted(descriptor: int, num_bytes: int, at: int) -> bytes:
        content = pread(descriptor, num_bytes, at)
        sizes.append(len(content))
        return content

    pread = os.pread
    monkeypatch.setattr(os, "pread", counted)
    return sizes


def config_with(folder: Path, kind: str, parts: list[bytes] = PARTS) -> DataConfig:
    suffix, writer = WRITERS[kind]
    path = folder / f"a.jsonl.{suffix}"
    path.write_bytes(writer(parts))
    part_mb = path.stat().st_size / 20e6
    reader = {"type": "jsonl", "files": [str(path)]}
    return config_of(folder, sources={"a": {"reader": reader}}, part_mb=part_mb)


def planned(config: DataConfig, is_dry: bool = False) -> tuple[Mapping[str, Any], list[Any]]:
    """The plan, and from where each span is read."""
    stage: IngestStage = build_ingest(Preparation(config), is_dry=is_dry)
    return stage.plan(), [span.sharing for part in stage.parts for span in part.spans]


@pytest.mark.parametrize("kind", WRITERS)
def test_the_second_start_looks_for_nothing(tmp_path: Path, num_read: list[int], kind: str) -> None:
    config = config_with(tmp_path, kind)
    first = planned(config)
    assert any(sharing.restarts for sharing in first[1])
    assert 0 < len(num_read) < (9 if "xz" not in kind else 999)
    num_read.clear()
    written = (config.work / MEMORY).stat()
    assert planned(config) == first
    assert planned(config, is_dry=True) == first
    describe(config)
    assert num_read == []
    assert (config.work / MEMORY).stat().st_ino == written.st_ino


def test_a_dry_run_writes_nothing(tmp_path: Path, num_read: list[int]) -> None:
    config = config_with(tmp_path, "gzip members")
    describe(config)
    assert num_read
    assert not config.work.exists()


def test_a_changed_file_or_size_of_parts_is_looked_at_again(
    tmp_path: Path, num_read: list[int]
) -> None:
    config = config_with(tmp_path, "gzip members")
    before = planned(config)
    path = Path(config.sources["a"].reader.files[0])
    status = path.stat()
    path.write_bytes(WRITERS["gzip members"][1](PARTS[::-1]).ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    num_read.clear()
    after = planned(config)
    assert num_read
    assert after[1] != before[1]
    num_read.clear()
    planned(config.model_copy(update={"part_mb": config.part_mb / 2}))
    assert num_read


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff", None])
def test_what_is_damaged_or_missing_is_looked_for_again(
    tmp_path: Path, num_read: list[int], damage: bytes | None
) -> None:
    config = config_with(tmp_path, "xz blocks")
    expected = planned(config)
    memory = config.work / MEMORY
    whole = memory.read_bytes()
    if damage is None:
        memory.unlink()
    else:
        memory.write_bytes(damage)
    num_read.clear()
    assert planned(config) == expected
    assert num_read
    assert memory.read_bytes() == whole
    memory.write_bytes(whole.replace(b'"ends": [', b'"ends": [1'))
    assert planned(config) == expected


def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    config = config_with(tmp_path, "gzip members")
    planned(config)
    size = (config.work / MEMORY).stat().st_size
    path = Path(config.sources["a"].reader.files[0])
    os.utime(path, ns=(1, 1))
    planned(config)
    assert (config.work / MEMORY).stat().st_size == size


def test_json_that_is_not_lines_is_not_searched(tmp_path: Path, num_read: list[int]) -> None:
    config = config_with(tmp_path, "gzip members", VALUES)
    assert len(planned(config)[1]) == 1
    assert num_read == []

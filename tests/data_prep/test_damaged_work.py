"""Damaged intermediate files: their parts are run again, and the rows stay the same."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import UserError
from data_prep.engine.execution import restart_from
from data_prep.engine.records import write_record
from data_prep.run import prepare, restart
from data_prep.stages import STAGES, names_from
from data_prep.tokenization.tokenizer import TOKENIZER_FILE
from tests.data_prep.corpora import config_of, hashes_of, write_corpus

MIXED: dict[str, Any] = {
    "dedup": {"lines": {"min_words": 2, "max_documents": 1}},
    "decontaminate": {"ngram_words": 2, "max_share": 0.15},
    "pack": {"row_tokens": 32, "block_rows": 8, "shard_mb": 1, "mixed": True},
    "part_mb": 0.2,
}
ORDERED = {
    **MIXED,
    "pack": {**MIXED["pack"], "mixed": False, "order_by": {"type": "field", "field": "id"}},
}
NOT_IN = {"mixed": {"order_keys", "order_runs", "order"}, "ordered": {"interleave"}}
"""Stages that a packing does not need; together they have every stage there is."""
NAMES = [entry.name for entry in STAGES]


@pytest.fixture(scope="module", params=NOT_IN)
def packing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def every_stage(packing: str) -> dict[str, Any]:
    """The settings of a run of every stage that goes with the packing."""
    return MIXED if packing == "mixed" else ORDERED


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, packing: str, every_stage: dict[str, Any]
) -> Path:
    """A corpus and its rows."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus(folder / "raw")
    prepare(config_of(folder, **every_stage))
    names = {path.name for path in (folder / "work").iterdir()}
    assert names == set(NAMES) - NOT_IN[packing]
    return folder


def flip(path: Path) -> None:
    """Flips a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_no_file_in_a_work_folder_is_a_pickle(made: Path) -> None:
    suffixes = {path.suffix for path in files_in(made / "work")}
    assert suffixes <= {
        ".json",
        ".jsonl",
        ".npy",
        ".ids",
        ".parquet",
        ".ledger",
        ".removed",
        ".sets",
        ".texts",
        ".u64",
    }
    for path in (made / "work").rglob("*.npy"):
        np.load(path, mmap_mode="r", allow_pickle=False)


def test_stages_read_only_what_they_declare(
    made: Path, tmp_path: Path, packing: str, every_stage: dict[str, Any]
) -> None:
    """The folders of all other stages are out of the way while a stage runs."""
    (tmp_path / "raw").symlink_to(made / "raw")
    config = config_of(tmp_path, **every_stage)
    ran: list[str] = []

    @contextmanager
    def alone(name: str) -> Iterator[None]:
        (entry,) = [entry for entry in STAGES if entry.name == name]
        declared = {stage.name for stage in entry.reads} | {name}
        if "clean" in declared and name != "clean":
            declared.discard("ingest")
        hidden = [n for n in ran if n not in declared]
        for other in hidden:
            (config.work / other).rename(tmp_path / other)
        yield
        for other in hidden:
            (tmp_path / other).rename(config.work / other)
        ran.append(name)

    prepare(config, around_stage=alone)
    assert ran == [name for name in NAMES if name not in NOT_IN[packing]]
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")


@pytest.mark.parametrize("later", [False, True])
def test_bits_flipped_in_any_file_do_not_reach_the_rows(
    made: Path, tmp_path: Path, logged: list[str], every_stage: dict[str, Any], later: bool
) -> None:
    """Every output of every stage is damaged, then the last stage or the last two run again."""
    (tmp_path / "raw").symlink_to(made / "raw")
    config = config_of(tmp_path, **every_stage)
    prepare(config)
    outputs = [p for p in files_in(tmp_path / "work") if p.suffix != ".json"]
    outputs.append(tmp_path / "work/tokenizer" / TOKENIZER_FILE)
    before = {path: path.read_bytes() for path in outputs}
    for path in outputs:
        flip(path)
    restart = names_from("layout" if later else "rows")
    restart_from(tmp_path / "work", restart)
    shutil.rmtree(tmp_path / "rows")
    logged.clear()
    prepare(config)
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    assert any("damaged; part" in message and ".ids" in message for message in logged)
    read = [
        path for path in outputs if path.parent.name in ("encode", "interleave", "order", "ingest")
    ]
    assert read
    assert all(path.read_bytes() == before[path] for path in read)


@pytest.mark.parametrize("name", ["record.json", "done.json", "plan.json"])
def test_flipped_bits_in_records_and_plans_do_not_reach_the_rows(
    made: Path, tmp_path: Path, logged: list[str], every_stage: dict[str, Any], name: str
) -> None:
    (tmp_path / "raw").symlink_to(made / "raw")
    config = config_of(tmp_path, **every_stage)
    prepare(config)
    for path in files_in(tmp_path / "work"):
        if path.name.endswith("record.json"):
            (path.parent / "done.json").unlink(missing_ok=True)
    if name == "done.json":
        prepare(config)
    for path in files_in(tmp_path / "work"):
        if path.name.endswith(name):
            flip(path)
    shutil.rmtree(tmp_path / "rows")
    logged.clear()
    prepare(config)
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    assert any(f"{name}: damaged" in message for message in logged)


@pytest.mark.parametrize("name", ["ids", "signatures", "verdicts", "encode", "rows"])
def test_files_damaged_while_a_stage_reads_them_are_noticed(
    made: Path, tmp_path: Path, logged: list[str], every_stage: dict[str, Any], name: str
) -> None:
    """A bit of each input flips after it was written or compared, before the stage reads it."""
    (tmp_path / "raw").symlink_to(made / "raw")
    config = config_of(tmp_path, **every_stage)

    @contextmanager
    def damaging(stage: str) -> Iterator[None]:
        if stage == name:
            (entry,) = [entry for entry in STAGES if entry.name == name]
            for read in entry.reads:
                records = (config.work / read.name).glob("*.record.json")
                for record in list(records)[:2]:
                    for output in json.loads(record.read_text())["record"]["outputs"]:
                        path = config.work / read.name / output
                        if path.suffix in (".parquet", ".npy", ".ids") and path.stat().st_size:
                            flip(path)
        yield

    prepare(config, around_stage=damaging)
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    assert any(message.startswith(f"{name}: run again, as files") for message in logged)


def test_a_part_that_cannot_be_made_again_is_named(made: Path, tmp_path: Path) -> None:
    """The corpus lost a document, and nothing of it shows in the file's size and time."""
    shutil.copytree(made / "raw", tmp_path / "raw")
    config = config_of(tmp_path)
    prepare(config)
    (ingested,) = (tmp_path / "work/ingest").glob("books-*.parquet")
    flip(ingested)
    record = next((tmp_path / "work/ingest").glob("books-*.record.json"))
    content = json.loads(record.read_text())
    content["record"]["outputs"][ingested.name]["xxh3_128"] = "0" * 32
    (tmp_path / "work/ingest/done.json").unlink()
    part_name = record.name.removesuffix(".record.json")
    write_record(record.parent, content["key"], part_name, content["record"])
    restart(config, "encode")
    shutil.rmtree(tmp_path / "rows")
    with pytest.raises(UserError, match=r"ingest/books-000000\.\*: was damaged.*\n?.*--restart"):
        prepare(config)

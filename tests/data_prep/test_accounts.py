"""The account of a run: documents and bytes of each source add up, and are printed at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.dataset.manifest import SPLITS, read_manifest
from data_prep.report.accounts import UNKNOWN, Account
from data_prep.report.terminal import WIDTH, end_of_run, stage_line, table
from data_prep.run import prepare
from tests.data_prep.corpora import config_of, write_corpus
from tests.data_prep.drops import NOTICE, config_with_drops, write_corpus_with_drops


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which documents are dropped for every reason."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus_with_drops(folder)
    prepare(config_with_drops(folder))
    return folder


def accounts_of(folder: Path) -> dict[str, Account]:
    accounts: dict[str, Account] = json.loads((folder / "rows/report.json").read_text())["accounts"]
    return accounts


def test_what_was_read_is_kept_or_dropped_for_a_reason(made: Path) -> None:
    manifest = read_manifest(made / "rows")
    for name, account in accounts_of(made).items():
        assert UNKNOWN not in account["dropped"]
        for key in ("documents", "bytes"):
            dropped = sum(amount[key] for amount in account["dropped"].values())
            assert account["read"][key] == account["kept"][key] + dropped, (name, key)
        in_rows = sum(manifest.source(split, name).documents for split in SPLITS)
        assert account["kept"]["documents"] == in_rows
        assert account["without_tokens"] == 0
    forum = accounts_of(made)["forum"]
    assert set(forum["dropped"]) == {
        *("empty", "too few words", "only repeated lines", "removed lines"),
        *("exact duplicate", "near duplicate", "overlaps evaluation text"),
    }
    assert forum["dropped"]["removed lines"]["documents"] == 0
    assert forum["dropped"]["removed lines"]["bytes"] > 20 * len(NOTICE)
    assert forum["bad"]["not JSON"] == {"documents": 1, "bytes": len("no JSON\n")}
    assert sum(amount["documents"] for amount in forum["bad"].values()) == 3
    assert forum["repeated_ids"] == 5
    assert forum["file_bytes"] == (made / "raw/forum.jsonl").stat().st_size


def test_the_page_and_the_terminal_show_the_same_numbers(made: Path) -> None:
    shown = end_of_run(made / "rows")
    page = (made / "rows/report.html").read_text()
    for name, account in accounts_of(made).items():
        assert f"\n{name} " in shown
        for reason, amount in account["dropped"].items():
            assert f"dropped: {reason}" in shown
            assert f"dropped: {reason}" in page
            assert f"{amount['documents']:,}" in shown
            assert f"{amount['bytes'] / 1e6:,.2f}" in page
    assert "bad record: not JSON" in shown
    assert max(map(len, shown.splitlines())) <= WIDTH


def test_the_table_is_printed_when_a_run_is_finished_and_when_it_was(made: Path) -> None:
    path = made / "config.yaml"
    path.write_text(config_with_drops(made).model_dump_json())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "data_prep.run", str(path)]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "nothing to do" in result.stdout
    assert result.stdout.endswith(end_of_run(made / "rows") + "\n")


def test_names_in_the_table_are_escaped_and_fit() -> None:
    amount = {"documents": 12, "bytes": 3_400_000}
    reasons = {f"\x1b[2J{'文' * 60}": amount, "x" * 90: amount}
    account = {
        "read": {"documents": 100, "bytes": 1 << 50},
        "kept": amount,
        "dropped": {**reasons, **{f"language {n}": amount for n in range(30)}},
        "bad": reasons,
        "skipped": {"image": amount},
        "file_bytes": 1 << 50,
        "not_read_bytes": 12,
        "cut_files": 2,
        "missing_bytes": None,
        "repeated_ids": 3,
        "without_tokens": 1,
    }
    lines = list(table({"forum": account}))
    assert not any("\x1b" in line for line in lines)
    assert all(len(line) + line.count("文") <= WIDTH for line in lines)
    assert "  dropped: 20 rarer reasons" in "\n".join(lines)
    assert "  2 file(s) cut short; missing: not known" in lines


def test_a_batch_log_has_a_line_for_each_stage(tmp_path: Path, logged: list[str]) -> None:
    write_corpus(tmp_path / "raw", num_documents=80)
    prepare(config_of(tmp_path))
    ingest = [line for line in logged if line.startswith("ingest: 93 documents (0.1 MB) read, ")]
    assert len(ingest) == 1
    assert "92 (0.1 MB) kept by the filters, 0 bad records, 2 part(s), " in ingest[0]
    assert ingest[0].endswith(" s")
    assert any(line.startswith("verdicts: 73 documents kept, 10 exact and 9 ") for line in logged)
    assert any(line.startswith("encode: ") and "held out" in line for line in logged)


def test_a_data_set_of_an_older_version_has_no_table(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"sources": {}}')
    assert "older version" in end_of_run(tmp_path)
    assert stage_line("no such stage", [{}]) == "1 part(s)"

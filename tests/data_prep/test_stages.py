"""The list of stages, from which the run, the dry run, --restart-from and the docs are made."""

from dataclasses import is_dataclass
from pathlib import Path

import pytest

from data_prep.stages import STAGES, names_from, stages_table

ROOT = Path(__file__).parents[2]


def test_every_stage_is_a_frozen_dataclass_with_its_own_name() -> None:
    for entry in STAGES:
        assert is_dataclass(entry.stage)
        assert entry.stage.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert len({entry.name for entry in STAGES}) == len(STAGES) == 27


def test_restarting_takes_a_stage_and_all_later_ones() -> None:
    later = ["interleave", "order_keys", "order_runs", "order", "layout", "rows"]
    assert names_from("encode") == ["encode", *later]
    assert len(names_from("ingest")) == len(STAGES)
    with pytest.raises(ValueError, match="nonsense"):
        names_from("nonsense")


def test_the_table_has_a_row_for_each_stage() -> None:
    rows = stages_table().splitlines()[2:]
    assert len(rows) == len(STAGES)
    assert rows[7].startswith("| `clean` | Removes the repeated lines")
    assert "`dedup.lines`" in rows[7]
    assert all(cell.strip() for row in rows for cell in row.split("|")[1:3])


def test_the_table_in_the_docs_is_current() -> None:
    assert stages_table() in (ROOT / "docs/data.md").read_text(), "run 'make docs'"

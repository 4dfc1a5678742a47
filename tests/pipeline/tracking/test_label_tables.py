"""Tables of labels: their shares, what of them a rollback leaves, and their pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tracking.event_log import LOG_NAME
from pipeline.tracking.label_plots import KEPT_FOLDER, draw_tasks, keep_plots
from pipeline.tracking.label_tables import LabelTable, read_label_tables

LABELS = ("a", "b", "c", "d")
TABLE = LabelTable.of_classes(LABELS, [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0])


def write_events(folder: Path, events: list[dict[str, Any]]) -> None:
    lines = [json.dumps({"time_ms": 1, **event}) + "\n" for event in events]
    (folder / LOG_NAME).write_text("".join(lines))


def tables_event(step: int, **tables: LabelTable) -> dict[str, Any]:
    trees = {name: table.to_json() for name, table in tables.items()}
    return {"kind": "tables", "step": step, "tables": trees}


def test_shares_are_those_of_the_counts() -> None:
    assert TABLE.confusion is not None
    assert TABLE.confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(TABLE.precision, [2 / 4, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(TABLE.recall, [2 / 3, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(TABLE.f1, [4 / 7, 1 / 2, 0, np.nan])


def test_an_item_may_have_several_labels() -> None:
    true = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    table = LabelTable.of_sets(LABELS[:3], true, np.array([[1, 0, 0], [1, 1, 0]], dtype=bool))
    assert table.confusion is None
    np.testing.assert_allclose(table.precision, [1 / 2, 1, np.nan])
    np.testing.assert_allclose(table.recall, [1, 1 / 2, np.nan])


@pytest.mark.parametrize("with_confusion", [True, False])
def test_an_event_holds_the_whole_table(tmp_path: Path, with_confusion: bool) -> None:
    confusion = TABLE.confusion if with_confusion else None
    counts = (TABLE.num_labelled, TABLE.num_predicted, TABLE.num_right)
    table = LabelTable(LABELS, *counts, confusion)
    write_events(tmp_path, [tables_event(3, animal=table)])
    ((step, found),) = read_label_tables(tmp_path).values()
    assert step == 3
    assert found.labels == LABELS
    for name in ("num_labelled", "num_predicted", "num_right", "confusion"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))


def test_tables_of_steps_that_are_trained_again_do_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = {"kind": "tables", "step": 2, "tables": {"broken": {"labels": ["a"]}}}
    events = [
        {"kind": "start"},
        *(tables_event(step, animal=TABLE) for step in (1, 2, 3)),
        damaged,
        {"kind": "start", "resumed_from": 2},
    ]
    write_events(tmp_path, events)
    assert [step for step, _ in read_label_tables(tmp_path).values()] == [2]
    assert [step for step, _ in read_label_tables(tmp_path, last_step=1).values()] == [1]
    assert "the table of broken cannot be read" in caplog.text


def test_every_task_has_its_pictures_and_tables(tmp_path: Path) -> None:
    many = tuple(f"label {number}" for number in range(60))
    other = LabelTable.of_classes(many, range(60), range(60))
    values = {"loss/animal": 1.0, "dev_accuracy/animal": 0.5, "dev_mean_squared_error/size": 9.0}
    write_events(
        tmp_path,
        [
            *({"kind": "metrics", "step": step, "values": values} for step in (1, 2)),
            tables_event(2, animal=TABLE, many=other),
        ],
    )
    folder = tmp_path / "drawn"
    folder.mkdir()
    names = {path.name for path in draw_tasks(tmp_path, folder)}
    kinds = [f"{kind}-{task}" for kind in ("labels", "confusion") for task in ("animal", "many")]
    assert names == {
        *("task-animal.png", "task-size.png"),
        *(f"{name}{suffix}" for name in kinds for suffix in (".png", ".csv")),
    }
    assert (folder / "labels-animal.csv").read_text().splitlines()[:3] == [
        "label,precision,recall,f1,labelled,predicted,right",
        "a,0.5000,0.6667,0.5714,3,4,2",
        "b,0.5000,0.5000,0.5000,2,2,1",
    ]
    assert len((folder / "confusion-many.csv").read_text().splitlines()) == 61  # all labels


def test_a_run_is_not_lost_for_a_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / KEPT_FOLDER).write_text("in the way")
    keep_plots(tmp_path)
    assert "not all pictures could be drawn" in caplog.text

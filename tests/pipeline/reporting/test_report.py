"""The command: pages and CSV files of one run and of several."""

import csv
import json
import math
import re
import sys
from pathlib import Path

import pytest

from configs.load import UserError
from pipeline.report import main
from pipeline.reporting.catalogue import groups
from pipeline.tracking.event_log import EventLog
from tests.configs.pages.test_pages import checked
from tests.pipeline.reporting.recorded_runs import finished_run, start, steps


def report(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *map(str, words)])
    main()


def headings(page: str) -> list[str]:
    return re.findall(r"<h2 [^>]*>(.*?)</h2>", page)


def titles(page: str) -> list[str]:
    return [re.sub("<.*", "", title).strip() for title in re.findall(r"<h3>(.*?)</h3>", page)]


def test_the_page_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path / "run")
    report(monkeypatch, run)
    page = (run / "report.html").read_text()
    assert all(address.startswith("#") for address in checked(page).addresses)
    assert headings(page) == [
        *("Results", "Loss and accuracy", "Optimization", "Speed and memory", "Other metrics"),
        *("Timeline", "Data and lineage", "Checkpoints", "Settings"),
    ]
    assert {"Loss", "Held-out loss by source", "Learning rate", "Gradient norm"} < {*titles(page)}
    assert {"Throughput", "Model FLOPs utilization", "Wait for data", "Rollbacks"} < {*titles(page)}
    for text in (
        *("5 steps in a row with a spike", "500 to 527", "da7a" * 16, "70" * 32, "c0ffee"),
        *("train/books", "5,678", "node1", "10.0 %", "finished; best step 40"),
    ):
        assert text in page, text


def test_the_points_are_those_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run")
    report(monkeypatch, run, "--output", tmp_path / "a.html", "--every-step")
    with (tmp_path / "a.csv").open() as file:
        points = [row for row in csv.DictReader(file) if row["metric"] == "loss"]
    assert [int(row["step"]) for row in points] == list(range(1, 41))
    assert float(points[9]["mean"]) == pytest.approx(8.0)
    with (tmp_path / "a.steps.csv").open() as file:
        every = list(csv.DictReader(file))
    assert [row["step"] for row in every] == [str(step) for step in range(1, 41)]
    assert every[9]["heldout_loss"] == "8.5"
    assert every[8]["heldout_loss"] == ""


def test_several_runs_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        finished_run(tmp_path / "a", name="first", seed=1),
        finished_run(tmp_path / "b", name="second", seed=2),
        finished_run(tmp_path / "c", name="second", seed=2),
    ]
    with pytest.raises(UserError, match="--output"):
        report(monkeypatch, *runs)
    report(monkeypatch, *runs, "--output", tmp_path / "all.html", "--x", "tokens")
    page = (tmp_path / "all.html").read_text()
    checked(page)
    assert "Differences of the settings" in headings(page)
    names = ["first", f"second ({tmp_path / 'b'})", f"second ({tmp_path / 'c'})"]
    data = [json.loads(d) for d in re.findall(r"application/json\">(.*?)</script>", page)]
    assert [line["name"] for line in data[0]["series"]] == names
    assert data[0]["series"][0]["x"][-1] == 40 * 2048
    section = page[page.index("Differences of the settings</h2>") :]
    rows = re.findall(r'<th scope="row">(.*?)</th>', section[: section.index("</table>")])
    assert rows == ["seed"]


def test_a_run_that_is_training_and_one_without_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path / "run")
    report(monkeypatch, tmp_path / "run")
    assert "not started" in (tmp_path / "run" / "report.html").read_text()
    start(log)
    report(monkeypatch, tmp_path / "run")
    steps(log, 1, 3)
    report(monkeypatch, tmp_path / "run", "--x", "hours")
    assert "running or killed" in (tmp_path / "run" / "report.html").read_text()


def test_names_cannot_become_part_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "</script><script>alert(1)</script>\x1b[31m"
    log = EventLog(tmp_path)
    start(log, name=name, note="<img src=x>")
    log.metrics(1, {"loss": math.nan, f"heldout_loss/{name}": 1.0, name: 2.0})
    log.metrics(2, {"loss": 1.0, f"heldout_loss/{name}": 1.5, name: 3.0})
    report(monkeypatch, tmp_path)
    page = (tmp_path / "report.html").read_text()
    checked(page)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\x1b" not in page


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"no such folder(.|\n)*no such folder"):
        report(monkeypatch, run, tmp_path / "x", tmp_path / "y", "--output", tmp_path / "a.html")
    with pytest.raises(UserError, match="twice"):
        report(monkeypatch, run, run / ".." / "run", "--output", tmp_path / "a.html")
    with pytest.raises(UserError, match=r"end with \.html"):
        report(monkeypatch, run, "--output", tmp_path / "a.pdf")
    assert not list(tmp_path.glob("a.*"))


def test_every_metric_has_one_chart() -> None:
    names = [
        *("loss", "loss/sentiment", "heldout_loss", "heldout_loss/books", "heldout_perplexity"),
        *("dev_accuracy/a", "dev_accuracy/b", "dev_macro_f1/a", "generator_loss", "new_metric"),
        *("adversarial_loss", "adversarial_loss/a", "slowest_rank", "loss_scale"),
    ]
    drawn = [name for group in groups(names) for name, _ in group.metrics]
    assert sorted(drawn) == sorted(names)
    by_title = {group.title: [line for _, line in group.metrics] for group in groups(names)}
    assert by_title["Dev files: accuracy"] == ["a", "b"]
    assert by_title["Training loss by task"] == ["sentiment"]

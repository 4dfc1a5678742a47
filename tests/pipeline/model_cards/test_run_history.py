"""What a card says of the way to a checkpoint, and what it leaves out."""

import json
from pathlib import Path
from typing import Any

from pipeline.checkpoint.manifest import Checkpoint, CheckpointManifest
from pipeline.checkpoint.records import AveragedCheckpoint
from pipeline.checkpoint.start_record import StartRecord
from pipeline.model_cards.run_history import (
    describe_start,
    hub_name,
    languages_of_rows,
    read_history,
)
from pipeline.tracking.event_log import LOG_NAME
from pipeline.tracking.lineage import describe_ancestors


def checkpoint(run: Path, step: int = 10, **fields: Any) -> Checkpoint:
    """A checkpoint of which only the given fields are read."""
    path = run / "checkpoints" / f"step-{step:08d}"
    manifest = CheckpointManifest.model_construct(step=step, **{"config": {}, **fields})
    return Checkpoint(path, manifest)


def start_of(path: str, **fields: Any) -> StartRecord:
    return StartRecord(path=path, description=path, fingerprint="f" * 64, **fields)


def test_the_start_is_named_without_its_path(tmp_path: Path) -> None:
    assert describe_start(checkpoint(tmp_path)) == "random"
    cached = "/home/me/hub/models--org--small-bert/snapshots/0123abc"
    first = start_of(cached)
    found = checkpoint(tmp_path, start=start_of("/data/run", name="base", step=2000, start=first))
    text = describe_start(found)
    assert text == (
        f"run base, step 2,000 (weights `{'f' * 16}`), before that the model in org/small-bert "
        f"(weights `{'f' * 16}`)"
    )
    assert hub_name(found) is None
    assert hub_name(checkpoint(tmp_path, start=first)) == "org/small-bert"
    (tmp_path / "start.json").write_text(start_of("/data/mine").model_dump_json())
    assert describe_start(checkpoint(tmp_path)) == f"the model in mine (weights `{'f' * 16}`)"


def test_the_history_ends_at_the_step(tmp_path: Path) -> None:
    assert read_history(checkpoint(tmp_path)).evaluations is None
    profile = json.dumps({"fingerprint": "abc"})

    def start(resumed_from: int, commit: str) -> dict[str, Any]:
        data = [{"name": commit, "context": "pretraining", "profile": profile}]
        params = {"git.commit": commit, "git.dirty": True}
        return {"kind": "start", "resumed_from": resumed_from, "params": params, "datasets": data}

    def metrics(step: int, **values: float) -> dict[str, Any]:
        return {"kind": "metrics", "step": step, "values": values}

    events = [
        start(0, "first"),
        *(metrics(4, loss=3.0), metrics(5, loss=3.0, heldout_loss=2.5)),
        start(5, "second"),
        metrics(10, heldout_loss=2.0),
        start(10, "third"),
        metrics(15, heldout_loss=1.5),
    ]
    lines = [json.dumps({"time_ms": 1, **event}) + "\n" for event in events]
    (tmp_path / "events.jsonl").write_text("".join(lines) + '{"torn')
    history = read_history(checkpoint(tmp_path))
    assert history.evaluations == {5: {"heldout_loss": 2.5}, 10: {"heldout_loss": 2.0}}
    assert (history.commit, history.is_dirty, history.launches) == ("second", True, 2)
    assert [data.profile for data in history.datasets] == [{"fingerprint": "abc"}]


def test_an_average_names_its_checkpoints_and_their_data(tmp_path: Path) -> None:
    def part(run: str, step: int, weight: float) -> AveragedCheckpoint:
        path = tmp_path / run / "checkpoints" / f"step-{step:08d}"
        return AveragedCheckpoint(path=str(path), step=step, weight=weight, sha256=run * 16)

    for run in ("one", "two"):
        data = [{"name": name, "context": "pretraining"} for name in ("web", run)]
        event = {"time_ms": 1, "kind": "start", "datasets": data}
        values = {"time_ms": 1, "kind": "metrics", "step": 10, "values": {"heldout_loss": 2.0}}
        (tmp_path / run).mkdir()
        lines = json.dumps(event) + "\n" + json.dumps(values) + "\n"
        (tmp_path / run / "events.jsonl").write_text(lines)
    parts = (part("one", 5, 0.25), part("one", 10, 0.25), part("two", 10, 0.5))
    history = read_history(checkpoint(tmp_path / "average", averaged=parts))
    assert [found.name for found in history.datasets] == ["web", "one", "two"]
    assert history.evaluations is None
    continued = checkpoint(tmp_path, start=start_of("/data/average", averaged=parts[1:]))
    assert describe_start(continued) == (
        "the average of run one step 10 (share 0.25, checkpoint `oneoneoneoneoneo`), "
        "run two step 10 (share 0.5, checkpoint `twotwotwotwotwot`) "
        f"(weights `{'f' * 16}`)"
    )


def test_the_sources_of_an_earlier_run_stay_known_when_its_folder_is_gone(tmp_path: Path) -> None:
    def write(run: Path, *datasets: list[dict[str, str]]) -> None:
        run.mkdir(exist_ok=True)
        events = [{"time_ms": 1, "kind": "start", "datasets": found} for found in datasets]
        (run / LOG_NAME).write_text("".join(json.dumps(event) + "\n" for event in events))

    base, run = tmp_path / "base", tmp_path / "run"
    sources = {"train/web": {"documents": 3, "tokens": 40, "rows": 2}}
    profile = json.dumps({"fingerprint": "f" * 64, "sources": sources})
    write(
        base, [{"name": "rows", "digest": "f" * 16, "profile": profile, "context": "pretraining"}]
    )
    record = start_of(str(base), name="base", data={"fingerprint": "f" * 64, "paths": ["rows"]})
    found = describe_ancestors(record)
    assert json.loads(found[0]["profile"])["sources"] == sources
    (base / LOG_NAME).unlink()
    gone = describe_ancestors(record)
    assert json.loads(gone[0]["profile"])["sources"] == {}
    write(run, found, gone)  # two launches: the base was deleted between them
    (data,) = read_history(checkpoint(run)).datasets
    assert (data.name, data.context, data.profile["sources"]) == ("base", "start", sources)


def test_languages_are_those_of_the_texts(tmp_path: Path) -> None:
    assert languages_of_rows(tmp_path) == []
    values: dict[str, Any] = {"languages": {"en": 950, "de": 45, "unknown": 20, "fr": 2}}
    report = {"sources": {"web": {"filter_values": values}}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert languages_of_rows(tmp_path) == ["en", "de"]  # of a version that counted no others
    values["kept_languages"] = {"de": 45, "unknown": 3}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert languages_of_rows(tmp_path) == ["de"]
    (tmp_path / "report.json").write_text("{}")
    assert languages_of_rows(tmp_path) == []

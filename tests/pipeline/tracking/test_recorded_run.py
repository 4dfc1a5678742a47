"""A run in MLflow: data, checkpoints, curves, the registered model, and no credential."""

import json
import logging
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from configs.load import UserError
from data_prep.tokenization.train import train_tokenizer
from pipeline.averaging.average import average
from pipeline.averaging.sources import find_checkpoints, with_weights
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.export import export_run
from pipeline.hugging_face.folder import Parity
from pipeline.registry import register
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.tracking.checkpoint_record import CheckpointRecord
from pipeline.tracking.event_log import LOG_NAME, EventLog, read_events
from pipeline.tracking.sender import Sender
from pipeline.tracking.sent import run_id_of
from pipeline.tracking.system_metrics import last_step, start_sampler, stop_sampler
from pipeline.tracking.tracked_run import tracked_run
from tests.gloo import run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain

SECRET = "hunter2-very-secret"
SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"


def train_with_secrets(config: TrainConfig) -> None:
    """A run in an environment with credentials."""
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "SLURM_SECRET"):
        os.environ[name] = SECRET
    os.environ["SLURM_JOB_ID"] = "4711"
    pretrain(config)


def send(config: TrainConfig) -> None:
    """Sends all new events and releases the lock."""
    sender = Sender(tracked_run(config))
    try:
        sender.send_pending()
    finally:
        sender.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run of one rank, sent to MLflow."""
    folder = tmp_path_factory.mktemp("story")
    make_rows(folder / "rows", tokenizer=train_tokenizer([SENTENCE] * 60, 270))
    (folder / "rows" / "report.html").write_text("<h1>the report of the data</h1>")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    checkpoint = {"every_steps": 5, "keep_last": 2}
    config = make_config(
        folder / "rows",
        folder / "run",
        tracking={"uri": uri},
        checkpoint=checkpoint,
        total_rows=160,
    )
    training = config.model_copy(update={"tracking": make_config(folder, folder).tracking})
    run_ranks(train_with_secrets, 1, training)
    CheckpointRecord(config.output).update()
    send(config)
    return config


@pytest.fixture(scope="module")
def client(config: TrainConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=config.tracking.uri)


@pytest.fixture(scope="module")
def run(config: TrainConfig, client: MlflowClient) -> Run:
    return client.get_run(run_id_of(config.output))


def test_parameters_tags_and_state(run: Run) -> None:
    assert run.info.status == "FINISHED"
    assert run.data.params["model.hidden_size"] == "32"
    assert run.data.params["plan.total_steps"] == "10"
    assert run.data.params["version.torch"].startswith("2.")
    assert len(run.data.params["git.commit"]) == 40
    assert run.data.params["git.dirty"] in ("True", "False")
    assert run.data.tags["slurm.job_id"] == "4711"
    assert run.data.tags["state"] == "finished"


def test_the_data_set_is_an_input_with_its_lineage(config: TrainConfig, run: Run) -> None:
    (entry,) = run.inputs.dataset_inputs
    profile = json.loads(entry.dataset.profile)
    assert profile["fingerprint"].startswith(entry.dataset.digest)
    assert profile["sources"]["train/a"]["rows"] == 512
    assert profile["weights"] == "by rows"
    assert len(profile["tokenizer_sha256"]) == 64
    assert json.loads(entry.dataset.source)["uri"] == str(config.data.path)


def test_checkpoints_are_entries_that_refer_to_their_folders(
    config: TrainConfig, client: MlflowClient, run: Run
) -> None:
    models = client.search_logged_models([run.info.experiment_id])
    entries = {model.name: model.params for model in models}
    assert sorted(entries) == ["step-00000005", "step-00000010"]
    last = entries["step-00000010"]
    checkpoint, _ = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    assert last["path"] == str(checkpoint.path)
    assert (last["first_row"], last["end_row"]) == ("80", "160")
    assert float(last["heldout_loss"]) == checkpoint.manifest.heldout_loss
    assert last["sha256"] == json.loads((checkpoint.path / "manifest.json").read_text())["sha256"]


def test_plots_and_the_data_report_are_artifacts(client: MlflowClient, run: Run) -> None:
    plots = {entry.path for entry in client.list_artifacts(run.info.run_id, "plots")}
    assert "plots/loss.png" in plots
    reports = client.list_artifacts(run.info.run_id, "data_report")
    assert [entry.path for entry in reports] == ["data_report/report.html"]


def test_sending_everything_again_changes_nothing(
    config: TrainConfig, client: MlflowClient, run: Run
) -> None:
    steps = [event["step"] for event, _ in read_events(config.output / LOG_NAME) if "step" in event]
    (config.output / "tracking.json").unlink()
    send(config)
    found = client.get_run(run.info.run_id)
    assert len(found.inputs.dataset_inputs) == 1
    assert len(client.search_logged_models([run.info.experiment_id])) == 2
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == steps
    assert steps[:10] == list(range(1, 11))


def test_a_restart_with_changed_settings_keeps_the_first_and_tags_the_new(
    config: TrainConfig, client: MlflowClient, run: Run
) -> None:
    log = EventLog(config.output)
    content = {"params": {"grid.dp_size": 4, "fresh": 1}, "tags": {"state": "running"}}
    log.append("start", {**content, "status": "RUNNING"})
    send(config)
    found = client.get_run(run.info.run_id)
    assert found.info.status == "RUNNING"
    assert found.data.params["grid.dp_size"] == "1"
    assert found.data.params["fresh"] == "1"
    assert found.data.tags["now.grid.dp_size"] == "4"


def test_what_mlflow_rejects_is_logged_and_the_rest_is_sent(
    config: TrainConfig,
    client: MlflowClient,
    run: Run,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    log = EventLog(config.output)
    log.append("note", {"params": {"x" * 10: "1"}, "tags": {"": "no name"}})
    log.metrics(11, {"loss": 1.0, "odd/name of [a] source": float("nan")})
    send(config)
    assert "MLflow permanently rejected tags" in caplog.text
    history = client.get_metric_history(run.info.run_id, "odd/name of _a_ source")
    assert [metric.step for metric in history] == [11]


def test_no_credential_is_recorded(config: TrainConfig, run: Run) -> None:
    assert config.tracking.uri is not None
    database = config.tracking.uri.removeprefix("sqlite:///")
    assert SECRET not in "\n".join(sqlite3.connect(database).iterdump())
    assert SECRET not in (config.output / "events.jsonl").read_text()


@pytest.fixture(scope="module")
def parity_error(config: TrainConfig, run: Run) -> float:
    """The largest difference of the exported model's logits, after `config.output` was exported."""
    checkpoint, _ = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    folder = config.output / "hf"
    (differences,) = run_ranks(export_run, 1, config, checkpoint, folder)
    return float(differences[folder])


def register_newest(config: TrainConfig, name: str) -> tuple[str, Parity]:
    """Registers the export of the newest checkpoint."""
    return register(
        config, name, choose_checkpoint(checkpoints_folder(config)), config.output / "hf"
    )


def test_an_exported_model_is_registered_with_its_parity_error(
    config: TrainConfig, client: MlflowClient, parity_error: float
) -> None:
    version, _ = register_newest(config, "tiny")
    found = client.get_model_version("tiny", version)
    assert float(found.tags["parity_error"]) == parity_error
    assert found.run_id == run_id_of(config.output)
    import mlflow

    mlflow.set_tracking_uri(config.tracking.uri)
    fill = mlflow.transformers.load_model(f"models:/tiny/{version}")
    assert len(fill("the cat sat on <mask> mat")) == 5


@pytest.mark.usefixtures("parity_error")
def test_an_average_has_a_run_of_its_own(
    config: TrainConfig, client: MlflowClient, tmp_path: Path
) -> None:
    sources = with_weights(find_checkpoints([config.output], 1), None, None)
    checkpoint = average(sources, tmp_path / "merged")
    merged = config.model_copy(update={"output": tmp_path / "merged"})
    run_ranks(export_run, 1, merged, checkpoint, tmp_path / "merged" / "hf")
    versions = [
        client.get_model_version("tiny-average", register_newest(merged, name)[0])
        for name in ["tiny-average"] * 2
    ]
    assert len({version.run_id for version in versions}) == 1
    assert versions[0].run_id != run_id_of(config.output)
    assert "The average of run" in versions[0].description
    found = client.get_run(versions[0].run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["averaged.0.tracking_run_id"] == run_id_of(config.output)
    assert not (tmp_path / "merged" / "folder.json").exists()


def change_export(hf: Path, damage: str) -> None:
    """Changes a copy of an export as `damage` says; times of files stay as they were."""
    record = hf / "parity.json"
    parity = json.loads(record.read_text())
    changes: dict[str, dict[str, Any]] = {
        "error": {"largest_logit_difference": np.nan},
        "step": {"step": 5},
        "different weights": {"checkpoint_fingerprint": "0"},
        "no hashes": {"files": {}},
    }
    if damage == "none":
        record.unlink()
    elif damage == "not JSON":
        record.write_text("{")
    elif damage in changes:
        record.write_text(json.dumps({**parity, **changes[damage]}))
    else:
        path = hf / damage
        before = record.stat()
        path.write_bytes(path.read_bytes()[:-1] + b"!" if path.exists() else b"{}")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("none", "parity was never checked"),
        ("not JSON", r"parity\.json: cannot be read"),
        ("error", "its logits differ by nan"),
        ("step", r"made from step 5, not from .*step-"),
        ("different weights", r"made from step \d+ of different weights"),
        ("no hashes", r"parity\.json: names no files"),
        ("model.safetensors", r"changed since its parity was checked: model\.safetensors"),
        ("tokenizer.json", r"changed since its parity was checked: tokenizer\.json"),
        ("added_tokens.json", r"changed since its parity was checked: added_tokens\.json"),
    ],
)
@pytest.mark.usefixtures("parity_error")
def test_without_parity_nothing_is_registered(
    config: TrainConfig, client: MlflowClient, tmp_path: Path, damage: str, message: str
) -> None:
    shutil.copytree(config.output, tmp_path / "run")
    change_export(tmp_path / "run" / "hf", damage)
    with pytest.raises(UserError, match=message):
        register_newest(config.model_copy(update={"output": tmp_path / "run"}), "refused")
    assert not client.search_registered_models("name = 'refused'")


@pytest.mark.usefixtures("parity_error")
def test_of_many_nodes_only_the_summary_is_sent(
    config: TrainConfig, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "system").mkdir()
    for node in range(6):
        values = {f"system/n{node}/cpu_percent": 10.0 * node}
        event = {"kind": "system", "time_ms": 1_000, "step": 3, "values": values}
        (tmp_path / "system" / f"n{node}.jsonl").write_text(json.dumps(event) + "\n")
    EventLog(tmp_path).metrics(3, {"loss": 1.0})
    send(config.model_copy(update={"output": tmp_path}))
    names = client.get_run(run_id_of(tmp_path)).data.metrics
    system = {name: value for name, value in names.items() if name.startswith("system/")}
    kinds = ("mean", "min", "max")
    expected = dict(zip((f"system/{kind}/cpu_percent" for kind in kinds), (25, 0, 50), strict=True))
    assert system == expected


def test_a_config_that_disagrees_registers_nothing(config: TrainConfig) -> None:
    with pytest.raises(UserError, match=r"seed: 7 in the checkpoint, 8 in the config"):
        register_newest(config.model_copy(update={"seed": 8}), "refused")


def test_a_node_is_sampled_until_its_rank_ends(
    config: TrainConfig, client: MlflowClient, tmp_path: Path, run: Run
) -> None:
    sampled = config.model_copy(update={"output": tmp_path})
    log = EventLog(tmp_path)
    log.metrics(3, {"loss": 1.0})
    sampler = start_sampler(tmp_path)
    stop_sampler(sampler)
    assert sampler.returncode == 0
    send(sampled)
    names = client.get_run(run_id_of(tmp_path)).data.metrics
    (cpu,) = [name for name in names if name.startswith("system/") and name.endswith("cpu_percent")]
    history = client.get_metric_history(run_id_of(tmp_path), cpu)
    assert {metric.step for metric in history} == {3}
    assert 0 <= history[-1].value <= 100 + 1e-6  # a mean, rounded
    assert last_step(tmp_path / "events.jsonl") == 3

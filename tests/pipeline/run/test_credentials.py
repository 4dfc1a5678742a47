"""run.json and checkpoints hold no credentials; a changed password is no change of the run."""

from pathlib import Path

import pytest

from configs.load import ConfigError
from pipeline.finetuning.run_config import load_run
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from pipeline.run.origin import describe_origin
from tests.pipeline.training_run import make_config

SECRET = "hunter2-very-secret"


def config_with_password(folder: Path, password: str) -> TrainConfig:
    uri = f"https://me:{password}@host/mlflow?token={password}"
    return make_config(folder / "rows", folder / "run", tracking={"uri": uri})


def test_run_json_holds_no_credentials(tmp_path: Path) -> None:
    run_folder.claim(config_with_password(tmp_path, SECRET), "fingerprint")
    text = (tmp_path / "run" / run_folder.RUN_NAME).read_text()
    assert SECRET not in text
    assert "https://***@host/mlflow?token=***" in text


def test_a_changed_password_is_not_reported_as_a_change(tmp_path: Path) -> None:
    run_folder.claim(config_with_password(tmp_path, SECRET), "fingerprint")
    assert run_folder.claim(config_with_password(tmp_path, "another-one"), "fingerprint") == []
    other_host = make_config(
        tmp_path / "rows", tmp_path / "run", tracking={"uri": f"https://me:{SECRET}@other"}
    )
    (change,) = run_folder.claim(other_host, "fingerprint")
    assert "https://***@other" in change
    assert SECRET not in change


def test_credentials_in_an_older_run_json_are_not_shown(tmp_path: Path) -> None:
    config = config_with_password(tmp_path, SECRET)
    run_folder.claim(config, "fingerprint")
    path = tmp_path / "run" / run_folder.RUN_NAME
    path.write_text(path.read_text().replace("***", SECRET))
    assert run_folder.claim(config, "fingerprint") == []
    assert SECRET not in path.read_text()


def test_checkpoints_hold_no_credentials(tmp_path: Path) -> None:
    origin = describe_origin(
        config_with_password(tmp_path, SECRET),
        tp_size=1,
        dp_size=1,
        vocab_size=131,
        data_fingerprint="fingerprint",
        tokenizer_sha256="sha256",
    )
    assert SECRET not in str(origin)
    assert origin.config["tracking"]["uri"] == "https://***@host/mlflow?token=***"


@pytest.mark.parametrize("tasks", ["", "tasks: {}\n"])
def test_commands_for_every_kind_of_run_refuse_them(tmp_path: Path, tasks: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"tracking: {{uri: 'https://me:{SECRET}@host/mlflow'}}\n{tasks}")
    with pytest.raises(ConfigError, match=r"tracking\.uri.*MLFLOW_TRACKING") as error:
        load_run(path)
    assert SECRET not in str(error.value)

"""Fine-tuning that stops early by the error on its dev files."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError
from pipeline.checkpoint.best import find_best
from pipeline.finetuning.plan import plan_finetuning
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import DONE_NAME, checkpoints_folder, is_done
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import make_finetune_config, run_finetuning
from tests.pipeline.training_run import metrics

WAIT: dict[str, Any] = {"patience": 1, "min_delta": 10}
SETTINGS: dict[str, Any] = {
    "evaluate_every_steps": 1,
    "evaluation": {"early_stopping": {**WAIT, "patience": 3}, "plateau": WAIT},
    "schedule": {"type": "constant"},
    "steps": 9,
}


def test_a_run_stops_early_and_does_not_train_on(pretrained: TrainConfig, tmp_path: Path) -> None:
    config = make_finetune_config(pretrained, tmp_path / "run", **SETTINGS)
    run_ranks(run_finetuning, 2, config)
    assert metrics(config, "learning_rate") == [1e-3, 1e-3, 5e-4, 2.5e-4]
    assert is_done(config)
    best = find_best(checkpoints_folder(config))
    assert best is not None
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    assert events[-1]["tags"] == {
        "state": "finished",
        "stopped_early": "step 4",
        "best_step": str(best.manifest.step),
        "best_score": repr(best.manifest.dev_error),
    }
    (config.output / DONE_NAME).unlink()
    run_ranks(run_finetuning, 1, config)
    assert len(metrics(config, "loss")) == 4
    assert is_done(config)


def test_without_a_dev_file_it_is_refused(pretrained: TrainConfig, tmp_path: Path) -> None:
    tasks = make_finetune_config(pretrained, tmp_path / "run").model_dump(mode="json")["tasks"]
    without = {name: {**task, "dev": None} for name, task in tasks.items()}
    for key in ("early_stopping", "plateau"):
        config = make_finetune_config(
            pretrained, tmp_path / "run", tasks=without, evaluation={key: WAIT}
        )
        with pytest.raises(ConfigError, match=f"evaluation.{key}: no task has a dev file"):
            plan_finetuning(config, 1, is_first=False)

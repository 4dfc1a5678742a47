"""The tasks of a fine-tuned run as registered models of MLflow."""

from pathlib import Path

from mlflow import MlflowClient

from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.finetuning.export import export_tasks
from pipeline.hugging_face.folder import EXPORT_NAME
from pipeline.registry import register_export
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    ANIMALS,
    make_finetune_config,
    make_tasks,
    run_finetuning,
)


def test_each_task_is_registered_with_what_it_reached(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tasks = make_tasks(tmp_path / "tasks")
    config = make_finetune_config(
        pretrained,
        tmp_path / "run",
        tasks={name: tasks[name] for name in ("animal", "next")},
        mlm=None,
    )
    run_ranks(run_finetuning, 1, config)
    config = make_finetune_config(
        pretrained,
        tmp_path / "run",
        tasks={name: tasks[name] for name in ("animal", "next")},
        mlm=None,
        tracking={"uri": uri},
    )
    checkpoint = choose_checkpoint(checkpoints_folder(config))
    run_ranks(export_tasks, 1, config, checkpoint, config.output / EXPORT_NAME)
    register_export(config, "mine", checkpoint, config.output / EXPORT_NAME)
    client = MlflowClient(uri)
    for task in ("animal", "next"):
        (version,) = client.search_model_versions(f"name = 'mine-{task}'")
        tags = version.tags
        assert tags["task"] == task
        assert tags["step"] == tags["evaluated_step"] == "6"
        assert 0 <= float(tags["dev_accuracy"]) <= 1
        assert float(tags["parity_error"]) < 1e-5
        assert "24 examples" in tags["data.train"]
        assert "fine-tuned from" in version.description
    import mlflow

    mlflow.set_tracking_uri(uri)
    classify = mlflow.transformers.load_model("models:/mine-animal/1")
    (found,) = classify("the cat and the cat")
    assert found["label"] in ANIMALS

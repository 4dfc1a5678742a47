"""The base model of a fine-tuning run is moved, deleted or fine-tuned itself; files move too."""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from pipeline.checkpoint.manifest import find_checkpoint, list_checkpoints
from pipeline.export import export_run
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.export import export_tasks
from pipeline.finetuning.plan import plan_finetuning
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import check_claim, checkpoints_folder, is_done
from pipeline.start.record import START_NAME
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    TASKS,
    make_finetune_config,
    make_tasks,
    run_finetuning,
)
from tests.pipeline.finetuning.test_finetune import stopped_after
from tests.pipeline.training_run import assert_same_bits, final_state, metrics


@pytest.fixture(scope="module")
def whole(pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """A finished run of all tasks and masked language modelling."""
    config = make_finetune_config(pretrained, tmp_path_factory.mktemp("whole") / "run")
    run_ranks(run_finetuning, 1, config)
    return config


@pytest.fixture
def stopped(pretrained: TrainConfig, tmp_path: Path) -> FinetuneConfig:
    """A run of the same settings from a copy of the base, which was stopped after two steps."""
    shutil.copytree(pretrained.output, tmp_path / "base")
    config = config_of(pretrained, tmp_path, "base")
    run_ranks(functools.partial(stopped_after, config, 2), 1)
    assert not is_done(config)
    return config


def config_of(pretrained: TrainConfig, folder: Path, base: str, **changes: Any) -> FinetuneConfig:
    start = {"type": "run", "path": str(folder / base)}
    return make_finetune_config(pretrained, folder / "run", **{"start": start, **changes})


def test_a_run_resumes_and_is_exported_after_its_base_was_deleted(
    whole: FinetuneConfig, stopped: FinetuneConfig, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "base")
    run_ranks(run_finetuning, 1, stopped)
    assert_same_bits(final_state(whole), final_state(stopped))
    assert metrics(whole, "loss") == metrics(stopped, "loss")
    checkpoint, problems = find_checkpoint(checkpoints_folder(stopped))
    assert checkpoint is not None, problems
    [differences] = run_ranks(export_tasks, 1, stopped, checkpoint, tmp_path / "hf")
    assert differences.keys() == TASKS.keys()


def test_the_base_may_be_moved_but_not_replaced(
    pretrained: TrainConfig, whole: FinetuneConfig, stopped: FinetuneConfig, tmp_path: Path
) -> None:
    (tmp_path / "base").rename(tmp_path / "moved")
    other = config_of(pretrained, tmp_path, "other")
    shutil.copytree(whole.output, tmp_path / "other")
    with pytest.raises(UserError, match="does not hold the weights that"):
        plan_finetuning(other, 1, is_first=True)
    moved = config_of(pretrained, tmp_path, "moved")
    fingerprint = plan_finetuning(moved, 1, is_first=True).data_fingerprint
    [change] = check_claim(moved, fingerprint)
    assert change.startswith("start.path: ")
    run_ranks(run_finetuning, 1, moved)
    assert_same_bits(final_state(whole), final_state(moved))


def test_without_a_checkpoint_that_verifies_the_run_starts_from_its_base(
    whole: FinetuneConfig, stopped: FinetuneConfig
) -> None:
    [step] = list_checkpoints(checkpoints_folder(stopped))
    [tensors] = step.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    run_ranks(run_finetuning, 1, stopped)
    assert_same_bits(final_state(whole), final_state(stopped))


def test_a_run_without_its_start_on_record_is_resumed(
    whole: FinetuneConfig, stopped: FinetuneConfig, tmp_path: Path
) -> None:
    """As version 0.1.0 left it; with or without the base."""
    (stopped.output / START_NAME).unlink()
    assert plan_finetuning(stopped, 1, is_first=True).start.has_weights
    shutil.rmtree(tmp_path / "base")
    run_ranks(run_finetuning, 1, stopped)
    assert_same_bits(final_state(whole), final_state(stopped))


def test_a_record_of_the_start_that_is_no_regular_file_or_damaged(
    stopped: FinetuneConfig,
) -> None:
    path = stopped.output / START_NAME
    path.write_text('{"path": 1}')
    with pytest.raises(UserError, match=r"start.json: damaged: path"):
        plan_finetuning(stopped, 1, is_first=True)
    path.unlink()
    os.mkfifo(path)  # nobody writes to it: opening it would wait forever
    with pytest.raises(UserError, match=r"start.json: not a regular file"):
        plan_finetuning(stopped, 1, is_first=True)


def test_every_task_is_fine_tuned_from_a_fine_tuned_run(
    pretrained: TrainConfig, whole: FinetuneConfig, tmp_path: Path
) -> None:
    """Also after everything that the first run was made of has gone."""
    shutil.copytree(whole.output, tmp_path / "first")
    rows = tmp_path / "rows"
    shutil.copytree(pretrained.data.path, rows)
    mlm = {"data": {"path": str(rows)}, "rows_per_step": 8}
    second = config_of(pretrained, tmp_path, "first", mlm=mlm, steps=2)
    run_ranks(run_finetuning, 1, second)
    assert is_done(second)
    third = make_finetune_config(
        pretrained, tmp_path / "third", start={"type": "run", "path": str(second.output)}, steps=2
    )
    shutil.rmtree(tmp_path / "first")
    run_ranks(run_finetuning, 1, third)
    assert is_done(third)
    assert is_done(third.model_copy(update={"steps": 1}))
    assert not is_done(third.model_copy(update={"steps": 3}))


def test_a_dev_file_is_added_and_files_move_in_mid_run(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    tasks = {"animal": make_tasks(tmp_path / "tasks")["animal"]}
    plain = {"animal": {key: value for key, value in tasks["animal"].items() if key != "dev"}}
    whole = make_finetune_config(pretrained, tmp_path / "whole", tasks=tasks, mlm=None)
    run_ranks(run_finetuning, 1, whole)
    first = make_finetune_config(pretrained, tmp_path / "parts", tasks=plain, mlm=None)
    run_ranks(functools.partial(stopped_after, first, 2), 1)
    shutil.move(tasks["animal"]["train"], tmp_path / "moved.jsonl")
    path = str(tmp_path / "moved.jsonl")
    tasks["animal"] = {**tasks["animal"], "train": path, "dev": path}
    second = make_finetune_config(pretrained, tmp_path / "parts", tasks=tasks, mlm=None)
    run_ranks(run_finetuning, 1, second)
    for name in ("loss", "gradient_norm"):
        assert metrics(second, name) == metrics(whole, name)
    with (tmp_path / "moved.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": "the cat", "label": "cat"}) + "\n")
    fingerprint = plan_finetuning(second, 1, is_first=True).data_fingerprint
    with pytest.raises(UserError, match="the data is different"):
        run_folder.check_claim(second, fingerprint)


def rewritten(tokenizer: Path, swap: bool = False) -> str:
    """The same tokenizer as another program may write it; with `swap`, two tokens change places."""
    tree = json.loads(tokenizer.read_bytes())
    tree["truncation"] = {
        **{"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    }
    if swap:
        vocabulary = tree["model"]["vocab"]
        first, second = sorted(token for token, number in vocabulary.items() if 4 < number < 40)[:2]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    return json.dumps(tree, indent=3)


def test_the_tokenizer_of_a_start_in_a_different_file(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    own = pretrained.data.path / "tokenizer.json"

    def config_with(tokenizer: str) -> FinetuneConfig:
        path = tmp_path / "tokenizer.json"
        path.write_text(tokenizer)
        start = {"type": "run", "path": str(pretrained.output), "tokenizer": str(path)}
        return make_finetune_config(pretrained, tmp_path / "run", start=start)

    assert plan_finetuning(config_with(rewritten(own)), 1, is_first=True).mlm is not None
    with pytest.raises(UserError, match="not the tokenizer that"):
        plan_finetuning(config_with(rewritten(own, swap=True)), 1, is_first=True)


def test_rows_of_a_hugging_face_folders_tokenizer(pretrained: TrainConfig, tmp_path: Path) -> None:
    checkpoint, problems = find_checkpoint(checkpoints_folder(pretrained))
    assert checkpoint is not None, problems
    folder = tmp_path / "hf"
    run_ranks(export_run, 1, pretrained, checkpoint, folder)
    start = {"type": "hugging_face", "path": str(folder)}
    config = make_finetune_config(pretrained, tmp_path / "run", start=start)
    tokenizer = folder / "tokenizer.json"
    same, different = rewritten(tokenizer), rewritten(tokenizer, swap=True)
    tokenizer.write_text(same)
    assert plan_finetuning(config, 1, is_first=True).mlm is not None
    run_ranks(functools.partial(stopped_after, config, 2), 1)
    shutil.rmtree(folder)
    run_ranks(run_finetuning, 1, config)
    assert is_done(config)
    run_ranks(export_run, 1, pretrained, checkpoint, folder)
    tokenizer.write_text(different)
    fresh = make_finetune_config(pretrained, tmp_path / "fresh", start=start)
    with pytest.raises(UserError, match="made with a different tokenizer"):
        plan_finetuning(fresh, 1, is_first=True)

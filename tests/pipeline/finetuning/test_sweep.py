"""Sweeps: their children, that these end and resume, and what follows from their scores."""

import json
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from configs.load import ConfigError, UserError
from pipeline.engine.step import StepResult
from pipeline.finetuning import loop
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.step import finetuning_step
from pipeline.finetuning.sweep.children import all_children, child_name
from pipeline.finetuning.sweep.config import SweepConfig
from pipeline.finetuning.sweep.results import (
    ChildResult,
    best_child,
    read_results,
    wanted_children,
    with_children,
)
from pipeline.finetuning.sweep.table import table_lines
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder, is_done
from pipeline.tracking.event_log import LOG_NAME
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import SWEPT_RATES, make_tasks, sweep_config, sweep_rank
from tests.pipeline.training_run import assert_same_bits, final_state, metrics


def test_the_grid_of_roberta_is_thirty_children(pretrained: TrainConfig, tmp_path: Path) -> None:
    grid = {"lr": [1e-5, 2e-5, 3e-5], "batch": [16, 32], "epochs": 10, "seeds": 5}
    children = all_children(sweep_config(pretrained, tmp_path / "run", sweep=grid))
    assert len({child.name for child in children}) == 30
    first = children[0].config
    assert children[0].name == "lr=1e-05_batch=16_epochs=10_seed=1"
    assert first.output == tmp_path / "run/children/lr=1e-05_batch=16_epochs=10_seed=1"
    assert (first.optimizer.lr, first.tasks["animal"].examples_per_step) == (1e-5, 16)
    assert (first.epochs, first.steps, first.seed, first.sweep) == (10, None, 1, None)
    assert {child.config.seed for child in children} == {1, 2, 3, 4, 5}
    assert first.checkpoint.keep_best == 1


def test_any_key_is_swept_by_its_dotted_name(pretrained: TrainConfig, tmp_path: Path) -> None:
    written = {"model.hidden_dropout": [0.0, 0.2], "optimizer": {"weight_decay": 0.1}}
    sweep = {"layerwise_lr_decay": [0.9], "adversarial": [{"type": "freelb", "steps": 2}]}
    config = sweep_config(pretrained, tmp_path / "run", sweep={**written, **sweep})
    one, two = all_children(config)
    assert (one.config.model.hidden_dropout, two.config.model.hidden_dropout) == (0.0, 0.2)
    assert one.config.optimizer.weight_decay == 0.1
    assert one.config.layerwise_lr_decay == 0.9
    assert one.config.adversarial.type == "freelb"
    assert one.name != two.name
    assert "/" not in one.name
    assert len(one.name) < 120


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"lr": [1e-3, 1e-3]}, "lr: 0.001 is there twice"),
        ({"seeds": 1}, "sweep: nothing to try"),
        ({"lr": [0]}, "greater than 0"),
        ({"lr": [1e-3], "optimizer.lr": [1e-2]}, "lr and optimizer.lr are the same"),
        ({"lrs": [1e-3]}, "lrs: unknown key"),
        ({"optimiser.lr": [1e-3]}, "optimiser: unknown key"),
        ({"model.hidden_dropout": [0.1, 2]}, "model.hidden_dropout: .*less than 1"),
        ({"seed": [1, 2]}, "seed: use seeds"),
        ({"output": ["a", "b"]}, "output cannot be swept"),
        ({"steps.x": [1]}, "sweep.steps.x: steps is no mapping of keys"),
        ({"seeds": 0}, "greater than 0"),
    ],
)
def test_a_sweep_that_cannot_work_is_named(
    pretrained: TrainConfig, tmp_path: Path, sweep: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        all_children(sweep_config(pretrained, tmp_path / "run", sweep=sweep))


def result(setting: dict[str, Any], seed: int, score: float | None) -> ChildResult:
    """The result of a child."""
    state = "diverged" if score is None else "finished"
    name = child_name({**setting, "seed": seed})
    return ChildResult(name=name, setting=setting, seed=seed, state=state, score=score)


def test_the_best_setting_is_that_of_the_median(pretrained: TrainConfig, tmp_path: Path) -> None:
    config = sweep_config(pretrained, tmp_path / "run", sweep={"lr": SWEPT_RATES, "seeds": 3})
    low, high = {"lr": 1e-3}, {"lr": 1e-2}
    ended = [
        *(result(low, n, s) for n, s in ((1, 0.80), (2, 0.81), (3, 0.82))),
        *(result(high, n, s) for n, s in ((1, 0.99), (2, 0.70), (3, 0.71))),
    ]
    found = with_children(config, ended)
    assert (found.is_finished, found.best) == (True, "lr=0.001_seed=3")
    assert (found.settings[0].median, found.settings[0].min, found.settings[0].max) == (
        0.81,
        0.80,
        0.82,
    )
    assert found.settings[0].std == pytest.approx(0.01)
    lines = table_lines(found)
    assert lines[0].split()[:4] == ["setting", "seeds", "failed", "median"]
    assert lines[1].split() == ["lr=0.001", "3", "0", "0.8100", "0.8000", "0.8200", "0.0100", "3"]
    lost = [result(high, 1, 0.99), result(high, 2, None), result(high, 3, None), *ended[:3]]
    assert with_children(config, lost).best == "lr=0.001_seed=3"
    assert not with_children(config, ended[:5]).is_finished


def test_only_the_best_setting_gets_more_seeds(pretrained: TrainConfig, tmp_path: Path) -> None:
    sweep = {"lr": SWEPT_RATES, "seeds": 3, "seeds_of": "best_setting"}
    config = sweep_config(pretrained, tmp_path / "run", sweep=sweep)
    assert [child.seed for child in wanted_children(config, [])] == [1, 1]
    first = [result({"lr": 1e-3}, 1, 0.9), result({"lr": 1e-2}, 1, 0.95)]
    wanted = wanted_children(config, first)
    assert [child.name for child in wanted[2:]] == ["lr=0.01_seed=2", "lr=0.01_seed=3"]
    more = [*first, result({"lr": 1e-2}, 2, 0.5), result({"lr": 1e-2}, 3, 0.5)]
    found = with_children(config, more)
    assert found.is_finished
    assert found.best == "lr=0.01_seed=1"  # 0.9 of one seed is not compared with three
    assert found.settings[0].setting == {"lr": 1e-2}


def stop_after(config: FinetuneConfig, steps: int) -> None:
    """The sweep with a stop signal in its optimizer step `steps`."""
    taken = iter(range(1, 1000))

    def step(*arguments: Any) -> StepResult:
        if next(taken) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return finetuning_step(*arguments)

    with mock.patch.object(loop, "finetuning_step", step):
        sweep_rank(config)


def test_an_interrupted_sweep_repeats_nothing_and_gives_the_same_bits(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    keep = {"lr": SWEPT_RATES, "keep": "all"}
    whole = sweep_config(pretrained, tmp_path / "whole", sweep=keep)
    run_ranks(sweep_rank, 2, whole)
    parts = sweep_config(pretrained, tmp_path / "parts", sweep=keep)
    run_ranks(stop_after, 2, parts, 5)  # in the second child
    found = read_results(parts)
    assert [child.name for child in found.children] == ["lr=0.001_seed=1"]
    with pytest.raises(UserError, match="1 of 2 children of this sweep have ended"):
        best_child(parts)
    first = parts.output / "children/lr=0.001_seed=1" / LOG_NAME
    before = first.read_bytes()
    run_ranks(sweep_rank, 2, parts)
    assert first.read_bytes() == before
    for one, two in zip(all_children(whole), all_children(parts), strict=True):
        assert is_done(two.config)
        assert metrics(one.config, "loss") == metrics(two.config, "loss")
        assert_same_bits(final_state(one.config), final_state(two.config))
    assert read_results(whole).settings == read_results(parts).settings
    log_before = (parts.output / "sweep.json").read_bytes()
    run_ranks(sweep_rank, 1, parts)  # finished: trains nothing
    assert (parts.output / "sweep.json").read_bytes() == log_before


def test_a_best_child_without_checkpoints_is_trained_again(
    pretrained: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As when more seeds make another setting the best."""
    config = sweep_config(pretrained, tmp_path / "run", sweep={"lr": SWEPT_RATES})
    run_ranks(sweep_rank, 1, config)
    first = read_results(config)
    (other,) = (one for one in first.children if one.name != first.best)
    path = config.output / "sweep.json"
    tree = json.loads(path.read_text())
    for child in tree["children"]:
        child["score"] = 0.0 if child["name"] == first.best else 1.0
    path.write_text(json.dumps(tree))
    assert not read_results(config).is_finished
    run_ranks(sweep_rank, 1, config)
    assert f"{other.name} is the best now, but its checkpoints" in capfd.readouterr().out
    found = read_results(config)
    assert found.of(other.name) == other  # the same bits, and so its own score again
    assert found.best == other.name
    (only,) = checkpoints_folder(best_child(config)).iterdir()
    assert only.name == f"step-{other.best_step:08d}"


def test_children_of_other_settings_are_refused(pretrained: TrainConfig, tmp_path: Path) -> None:
    config = sweep_config(pretrained, tmp_path / "run", sweep={"lr": SWEPT_RATES[:1]}, steps=1)
    run_ranks(sweep_rank, 1, config)
    more = {"lr": SWEPT_RATES[:1]}
    optimizer = {"lr": 1e-3, "weight_decay": 0.3}
    changed = sweep_config(pretrained, tmp_path / "run", sweep=more, steps=1, optimizer=optimizer)
    with pytest.raises(RankError, match=r"lr=0\.001_seed=1: optimizer\.weight_decay: 0\.01 before"):
        run_ranks(sweep_rank, 1, changed)
    tasks = make_tasks(tmp_path / "tasks", num_lines=20)  # the same path, other lines
    longer = sweep_config(
        pretrained, tmp_path / "run", sweep=more, steps=1, tasks={"animal": tasks["animal"]}
    )
    make_tasks(tmp_path / "tasks", num_lines=20)
    with pytest.raises(RankError, match="its files, or the tokenizer, are different now"):
        run_ranks(changed_files, 1, longer, tmp_path / "tasks")


def changed_files(config: FinetuneConfig, folder: Path) -> None:
    """The sweep on files that are shorter than before."""
    make_tasks(folder, num_lines=20)
    sweep_rank(config)


def test_without_dev_files_nothing_is_best(pretrained: TrainConfig, tmp_path: Path) -> None:
    task = {**make_tasks(tmp_path / "tasks")["animal"], "dev": None}
    config = sweep_config(pretrained, tmp_path / "run", tasks={"animal": task})
    with pytest.raises(RankError, match="no task has a dev file, whose scores choose the best"):
        run_ranks(sweep_rank, 1, config)


def test_a_damaged_table_is_named(pretrained: TrainConfig, tmp_path: Path) -> None:
    config = sweep_config(pretrained, tmp_path / "run")
    config.output.mkdir()
    (config.output / "sweep.json").write_text(json.dumps({"children": 5}))
    with pytest.raises(UserError, match=r"sweep.json: damaged: .* delete it"):
        read_results(config)
    assert SweepConfig(lr=(1e-3,)).settings == [{"lr": 1e-3}]

"""Children of sweeps that end without a score: they diverge, or find too little memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from configs.load import UserError
from pipeline.engine.out_of_memory import OutOfMemory, named_out_of_memory
from pipeline.engine.step import StepResult
from pipeline.fault_tolerance.loss_spikes import DivergedError
from pipeline.finetuning import loop
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.step import finetuning_step
from pipeline.finetuning.sweep.children import all_children
from pipeline.finetuning.sweep.results import best_child, read_results
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import SWEPT_RATES, sweep_config, sweep_rank


def failing(config: FinetuneConfig, error: Callable[[], Exception]) -> None:
    """The sweep, in which every step with the large rate ends with an error."""

    def step(*arguments: Any) -> StepResult:
        if arguments[3] == SWEPT_RATES[1]:
            raise error()
        return finetuning_step(*arguments)

    with mock.patch.object(loop, "finetuning_step", step):
        sweep_rank(config)


def diverged() -> Exception:
    """The error of a run that stays unstable."""
    return DivergedError("5 steps in a row with gradients that are not finite")


def out_of_memory() -> Exception:
    """The error of PyTorch on an accelerator."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nGPU 0 has ...")


def test_a_child_that_diverges_is_recorded_and_the_best_one_is_kept(
    pretrained: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = sweep_config(
        pretrained,
        tmp_path / "run",
        schedule={"type": "constant"},
        sweep={"lr": [SWEPT_RATES[1], SWEPT_RATES[0]], "seeds": 2},
    )
    run_ranks(failing, 1, config, diverged)
    found = read_results(config)
    assert [child.state for child in found.children] == ["diverged"] * 2 + ["finished"] * 2
    assert found.settings[0].setting == {"lr": SWEPT_RATES[0]}
    assert (found.settings[1].failed, found.settings[1].median) == (2, None)
    best = best_child(config)
    assert (config.output / "best").resolve() == best.output.resolve()
    kept = [child for child in all_children(config) if checkpoints_folder(child.config).exists()]
    assert [child.config.output for child in kept] == [best.output]
    (only,) = checkpoints_folder(best).iterdir()
    result_of_best = found.of(best.output.name)
    assert result_of_best is not None
    assert result_of_best.score is not None
    assert only.name == f"step-{result_of_best.best_step:08d}"
    assert result_of_best.score == pytest.approx(result_of_best.metrics["dev_accuracy/animal"])
    output = capfd.readouterr().out
    assert "failed: lr=0.01_seed=1: 5 steps in a row" in output
    assert "sweep: finished: 4 children" in output
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    assert events[-1]["status"] == "FINISHED"
    assert events[-1]["tags"]["best_child"] == best.output.name
    scores = [e["values"].get("child/dev_score") for e in events if e["kind"] == "metrics"]
    assert len(scores) == 5
    assert scores[0] is None


def test_a_child_without_memory_ends_the_launch_and_the_next_one_continues(
    pretrained: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    constant = {"type": "constant"}
    sweep = {"lr": SWEPT_RATES, "seeds": 2, "seeds_of": "every_setting"}
    config = sweep_config(pretrained, tmp_path / "run", schedule=constant, sweep=sweep)
    for _ in range(2):  # each ends with one of the two
        with pytest.raises(RankError, match=r"out of memory: CUDA out of memory\. Tried"):
            run_ranks(failing, 1, config, out_of_memory)
    run_ranks(failing, 1, config, out_of_memory)
    found = read_results(config)
    states = {child.name: child.state for child in found.children}
    assert [*states.values()] == ["finished"] * 2 + ["out_of_memory"] * 2
    assert found.is_finished
    assert (found.settings[1].failed, found.settings[1].median) == (2, None)
    output = capfd.readouterr().out
    assert "failed: lr=0.01_seed=1: out of memory: CUDA out of memory. Tried" in output
    assert f"delete {config.output}/children/lr=0.01_seed=1 to train it again" in output
    children = {child.name: child.config for child in all_children(config)}
    for name, state in states.items():
        assert checkpoints_folder(children[name]).exists() == (name == found.best)
        assert (children[name].output / "OUT_OF_MEMORY").exists() == (state == "out_of_memory")


def test_where_the_first_child_finds_too_little_memory_nothing_is_skipped(
    pretrained: TrainConfig, tmp_path: Path
) -> None:
    constant = {"type": "constant"}
    sweep = {"lr": SWEPT_RATES[::-1]}
    config = sweep_config(pretrained, tmp_path / "run", schedule=constant, sweep=sweep)
    for _ in range(2):
        with pytest.raises(RankError, match="set smaller micro-batches"):
            run_ranks(failing, 1, config, out_of_memory)
    smaller = sweep_config(
        pretrained, tmp_path / "run", schedule=constant, sweep=sweep, micro_rows=2
    )
    assert smaller.micro_rows != config.micro_rows
    run_ranks(sweep_rank, 1, smaller)  # as the message says
    assert [child.state for child in read_results(smaller).children] == ["finished"] * 2


def test_too_little_memory_of_the_host_is_named_too() -> None:
    with (
        pytest.raises(OutOfMemory, match=r"DefaultCPUAllocator(.|\n)*micro_rows"),
        named_out_of_memory(),
    ):
        torch.empty(1 << 46)
    with pytest.raises(RuntimeError, match="shape"), named_out_of_memory():
        torch.zeros(3) @ torch.zeros(2, 2)
    assert issubclass(OutOfMemory, UserError)

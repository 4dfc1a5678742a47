"""Checkpoints and averages of them are evaluated, exported, continued and fine-tuned."""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from configs.load import UserError, read_tree, validate
from data_prep.tokenization.train import train_tokenizer
from model.options import RotaryPositions
from pipeline import average
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.checkpoint.stored_model import stored_model
from pipeline.evaluation.as_trained import evaluate_checkpoint
from pipeline.export import export_run
from pipeline.finetuning.run_config import load_run
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import check_claim, checkpoints_folder
from pipeline.start.config import ContinueRun
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import make_finetune_config, run_finetuning
from tests.pipeline.training_run import (
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

MODERN: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_row_tokens": 64,
    "attention_dropout": 0.0,
    "norm_placement": {"type": "pre"},
    "first_norm": False,
    "bias": {"attention": False, "mlp": False, "norm": False, "head": False},
    "activation": {"type": "geglu"},
    "positions": {"type": "rotary"},
    "type_vocab_size": 0,
}
SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder / "short", tokenizer=train_tokenizer([SENTENCE] * 60, 270))
    make_rows(folder / "long", tokenizer=train_tokenizer([SENTENCE] * 60, 270), row_tokens=64)
    return folder


@pytest.fixture(scope="module")
def run(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two phases on rotary positions at tensor parallel 2, with checkpoints of both."""
    config = make_config(
        rows / "short",
        tmp_path_factory.mktemp("run") / "run",
        model=MODERN,
        total_rows=6 * 16,
        then=[
            {
                "data": {"path": str(rows / "long"), "workers": 0},
                "total_rows": 64,
                "model": {"positions": {"base": 500.0}},
            }
        ],
        batch={"global_rows": 16, "micro_rows": 4},
        evaluation={"every_steps": 2, "rows_per_source": 8},
        checkpoint={"every_steps": 2, "keep_last": 9},
        parallel={"tensor": 2},
    )
    run_ranks(pretrain, 2, config)
    return config


def evaluated(config: Any, step: int | None = None) -> dict[str, float]:
    """In a process of its own: a world made here would hang ranks forked later."""
    checkpoint = choose_checkpoint(checkpoints_folder(config), step)
    (values,) = run_ranks(evaluate_checkpoint, 1, config, checkpoint)
    return dict(values)


def averaged(output: Path, *arguments: str) -> Any:
    """The config of the run folder that the command writes."""
    words = ["average", *arguments, "--output", str(output)]
    with mock.patch.object(sys, "argv", words):
        average.main()
    return load_run(output / "config.yaml")


def test_the_losses_are_those_that_training_measured(run: TrainConfig) -> None:
    recorded = {
        number: values
        for number, values in enumerate(metrics_of(run), start=1)
        if "heldout_loss" in values
    }
    assert list(recorded) == [2, 4, 6, 8, 10]
    for step, base in ((6, 10_000), (8, 500)):  # in the first phase, and in the second
        model = stored_model(choose_checkpoint(checkpoints_folder(run), step))
        assert isinstance(model.positions, RotaryPositions)
        assert model.positions.base == base
        values = evaluated(run, step)
        expected = {name: v for name, v in recorded[step].items() if name.startswith("heldout")}
        assert values == pytest.approx(expected, rel=1e-5)


def evaluated_without_varlen(config: Any, step: int | None = None) -> dict[str, float]:
    """Of a run with varlen attention, which has no kernels for fp32 on a GPU."""
    compute = config.compute.model_copy(update={"attention_backend": "varlen"})
    with mock.patch("model.attention_masks.sequence_bounds", None):
        return evaluated(config.model_copy(update={"compute": compute}), step)


def test_varlen_attention_is_not_asked_for_fp32(run: TrainConfig) -> None:
    assert evaluated_without_varlen(run, 6) == evaluated(run, 6)


def metrics_of(config: TrainConfig) -> list[dict[str, float]]:
    from pipeline.tracking.event_log import LOG_NAME, read_events

    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return [event["values"] for event in events if event["kind"] == "metrics"]


def test_checkpoints_are_chosen_by_step_and_by_loss(run: TrainConfig) -> None:
    folder = checkpoints_folder(run)
    assert choose_checkpoint(folder).manifest.step == 10
    assert choose_checkpoint(folder, 4).manifest.step == 4
    best = choose_checkpoint(folder, best=True).manifest
    assert best.heldout_loss == min(m for m in losses_of_last_phase(run))
    for step, is_best, message in (
        (5, False, r"no checkpoint of step 5; there are those of steps "),
        (4, True, "give one of them"),
    ):
        with pytest.raises(UserError, match=message):
            choose_checkpoint(folder, step, is_best)
    with pytest.raises(UserError, match="train first"):
        choose_checkpoint(folder / "none")
    with pytest.raises(
        UserError, match=r"no checkpoint with a held-out loss .* there is no complete one"
    ):
        choose_checkpoint(folder / "none", best=True)


def losses_of_last_phase(config: TrainConfig) -> list[float]:
    return [v["heldout_loss"] for v in metrics_of(config)[6:] if "heldout_loss" in v]


def test_an_average_is_evaluated_exported_continued_and_fine_tuned(
    run: TrainConfig, rows: Path, tmp_path: Path
) -> None:
    alone = averaged(tmp_path / "alone", str(run.output))
    assert evaluated(alone) == evaluated(run)
    config = averaged(tmp_path / "average", str(run.output), "--last", "2", "--decay", "0.5")
    assert config.output == tmp_path / "average"
    losses = [evaluated(each)["heldout_loss"] for each in (alone, config)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    checkpoint = choose_checkpoint(checkpoints_folder(config))
    (differences,) = run_ranks(export_run, 1, config, checkpoint, config.output / "hf")
    assert max(differences.values()) < 1e-4
    with pytest.raises(UserError, match="average of checkpoints, which cannot be resumed"):
        check_claim(config, "any")

    start = {"type": "run", "path": str(config.output)}
    moments = ContinueRun(path=config.output, moments=True)
    branch = validate(
        {
            **read_tree(config.output / "config.yaml"),
            **{"output": str(tmp_path / "branch"), "start": start, "then": []},
            **{"data": {"path": str(rows / "long"), "workers": 0}, "total_rows": 16},
            **{"optimizer": {"type": "adamw", "lr": 1e-30}, "schedule": {"type": "constant"}},
        },
        TrainConfig,
        "test",
    )
    with pytest.raises(UserError, match="average of checkpoints has no optimizer state"):
        plan_run(branch.model_copy(update={"start": moments}), 2)
    run_ranks(pretrain, 2, branch)
    assert metrics(branch, "heldout_loss")[-1] == pytest.approx(losses[1], rel=1e-6)
    weights = final_state(branch)
    expected = final_state(config)
    for name, tensor in expected.items():
        assert weights[name].equal(tensor), name

    tuned = make_finetune_config(
        config,
        tmp_path / "tuned",
        checkpoint={"every_steps": 3},
        mlm=None,
    )
    run_ranks(run_finetuning, 1, tuned)
    best = averaged(tmp_path / "tuned-average", str(tuned.output), "--last", "2")
    values = evaluated(tuned)
    last = metrics_of(tuned)[-1]  # type: ignore[arg-type]
    assert values == pytest.approx({name: last[name] for name in values}, rel=1e-5)
    assert any(name.startswith("dev_accuracy/") for name in evaluated(best))
    assert evaluated_without_varlen(tuned) == values


def test_replaced_tokens_are_evaluated_as_in_training(rows: Path, tmp_path: Path) -> None:
    config = make_config(
        rows / "short",
        tmp_path / "run",
        objective={"type": "replaced_tokens", "generator": {"type": "small", "width": 0.5}},
        total_rows=4 * 16,
        checkpoint={"every_steps": 2},
    )
    run_ranks(pretrain, 1, config)
    values = evaluated(config)
    last = metrics_of(config)[-1]
    assert "heldout_discriminator_loss" in values
    assert values == pytest.approx({name: last[name] for name in values}, rel=1e-5)
    merged = averaged(tmp_path / "average", str(config.output), "--last", "2")
    assert evaluated(merged)["heldout_discriminator_loss"] != last["heldout_discriminator_loss"]


def test_other_rows_and_disagreeing_configs_are_refused(
    run: TrainConfig, rows: Path, tmp_path: Path
) -> None:
    make_rows(tmp_path / "other", tokenizer=train_tokenizer([SENTENCE[::-1]] * 60, 270))
    tree = run.model_dump(mode="json")
    checkpoint = choose_checkpoint(checkpoints_folder(run), 2)
    for changes, message in (
        ({"data": {"path": str(tmp_path / "other")}}, "different tokenizer"),
        ({"seed": 99}, "seed"),
    ):
        config = validate({**tree, **changes}, TrainConfig, "test")
        with pytest.raises(UserError, match=message):
            evaluate_checkpoint(config, checkpoint)

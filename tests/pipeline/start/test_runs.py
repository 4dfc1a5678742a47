"""Runs that continue a folder or another run, at any grid: equal weights, losses and resumes."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.load import UserError
from model.hugging_face.families import family_of_model
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.hugging_face.folders import SAME_SIZES, tiny_folder, tiny_tokenizer
from tests.pipeline.start.continuing import (
    TOKENIZER,
    checkpoint_at,
    child_config,
    child_tree,
    make_data,
    parent_config,
    run_tree,
    state_at,
)
from tests.pipeline.training_run import VOCAB_SIZE, assert_same_bits, metrics, pretrain


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "rows")


@pytest.fixture(scope="module")
def parent(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run on two tensor-parallel ranks."""
    config = parent_config(
        rows, tmp_path_factory.mktemp("parent") / "run", parallel={"tensor": 2, "zero_stage": 1}
    )
    run_ranks(pretrain, 2, config)
    return config


def heldout_losses(config: TrainConfig) -> dict[int, float]:
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return {
        event["step"]: event["values"]["heldout_loss"]
        for event in events
        if "heldout_loss" in event.get("values", {})
    }


@pytest.mark.parametrize(
    ("world_size", "tensor", "zero_stage", "moments"),
    [(1, 1, 1, True), (2, 2, 1, False), (2, 1, 2, False), (2, 1, 3, True)],
)
def test_a_branch_starts_with_the_parents_weights_and_loss_at_any_grid(
    rows: Path,
    parent: TrainConfig,
    tmp_path: Path,
    world_size: int,
    tensor: int,
    zero_stage: int,
    moments: bool,
) -> None:
    start = {"type": "run", "path": str(parent.output), "step": 10, "moments": moments}
    parallel = {"tensor": tensor, "zero_stage": zero_stage}
    tree = child_tree(rows, tmp_path / "run", start, parallel=parallel)
    run_ranks(run_tree, world_size, tree)
    child = child_config(rows, tmp_path / "run", start)
    at_start = checkpoint_at(child, 0).manifest
    keys = () if moments else ("weight",)
    assert_same_bits(state_at(parent, 10, *keys), state_at(child, 0, *keys))
    assert at_start.optimizer_step == (10 if moments else 0)
    assert checkpoint_at(child, 4).manifest.optimizer_step == (14 if moments else 4)
    if not moments:
        assert all(not t.any() for t in state_at(child, 0, "exp_avg", "exp_avg_sq").values())
    expected = checkpoint_at(parent, 10).manifest.heldout_loss
    assert at_start.heldout_loss == pytest.approx(expected, rel=1e-6)
    assert heldout_losses(child)[0] == at_start.heldout_loss


@pytest.mark.parametrize("after", [(1, 1, 1), (2, 2, 3)], ids=str)
def test_a_killed_branch_resumes_without_its_start(
    rows: Path, parent: TrainConfig, tmp_path: Path, after: tuple[int, int, int]
) -> None:
    """Bit-equal at the same grid, also from step 0; to rounding at another one."""
    shutil.copytree(parent.output, tmp_path / "parent")
    start = {"type": "run", "path": str(tmp_path / "parent"), "step": "newest", "moments": True}
    schedule = {"type": "linear", "warmup_rows": 32}
    saves = {"every_steps": 2, "keep_last": 9}
    changes: dict[str, Any] = {"schedule": schedule, "checkpoint": saves, "seed": 11}
    whole = child_tree(rows, tmp_path / "whole", start, **changes)
    run_ranks(run_tree, 1, whole)
    stopped = child_tree(rows, tmp_path / "stopped", start, **changes)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    (tmp_path / "stopped" / "DONE").unlink()
    kept = 0 if after == (1, 1, 1) else 2
    for step in (2, 4):
        if step > kept:
            shutil.rmtree(tmp_path / "stopped" / "checkpoints" / f"step-{step:08d}")
    shutil.rmtree(tmp_path / "parent")
    world_size, tensor, zero_stage = after
    parallel = {"tensor": tensor, "zero_stage": zero_stage}
    run_ranks(run_tree, world_size, {**stopped, "parallel": parallel})
    configs = [child_config(rows, tmp_path / name, start) for name in ("whole", "stopped")]
    first, second = (state_at(config, 4) for config in configs)
    if world_size == 1:
        assert_same_bits(first, second)
        assert metrics(configs[0], "loss") == metrics(configs[1], "loss")
    else:
        for name, tensor_of_whole in first.items():
            torch.testing.assert_close(second[name], tensor_of_whole, rtol=1e-4, atol=1e-6)
    record = checkpoint_at(configs[1], 4).manifest.start
    assert record == checkpoint_at(configs[0], 0).manifest.start
    assert record is not None
    assert record.step == 20
    assert record.data is not None
    assert record.data["paths"] == [str(rows)]
    shutil.copytree(parent.output, tmp_path / "moved")
    moved = child_config(rows, tmp_path / "whole", {**start, "path": str(tmp_path / "moved")})
    assert plan_run(moved, 1).start_record == record
    other = child_config(rows, tmp_path / "whole", {**start, "path": str(tmp_path / "stopped")})
    with pytest.raises(UserError, match=r"does not hold the weights that .*whole started from"):
        plan_run(other, 1)
    # Re-warming is the schedule's own: the first steps rise to the peak again.
    assert metrics(configs[0], "learning_rate")[:2] == [0.0005, 0.001]


def test_a_folder_is_continued_and_exported_as_it_was(rows: Path, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "hf", TOKENIZER, **SAME_SIZES, initializer_range=1.0)
    tensors = load_file(folder / "model.safetensors")
    start = {"type": "hugging_face", "path": str(folder)}
    tree = child_tree(rows, tmp_path / "run", start, model={"hidden_dropout": 0.0}, total_rows=16)
    run_ranks(run_tree, 2, {**tree, "parallel": {"tensor": 2, "zero_stage": 2}})
    config = child_config(rows, tmp_path / "run", start, model={"hidden_dropout": 0.0})
    assert (config.model.hidden_dropout, config.model.attention_dropout) == (0.0, 0.1)
    family = family_of_model(config.model)
    state = {key.split("/", 1)[1]: t for key, t in state_at(config, 0, "weight").items()}
    back = family.to_hf(state, config.model)
    assert {name for name in back if not torch.equal(back[name], tensors[name])} == set()
    assert len(back) > 30
    assert heldout_losses(config)[0] > 8  # such weights predict badly; random ones have log(131)


def test_without_a_head_the_head_starts_at_random(
    rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_folder(tmp_path / "hf", TOKENIZER, **SAME_SIZES)
    tensors = load_file(folder / "model.safetensors")
    body = {name: t for name, t in tensors.items() if not name.startswith("lm_head")}
    save_file(body, folder / "model.safetensors")
    start = {"type": "hugging_face", "path": str(folder)}
    run_ranks(run_tree, 1, child_tree(rows, tmp_path / "run", start, total_rows=16))
    config = child_config(rows, tmp_path / "run", start)
    state = state_at(config, 0, "weight")
    assert not state["weight/head.bias"].any()
    word = state["weight/encoder.embeddings.word.weight"]
    assert torch.equal(word, tensors["roberta.embeddings.word_embeddings.weight"])


def test_a_grown_model_predicts_far_better_than_a_random_one(rows: Path, tmp_path: Path) -> None:
    base = {
        **{"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 32},
        **{"positions": {"type": "rotary"}, "norm_placement": {"type": "pre"}},
        **{"activation": {"type": "geglu"}, "hidden_dropout": 0.0},
    }
    small = parent_config(
        rows, tmp_path / "small", model=base, total_rows=100 * 16, optimizer={"lr": 5e-3}
    )
    run_ranks(pretrain, 1, small)
    start = {"type": "run", "path": str(small.output), "step": "best", "grow": "tiling"}
    larger = {"num_layers": 3, "hidden_size": 48, "num_attention_heads": 6, "ffn_hidden_size": 160}
    tree = child_tree(rows, tmp_path / "large", start, model=larger)
    run_ranks(run_tree, 2, {**tree, "parallel": {"tensor": 2, "zero_stage": 1}})
    config = child_config(rows, tmp_path / "large", start, model=larger)
    grown, trained = heldout_losses(config)[0], min(heldout_losses(small).values())
    random = math.log(VOCAB_SIZE)
    assert trained < grown < trained + 0.5 * (random - trained)


def test_moments_of_muon_are_taken_over_at_another_grid(rows: Path, tmp_path: Path) -> None:
    muon = {"type": "muon", "lr": 1e-3}
    parent = parent_config(
        rows,
        tmp_path / "parent",
        optimizer=muon,
        total_rows=64,
        parallel={"tensor": 2, "zero_stage": 1},
        schedule={"type": "constant"},
    )
    run_ranks(pretrain, 2, parent)
    start = {"type": "run", "path": str(parent.output), "moments": True}
    parallel = {"tensor": 1, "zero_stage": 3}
    tree = child_tree(rows, tmp_path / "run", start, optimizer=muon, parallel=parallel)
    run_ranks(run_tree, 2, tree)
    child = child_config(rows, tmp_path / "run", start)
    assert_same_bits(state_at(parent, 4), state_at(child, 0))
    assert checkpoint_at(child, 4).manifest.optimizer_step == 8


@pytest.mark.parametrize("method", ["mean", "focus"])
def test_tokens_of_another_vocabulary_keep_their_vectors(
    rows: Path, parent: TrainConfig, tmp_path: Path, method: str
) -> None:
    larger = make_data(tmp_path / "rows", tokenizer=tiny_tokenizer(VOCAB_SIZE + 4))
    start = {"type": "run", "path": str(parent.output), "step": 10, "new_tokens": method}
    tree = child_tree(larger, tmp_path / "run", start)
    run_ranks(run_tree, 2, {**tree, "parallel": {"tensor": 2, "zero_stage": 1}})
    old = state_at(parent, 10, "weight")
    new = state_at(child_config(larger, tmp_path / "run", start), 0, "weight")
    for name in ("encoder.embeddings.word.weight", "head.bias"):
        before, after = old[f"weight/{name}"], new[f"weight/{name}"]
        assert after.shape[0] == VOCAB_SIZE + 4
        assert torch.equal(after[: VOCAB_SIZE - 1], before[:-1]), name
        assert torch.equal(after[-1], before[-1]), name  # <mask>, which has a new id
        assert after[VOCAB_SIZE - 1 : -1].any(), name
    rest = [key for key in old if "word" not in key and key != "weight/head.bias"]
    assert all(torch.equal(old[key], new[key]) for key in rest)

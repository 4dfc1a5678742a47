"""Replaced-token detection: equal on any grid, resumed bit for bit, and both networks learn."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from configs.load import ConfigError
from model.generator import generator_of
from model.objectives import ReplacedTokensConfig, SpecialIds
from model.parallel.grid import make_grid
from pipeline.engine.step import StepResult
from pipeline.pretraining import loop
from pipeline.pretraining.model import build_pretraining_model
from pipeline.pretraining.step import pretraining_step
from pipeline.run.memory import count_trained, estimate_memory
from pipeline.run.plan import plan_run
from tests.gloo import RankError, in_one_rank, run_ranks
from tests.pipeline.training_run import (
    ROW_TOKENS,
    VOCAB_SIZE,
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

SMALL = {"type": "small", "width": 0.5, "depth": 0.5}
GENERATORS: dict[str, dict[str, Any]] = {
    "shared encoder": {"type": "shared"},
    "shared embeddings": SMALL,
    "separate": {**SMALL, "embeddings": "separate"},
    "disentangled": {**SMALL, "width": 1.0, "embeddings": "disentangled"},
    "narrow disentangled": {**SMALL, "embeddings": "disentangled"},
}
MASKING = {"type": "mlm", "mask_rate": 0.3, "corruption": {"mask": 1.0, "random": 0.0}}
PRE_LN = {"positions": {"type": "rotary"}, "norm_placement": {"type": "pre"}}
MODEL = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": ROW_TOKENS}


def settings(name: str, **changes: Any) -> dict[str, Any]:
    """Of a run with the generator `name`; more is masked than usual, so that much is replaced."""
    objective = {"type": "replaced_tokens", "generator": GENERATORS[name], "masking": MASKING}
    return {"objective": objective, "total_rows": 6 * 16, **changes}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


@pytest.mark.parametrize("name", GENERATORS)
def test_losses_norms_and_drawn_tokens_are_equal_on_any_grid(
    name: str, rows: Path, tmp_path: Path
) -> None:
    one = make_config(rows, tmp_path / "one", **settings(name))
    run_ranks(pretrain, 1, one)
    parallel: dict[str, Any] = {"tensor": 2, "zero_stage": 2}
    compute: dict[str, Any] = {"sequence_parallel": True}
    if name in ("shared encoder", "disentangled"):
        parallel = {"zero_stage": 3}
        compute = {"activation_checkpointing": {"type": "layers"}}
    other = make_config(
        rows, tmp_path / "other", **settings(name), parallel=parallel, compute=compute
    )
    run_ranks(pretrain, 2, other)
    for key in ("loss", "gradient_norm", "generator_loss", "discriminator_loss"):
        assert metrics(other, key) == pytest.approx(metrics(one, key), rel=1e-6), key
    # Not one token is drawn differently.
    assert metrics(other, "kept_share") == metrics(one, "kept_share")
    assert 0.7 < min(metrics(one, "kept_share")) < 0.8


@pytest.mark.parametrize("name", ["shared encoder", "disentangled"])
def test_resumed_is_bit_equal_to_uninterrupted(name: str, rows: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "parallel": {"zero_stage": 2},
        "precision": "bf16",
        "checkpoint": {"every_steps": 3},
    }
    whole = make_config(rows, tmp_path / "whole", **settings(name), **more)
    run_ranks(pretrain, 2, whole)
    stopped = make_config(rows, tmp_path / "stopped", **settings(name), **more)
    with mock.patch.object(loop, "pretraining_step", fails_at(5)), pytest.raises(RankError):
        run_ranks(pretrain, 2, stopped)
    run_ranks(pretrain, 2, stopped)
    assert_same_bits(final_state(stopped), final_state(whole))


def fails_at(step: int) -> Callable[..., StepResult]:
    """A step that raises an error when it is called for the `step`-th time."""
    calls = itertools.count(1)

    def take(*arguments: Any) -> StepResult:
        if next(calls) == step:
            raise RuntimeError("a faulty step")
        return pretraining_step(*arguments)

    return take


def test_both_networks_learn(rows: Path, tmp_path: Path) -> None:
    model = {**MODEL, **PRE_LN, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    more = {"optimizer": {"type": "adamw", "lr": 5e-3}, "total_rows": 190 * 16, "model": model}
    config = make_config(rows, tmp_path / "run", **settings("shared encoder", **more))
    run_ranks(pretrain, 1, config)
    generator, accuracy, kept = (
        metrics(config, key) for key in ("generator_loss", "discriminator_accuracy", "kept_share")
    )
    assert sum(generator[-10:]) < 0.8 * sum(generator[:10])
    assert sum(accuracy[-10:]) / 10 > sum(kept[-10:]) / 10 + 0.03


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"embedding_size": 16},
        {"head_layers": False},
        {"num_key_value_heads": 1, "tied_decoder": False},
        {"head_transform": {"type": "prediction"}, "pooler": {"type": "mean"}},
    ],
    ids=str,
)
@in_one_rank
def test_weights_are_counted_as_they_are(kind: dict[str, Any]) -> None:
    grid = make_grid(1)
    for name in GENERATORS:
        config = make_config(Path("rows"), Path("run"), **settings(name, model={**MODEL, **kind}))
        assert isinstance(config.objective, ReplacedTokensConfig)
        generator = generator_of(config.model, config.objective)
        is_narrow = GENERATORS[name].get("width") == 0.5
        assert generator.num_attention_heads == (2 if is_narrow else 4), name
        special = SpecialIds.of(VOCAB_SIZE)
        model = build_pretraining_model(config, config.model, special, grid, seed=1)
        sizes = [parameter.spec.full_shape for parameter in model.parameters()]  # type: ignore[attr-defined]
        count = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in sizes)
        assert count_trained(config, VOCAB_SIZE) == count, name


def test_memory_and_operations_count_both_networks(rows: Path, tmp_path: Path) -> None:
    masked = plan_run(make_config(rows, tmp_path / "run", objective=MASKING), 1)
    model = masked.config.model
    plans = {
        name: plan_run(make_config(rows, tmp_path / "run", **settings(name)), 1)
        for name in ("shared embeddings", "disentangled", "shared encoder")
    }
    flops = [plan.phases[0].training_flops(model, 16, 100) for plan in (masked, *plans.values())]
    assert flops == sorted(flops)
    assert len(set(flops)) == 4
    memory = [estimate_memory(plan).activations for plan in (masked, *plans.values())]
    assert memory == sorted(memory)
    assert generator_of(model, plans["shared encoder"].config.objective) == model  # type: ignore[arg-type]


def test_what_it_does_not_go_with_is_refused_by_name(rows: Path, tmp_path: Path) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(ConfigError) as error:
            plan_run(make_config(rows, tmp_path / "run", **changes), 2)
        return str(error.value)

    name = "shared embeddings"
    frozen = {**MODEL, "frozen": {"type": "lower"}}
    assert "does not go with model.frozen lower" in refused(**settings(name, model=frozen))
    narrow = settings(name, parallel={"tensor": 2})
    narrow["objective"] = {**narrow["objective"], "generator": {"type": "small", "width": 0.25}}
    assert "objective.generator with width 0.25: " in refused(**narrow)
    one_head = {**MODEL, "num_attention_heads": 1}
    message = refused(**settings(name, model=one_head))
    assert "as wide as the model, which has 1 attention head(s)" in message
    assert "model.num_attention_heads to 2 or more" in message
    then = [{"objective": {"type": "mlm"}}]
    assert "then.0.objective: is mlm, but the first phase is replaced_tokens" in refused(
        **settings(name, then=[{"total_rows": 32, **phase} for phase in then])
    )
    special = settings(name)
    special["objective"] = {**special["objective"], "masking": {"type": "published"}}
    assert "masking.special_tokens true does not go with replaced_tokens" in refused(**special)
    vectors = {**MODEL, "embedding_start": {"type": "vectors", "path": "vectors.txt"}}
    assert "does not go with objective.generator.embeddings separate" in refused(
        **settings("separate", model=vectors)
    )
    start = {"type": "hugging_face", "path": str(tmp_path)}
    assert "start.type hugging_face does not go with" in refused(
        **settings("disentangled", start=start)
    )

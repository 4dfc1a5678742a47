"""FreeLB and SMART for all kinds of tasks: equal to a plain loop, on any grid, and resumed."""

import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.load import ConfigError
from model.adversarial import gaussian_noise, row_keys, uniform_noise
from model.multi_task import MultiTaskModel
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.step import StepResult
from pipeline.finetuning import loop
from pipeline.finetuning.adversary import passes_of
from pipeline.finetuning.batches import FinetuneStep, MicroBatch
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.step import finetuning_step
from pipeline.run.config import TrainConfig
from tests.gloo import RankError, run_ranks
from tests.pipeline.finetuning.finetune_run import make_finetune_config, run_finetuning
from tests.pipeline.training_run import assert_same_bits, final_state, metrics

HEADS = ["animal", "length", "tags", "where", "next", "inside", "mlm"]
# Larger than in the papers, so that the perturbations matter.
FREELB = {"type": "freelb", "steps": 2, "step_size": 0.5, "radius": 0.6}
SMART = {"type": "smart", "alpha": 3, "noise": 0.01, "step_size": 0.1}
OPTIONS: dict[str, dict[str, Any]] = {"freelb": FREELB, "smart": SMART}
SEED = 1


def make(pretrained: TrainConfig, folder: Path, kind: str, **changes: Any) -> FinetuneConfig:
    more = {"adversarial": OPTIONS[kind], "steps": 4, **changes}
    return make_finetune_config(pretrained, folder / kind, **more)


@pytest.fixture(scope="module")
def one_rank(
    pretrained: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, FinetuneConfig]:
    """A run of each kind, whose first step is also compared with plain torch."""
    folder = tmp_path_factory.mktemp("one")
    configs = {kind: make(pretrained, folder, kind) for kind in OPTIONS}
    for config in configs.values():
        run_ranks(compared_with_plain_loop, 1, config)
    return configs


def compared_with_plain_loop(config: FinetuneConfig) -> None:
    is_first = itertools.count()

    def step(engine: Engine, batch: FinetuneStep, *arguments: Any) -> StepResult:
        if next(is_first):
            return finetuning_step(engine, batch, *arguments)
        expected = plain_step(engine.module, batch, config)
        result = finetuning_step(engine, batch, *arguments)
        assert result.gradient_norm == pytest.approx(expected.pop("norm"), rel=1e-5)
        assert result.losses == pytest.approx(expected, rel=1e-5)
        assert result.label_counts["tags"] == batch.label_counts["tags"]
        return result

    with mock.patch.object(loop, "finetuning_step", step):
        run_finetuning(config)


def plain_step(model: Any, batch: FinetuneStep, config: FinetuneConfig) -> dict[str, float]:
    """Losses by head and the gradient norm of the first step of `config`, without DeepSpeed."""
    assert isinstance(model, MultiTaskModel)
    model.train()
    take = _plain_freelb if config.adversarial.type == "freelb" else _plain_smart
    losses: dict[str, Tensor] = {}
    parameters = list(model.parameters())
    sums: list[Any] = [None] * len(parameters)
    for micro in batch.micro_batches:
        assert isinstance(micro, MicroBatch)
        total = torch.zeros(())
        for name, (value, weight) in take(model, micro).items():
            mean = value / batch.label_counts[name.removeprefix("adversarial/")]
            total = total + weight * mean
            losses[name] = losses.get(name, torch.zeros(())) + mean.detach()
        # Not `backward`, after which the engine's hooks take the gradients.
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for number, gradient in enumerate(gradients):
            if gradient is not None:
                before = 0 if sums[number] is None else sums[number]
                sums[number] = before + gradient
    norm = torch.stack([total.norm() for total in sums if total is not None]).norm()
    return {name: float(loss) for name, loss in losses.items()} | {"norm": float(norm)}


def _plain_freelb(model: MultiTaskModel, micro: MicroBatch) -> dict[str, tuple[Tensor, float]]:
    rows, width = micro.tokens.shape
    keys = row_keys(SEED, (micro.first_row + torch.arange(rows)).numpy())
    is_text = (micro.tokens != 1)[..., None]
    size = (is_text.sum(dim=(1, 2), keepdim=True) * 32).sqrt()
    noise = uniform_noise(keys, micro.tokens, 32, model.grid).view(rows, width, 32)
    perturbation = noise * is_text * 0.6 / size
    total: dict[str, Tensor] = {}
    for _ in range(2):
        perturbation = perturbation.detach().requires_grad_()
        # The backward pass of the cross entropy works once.
        again, results = (
            micro.forward(model, torch.device("cpu"), perturbation.view(-1, 32)) for _ in range(2)
        )
        loss = torch.stack([value for value, _, _ in again.values()]).sum()
        (gradient,) = torch.autograd.grad(loss, perturbation)
        total = {name: total.get(name, 0) + value / 2 for name, (value, _, _) in results.items()}
        direction = gradient * is_text
        direction = direction / direction.norm(dim=(1, 2), keepdim=True)
        perturbation = perturbation + 0.5 * direction
        perturbation = perturbation * (
            0.6 / perturbation.norm(dim=(1, 2), keepdim=True).clamp(min=0.6)
        )
    return {name: (value, 1.0) for name, value in total.items()}


def _plain_smart(model: MultiTaskModel, micro: MicroBatch) -> dict[str, tuple[Tensor, float]]:
    rows, _ = micro.tokens.shape
    keys = row_keys(SEED, (micro.first_row + torch.arange(rows)).numpy())
    is_text = (micro.tokens != 1).view(-1, 1)

    def scores(perturbation: Tensor | None) -> dict[str, Tensor]:
        hidden = model.encoder(
            micro.tokens, micro.dropout_key, micro.segments, perturbation=perturbation
        )
        found = model._scores(hidden, micro.tokens, HEADS[:-1], micro.dropout_key)
        assert micro.masked is not None
        logits = model._slot_logits(hidden, micro.masked[0])[:, : model.vocab_size]
        return {**found, "mlm": logits}

    def divergences(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
        assert micro.masked is not None
        used = micro.targets["length"].view(-1).isfinite()
        found = {"length": ((one["length"][:, 0] - other["length"][:, 0])[used] ** 2).sum()}
        for name, labels in {**micro.targets, "mlm": micro.masked[1]}.items():
            if name == "length":
                continue
            if name == "inside":  # each label is a Bernoulli distribution of its own
                scores_of_all = (one[name][..., None], other[name][..., None])
                p, q = (torch.cat([x, torch.zeros_like(x)], -1) for x in scores_of_all)
                p, q = p.log_softmax(-1)[labels.isfinite()], q.log_softmax(-1)[labels.isfinite()]
                value = F.kl_div(p, q, reduction="sum", log_target=True)
                found[name] = value + F.kl_div(q, p, reduction="sum", log_target=True)
                continue
            first, second = one[name], other[name]
            if name == "where":
                first, second = first.transpose(1, 2), second.transpose(1, 2)
            if name == "next":
                first, second = first.view(-1, 2), second.view(-1, 2)
                first, second = first[: len(labels)], second[: len(labels)]
            chosen = labels.flatten() >= 0
            first = first.reshape(-1, first.shape[-1])[chosen].log_softmax(dim=1)
            second = second.reshape(-1, second.shape[-1])[chosen].log_softmax(dim=1)
            value = F.kl_div(first, second, reduction="sum", log_target=True)
            value = value + F.kl_div(second, first, reduction="sum", log_target=True)
            found[name] = value / 2 if name == "where" else value
        return found

    clean = scores(None)
    fixed = {name: value.detach() for name, value in clean.items()}
    perturbation = 0.01 * gaussian_noise(keys, micro.tokens, 32, model.grid) * is_text
    perturbation.requires_grad_()
    found = torch.stack(list(divergences(scores(perturbation), fixed).values())).sum()
    (gradient,) = torch.autograd.grad(found, perturbation)
    largest = gradient.abs().max(dim=1, keepdim=True).values.clamp(min=1e-30)
    perturbation = ((perturbation + 0.1 * gradient / largest) * is_text).detach()
    found_last = divergences(scores(perturbation), clean)
    results = micro.forward(model, torch.device("cpu"))
    return {
        **{name: (value, 1.0) for name, (value, _, _) in results.items()},
        **{f"adversarial/{name}": (value, 3.0) for name, value in found_last.items()},
    }


@pytest.mark.parametrize(
    ("kind", "parallel"),
    [
        ("freelb", {"tensor": 2, "zero_stage": 2}),
        ("smart", {"zero_stage": 3}),
        pytest.param("freelb", {"zero_stage": 3}, marks=pytest.mark.slow),
        pytest.param("smart", {"tensor": 2, "zero_stage": 2}, marks=pytest.mark.slow),
        pytest.param("freelb", {"zero_stage": 1}, marks=pytest.mark.slow),
        pytest.param("smart", {"zero_stage": 1}, marks=pytest.mark.slow),
    ],
)
def test_every_grid_trains_alike(
    kind: str,
    parallel: dict[str, Any],
    one_rank: dict[str, FinetuneConfig],
    pretrained: TrainConfig,
    tmp_path: Path,
) -> None:
    compute: dict[str, Any] = {"activation_checkpointing": {"type": "layers"}}
    compute["sequence_parallel"] = "tensor" in parallel
    config = make(pretrained, tmp_path, kind, parallel=parallel, compute=compute)
    run_ranks(run_finetuning, 2, config)
    names = ["loss", "gradient_norm", *(f"loss/{head}" for head in HEADS)]
    if kind == "smart":
        names += [f"adversarial_loss/{head}" for head in HEADS]
    for name in names:
        assert metrics(config, name) == pytest.approx(metrics(one_rank[kind], name), rel=2e-5), name


@pytest.mark.parametrize("kind", OPTIONS)
def test_resumed_is_bit_equal_to_uninterrupted(
    kind: str, one_rank: dict[str, FinetuneConfig], pretrained: TrainConfig, tmp_path: Path
) -> None:
    config = make(pretrained, tmp_path, kind, checkpoint={"every_steps": 2})
    calls = itertools.count(1)

    def step(*arguments: Any) -> StepResult:
        if next(calls) == 4:
            raise RuntimeError("a faulty step")
        return finetuning_step(*arguments)

    with mock.patch.object(loop, "finetuning_step", step), pytest.raises(RankError):
        run_ranks(run_finetuning, 1, config)
    run_ranks(run_finetuning, 1, config)
    assert_same_bits(final_state(config), final_state(one_rank[kind]))


def test_options_are_checked_and_counted(pretrained: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision fp16 does not go with adversarial smart"):
        make(pretrained, tmp_path, "smart", precision="fp16")
    config = make(pretrained, tmp_path, "freelb", precision="fp16")
    assert passes_of(config.adversarial) == 2
    with pytest.raises(ConfigError, match="adversarial"):
        make(pretrained, tmp_path, "freelb", adversarial={"type": "alum"})

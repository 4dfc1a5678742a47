"""Training on one GPU: the numbers of the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.counter_dropout import counter_dropout
from model.dropout import Site, dropout, mask_seed, seed_tensor
from pipeline.run.config import TrainConfig
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)
from tests.pipeline.gpu.gpu_runs import NEEDS_GPU, NO_DROPOUT, WINDOW, assert_agree, run_on
from tests.pipeline.training_run import make_rows, metrics

pytestmark = NEEDS_GPU


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_and_norms_are_those_of_the_cpu(
    rows: Path, on_cpu: TrainConfig, tmp_path: Path, precision: str, zero_stage: int
) -> None:
    expected = on_cpu
    if precision == "bf16":
        expected = run_on("cpu", rows, tmp_path / "cpu", NO_DROPOUT, precision=precision)
    parallel = {"zero_stage": zero_stage}
    actual = run_on(
        "cuda", rows, tmp_path / "cuda", NO_DROPOUT, precision=precision, parallel=parallel
    )
    assert_agree(actual, expected, precision)


@pytest.mark.parametrize("backend", ["explicit", "sdpa", "flex"])
@pytest.mark.parametrize("pattern", ["full", "window"])
def test_every_attention_backend_trains_like_the_cpu(
    rows: Path, tmp_path: Path, pattern: str, backend: str
) -> None:
    model = {**NO_DROPOUT, **(WINDOW if pattern == "window" else {})}
    expected = run_on("cpu", rows, tmp_path / "cpu", model)
    actual = run_on("cuda", rows, tmp_path / "cuda", model, compute={"attention_backend": backend})
    assert_agree(actual, expected)


@pytest.mark.parametrize("pattern", ["full", "window"])
def test_sequences_of_flash_attention_train_like_explicit_attention(
    tmp_path: Path, pattern: str
) -> None:
    rows = tmp_path / "rows"
    make_rows(rows, row_tokens=128, piece_tokens=50)
    inside = {"packed_rows": {"type": "inside"}, "positions": {"type": "rotary"}}
    model = {**NO_DROPOUT, **inside, **(WINDOW if pattern == "window" else {})}
    expected, actual = (
        run_on(
            *("cuda", rows, tmp_path / backend, model),
            precision="bf16",
            compute={"attention_backend": backend},
        )
        for backend in ("explicit", "varlen")
    )
    assert_agree(actual, expected, "bf16")


def test_compiled_layers_train_like_eager_ones_with_dropout(rows: Path, tmp_path: Path) -> None:
    model = {"attention_dropout": 0.0}  # flash attention draws by itself; the rest by counters
    expected = run_on("cuda", rows, tmp_path / "eager", model, compute={"compile": "off"})
    actual = run_on("cuda", rows, tmp_path / "compiled", model, compute={"compile": "on"})
    assert_agree(actual, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "fp16", "loss_scale": {"initial": 2.0**10}},
        {"parallel": {"zero_stage": 2, "offload_optimizer": True}},
    ],
    ids=str,
)
def test_fp16_and_an_optimizer_in_host_memory_train_like_fp32(
    rows: Path, on_cpu: TrainConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    actual = run_on("cuda", rows, tmp_path / "cuda", NO_DROPOUT, **settings)
    assert sum(metrics(actual, "skipped")) == 0
    assert_agree(actual, on_cpu, "bf16" if "precision" in settings else "fp32")


def test_dropout_on_the_gpu_is_keyed_and_has_its_rate() -> None:
    run_ranks(check_dropout, 1, device="cuda")


def check_dropout() -> None:
    device = torch.device("cuda", 0)
    before = torch.cuda.get_rng_state()
    x = torch.ones((1000, 1000), device=device, requires_grad=True)
    first, other = (dropout(x, 0.1, mask_seed(key, 0, Site.HEAD)) for key in (5, 6))
    share = float((first != 0).double().mean())
    assert abs(share - 0.9) < 5 * (0.09 / x.numel()) ** 0.5
    on_cpu = seed_tensor([mask_seed(5, 0, Site.HEAD)], torch.device("cpu"))
    same = counter_dropout(torch.ones(1, 1000, 1000), 0.1, on_cpu, 1 / 0.9)[0]
    assert torch.equal(first.detach().cpu(), same)
    both = float(((first != 0) & (other != 0)).double().mean())
    assert abs(both - 0.81) < 0.002  # independent: 0.9 x 0.9, give or take 5 deviations
    assert torch.equal(first, dropout(x, 0.1, mask_seed(5, 0, Site.HEAD)))
    torch.testing.assert_close(first[first != 0].mean(), torch.tensor(1 / 0.9, device=device))
    first.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, first)
    for index in range(2):  # under sequence parallelism: a part of the mask of any grid
        part = x[index * 500 : (index + 1) * 500].detach().requires_grad_()
        alone = dropout(part, 0.1, mask_seed(5, 0, Site.HEAD), (index, 2))
        assert torch.equal(alone, first[index * 500 : (index + 1) * 500])
        alone.sum().backward()  # type: ignore[no-untyped-call]
        assert part.grad is not None
        assert torch.equal(part.grad, alone)
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_five_tasks_fine_tune_like_on_the_cpu(tmp_path: Path) -> None:
    pretrained = make_pretrained(tmp_path)
    runs = {}
    for device in ("cpu", "cuda"):
        runs[device] = make_finetune_config(pretrained, tmp_path / device / "run", model=NO_DROPOUT)
        run_ranks(run_finetuning, 1, runs[device], device=device)
    for name in ("loss", "gradient_norm"):
        actual, expected = (metrics(runs[device], name) for device in ("cuda", "cpu"))
        assert actual == pytest.approx(expected, rel=1e-4), name

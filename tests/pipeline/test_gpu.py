"""Training on one GPU: the CPU's numbers, bit-equal resume, and the planned memory.

Every rank is forked, so that this process never starts CUDA: see `pipeline.launch.local_ranks`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from data_prep.tokenization.train import train_tokenizer
from model.counter_dropout import counter_dropout
from model.dropout import Site, dropout, mask_seed, seed_tensor
from pipeline.checkpoint.manifest import Checkpoint, checkpoint_folder, find_checkpoint
from pipeline.export import export_run
from pipeline.hugging_face.folder import PARITY_NAME
from pipeline.launch.environment import free_port
from pipeline.run.config import TrainConfig
from pipeline.run.memory import OVERHEAD_GB, estimate_memory
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import DONE_NAME, checkpoints_folder, is_done
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    SENTENCE,
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROOT = Path(__file__).parents[2]
MAX_ROW_TOKENS = 512
# Masks of dropout are drawn by the device: without them it computes what the CPU does.
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
SIZES = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_row_tokens": MAX_ROW_TOKENS,
}
WINDOW = {"attention_pattern": {"type": "window", "neighbours": 40}}
WINDOW_WITHOUT_DROPOUT = {**WINDOW, "attention_dropout": 0.0}
# Relative. fp32 rounds at 6e-8 and bf16 at 2e-3, of which means over hundreds of masked tokens keep
# little. On an H200 the largest differences over 20 steps were 1e-7 of losses and norms in fp32; in
# bf16 7e-5 of losses and 2e-3 of norms.
TOLERANCES = {
    "fp32": {"loss": 2e-6, "gradient_norm": 2e-6, "heldout_loss": 2e-6},
    "bf16": {"loss": 5e-4, "gradient_norm": 1e-2, "heldout_loss": 5e-4},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, row_tokens=128)
    return folder


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of several blocks of attention's kernels, whose sums could come in any order."""
    folder = tmp_path_factory.mktemp("long-rows")
    make_rows(folder, row_tokens=MAX_ROW_TOKENS)
    return folder


def run_on(
    device: Literal["cpu", "cuda"],
    rows: Path,
    folder: Path,
    model: dict[str, Any] | None = None,
    **settings: Any,
) -> TrainConfig:
    """A finished run on `device`, in `folder`."""
    config = make_config(rows, folder, model={**SIZES, **(model or {})}, **settings)
    run_ranks(pretrain, 1, config, device=device)
    assert is_done(config)
    assert used_gpu(config) == (device == "cuda")
    return config


def used_gpu(config: TrainConfig) -> bool:
    """Whether a step of the run recorded memory on a GPU."""
    events = [event for event, _ in read_events(config.output / LOG_NAME)]
    return any("device_memory_gb" in event.get("values", {}) for event in events)


def assert_agree(actual: TrainConfig, expected: TrainConfig, precision: str = "fp32") -> None:
    """Losses, gradient norms and the last held-out loss of two runs."""
    for name, tolerance in TOLERANCES[precision].items():
        if name == "heldout_loss":
            first, second = last_heldout_loss(expected), last_heldout_loss(actual)
        else:
            first, second = metrics(expected, name), metrics(actual, name)
        assert second == pytest.approx(first, rel=tolerance), name
        print(name, "differs by", max_difference(first, second))


def max_difference(first: list[float], second: list[float]) -> float:
    """The largest relative difference of two lists of numbers."""
    return max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))


def newest(config: TrainConfig) -> Checkpoint:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint


def last_heldout_loss(config: TrainConfig) -> list[float]:
    loss = newest(config).manifest.heldout_loss
    assert loss is not None
    return [loss]


def forget_after(config: TrainConfig, folder: Path, step: int) -> TrainConfig:
    """A copy of a run in `folder`, as if it had been killed right after saving `step`."""
    shutil.copytree(config.output, folder)
    (folder / DONE_NAME).unlink()
    copy = config.model_copy(update={"output": folder})
    shutil.rmtree(checkpoint_folder(checkpoints_folder(copy), newest(config).manifest.step))
    assert newest(copy).manifest.step == step
    return copy


@pytest.fixture(scope="module")
def on_cpu(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The CPU's run without dropout in fp32, saved half-way too."""
    folder = tmp_path_factory.mktemp("cpu")
    return run_on("cpu", rows, folder / "run", NO_DROPOUT, checkpoint={"every_steps": 10})


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


def test_compiled_layers_train_like_eager_ones_with_dropout(rows: Path, tmp_path: Path) -> None:
    model = {"attention_dropout": 0.0}  # flash attention draws by itself; the rest by counters
    expected = run_on("cuda", rows, tmp_path / "eager", model, compute={"compile": "off"})
    actual = run_on("cuda", rows, tmp_path / "compiled", model, compute={"compile": "on"})
    assert_agree(actual, expected)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ({}, {"precision": "bf16", "parallel": {"zero_stage": 1}}),
        ({}, {"precision": "bf16", "parallel": {"zero_stage": 2}}),
        ({}, {"precision": "bf16", "parallel": {"zero_stage": 3}}),
        ({}, {"precision": "fp32"}),
        ({}, {"precision": "bf16", "compute": {"compile": "off"}}),
        ({}, {"precision": "bf16", "compute": {"attention_backend": "explicit"}}),
        (WINDOW, {"precision": "bf16"}),
        (
            WINDOW_WITHOUT_DROPOUT,
            {"precision": "bf16", "compute": {"attention_backend": "flex"}},
        ),
        ({}, {"precision": "bf16", "compute": {"activation_checkpointing": {"type": "layers"}}}),
        ({}, {"precision": "bf16", "optimizer": {"type": "lamb", "lr": 1e-2}}),
        ({}, {"precision": "fp16", "loss_scale": {"initial": 2.0**24, "window_steps": 4}}),
        (
            {},
            {"precision": "bf16", "parallel": {"zero_stage": 2, "offload_optimizer": True}},
        ),
    ],
    ids=str,
)
def test_a_resumed_run_is_equal_to_the_last_bit(
    long_rows: Path, tmp_path: Path, model: dict[str, Any], settings: dict[str, Any]
) -> None:
    whole = run_on(
        "cuda", long_rows, tmp_path / "whole", model, checkpoint={"every_steps": 10}, **settings
    )
    resumed = forget_after(whole, tmp_path / "resumed", step=10)
    run_ranks(pretrain, 1, resumed, device="cuda")
    assert metrics(resumed, "loss") == metrics(whole, "loss")
    assert_same_bits(final_state(resumed), final_state(whole))
    if settings["precision"] == "fp16":
        assert metrics(whole, "skipped")[0] == 1.0  # 2^24 is more than fp16 can hold
        assert 0 < sum(metrics(whole, "skipped")) < 10


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


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_resumes_on_the_other_device(
    rows: Path,
    on_cpu: TrainConfig,
    tmp_path: Path,
    first: Literal["cpu", "cuda"],
    second: Literal["cpu", "cuda"],
) -> None:
    started = on_cpu
    if first == "cuda":
        settings = {"checkpoint": {"every_steps": 10}, "parallel": {"zero_stage": 3}}
        started = run_on("cuda", rows, tmp_path / "cuda", NO_DROPOUT, **settings)
    moved = forget_after(started, tmp_path / "moved", step=10)
    run_ranks(pretrain, 1, moved, device=second)
    assert_agree(moved, on_cpu)


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


@pytest.mark.parametrize(
    ("compute", "zero_stage"),
    [
        ({}, 1),
        ({}, 2),
        ({}, 3),
        ({"attention_backend": "explicit"}, 1),
        ({"activation_checkpointing": {"type": "layers"}}, 1),
    ],
    ids=str,
)
def test_memory_is_what_the_plan_says(
    tmp_path: Path, compute: dict[str, Any], zero_stage: int
) -> None:
    make_rows(tmp_path / "rows", rows=64, row_tokens=MAX_ROW_TOKENS, vocab_size=50_265)
    sizes = {"num_layers": 6, "hidden_size": 768, "num_attention_heads": 12}
    config = run_on(
        "cuda",
        tmp_path / "rows",
        tmp_path / "run",
        sizes,
        compute=compute,
        precision="bf16",
        total_rows=3 * 32,
        batch={"global_rows": 32, "micro_rows": 16},
        schedule={"type": "linear", "warmup_rows": 32},
        parallel={"zero_stage": zero_stage},
    )
    estimate = estimate_memory(plan_run(config, 1))
    measured_gb = metrics(config, "device_memory_gb")[-1]
    print(f"measured {measured_gb:.2f} GB, planned {estimate.total_gb - OVERHEAD_GB:.2f}")
    # What torch's allocator does not see (the CUDA context, NCCL) is the estimate's overhead. On an
    # H200 the rest was 4 % too low with explicit attention, else 7 to 13 % too high.
    assert measured_gb == pytest.approx(estimate.total_gb - OVERHEAD_GB, rel=0.15)


def test_five_tasks_fine_tune_like_on_the_cpu(tmp_path: Path) -> None:
    pretrained = make_pretrained(tmp_path)
    runs = {}
    for device in ("cpu", "cuda"):
        runs[device] = make_finetune_config(pretrained, tmp_path / device / "run", model=NO_DROPOUT)
        run_ranks(run_finetuning, 1, runs[device], device=device)
    for name in ("loss", "gradient_norm"):
        actual, expected = (metrics(runs[device], name) for device in ("cuda", "cpu"))
        assert actual == pytest.approx(expected, rel=1e-4), name


def test_the_commands_train_export_and_replay_on_the_gpu(tmp_path: Path) -> None:
    """Under DeepSpeed's launcher, which meets in NCCL by itself; the export also on the CPU."""
    tokenizer = train_tokenizer([SENTENCE] * 60, 270)
    make_rows(tmp_path / "rows", tokenizer=tokenizer, row_tokens=64)
    model = {**SIZES, **NO_DROPOUT}
    settings: dict[str, Any] = {"precision": "bf16", "checkpoint": {"every_steps": 10}}
    config = make_config(tmp_path / "rows", tmp_path / "run", workers=1, model=model, **settings)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    launcher = ["deepspeed.launcher.runner", "--num_gpus", "1", "--master_port", str(free_port())]
    command("-m", *launcher, "pipeline/train.py", str(path))
    assert is_done(config)
    assert used_gpu(config)
    command("-m", "pipeline.export", str(path))
    parity = json.loads((config.output / "hf" / PARITY_NAME).read_text())
    assert parity["largest_logit_difference"] < 1e-5
    on_cpu = tmp_path / "hf-on-cpu"
    (differences,) = run_ranks(export_run, 1, config, newest(config), on_cpu)
    difference = differences[on_cpu]
    assert difference < 1e-5
    shown = command("-m", "pipeline.replay", str(path), "--step", "20")
    losses = [
        float(line.split("loss ")[1].split()[0]) for line in shown.splitlines() if "loss " in line
    ]
    # Of rows by themselves, in fp32, with the weights of step 10: near the loss of the step.
    assert len(losses) == 16
    assert sum(losses) / 16 == pytest.approx(metrics(config, "loss")[19], rel=0.1)


def command(*arguments: str) -> str:
    """The output of a Python command in the repository, which has to succeed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

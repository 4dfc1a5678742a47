"""Training throughput on one GPU: our system and Hugging Face's model, side by side.

    python -m benchmarks.gpu_speed [--steps 12] [--rounds 2] [--compile] [--only sdpa]

RoBERTa base (12 layers, hidden size 768, vocabulary 50,265), synthetic rows of 512 tokens in
micro-batches of 32, gradient accumulation over 4, bf16, dropout 0.1. The baseline is
`RobertaForMaskedLM` with torch's scaled_dot_product_attention in a plain loop: bf16 autocast,
torch's fused AdamW. Ours is what `pipeline/train.py` does in a step: rows from the loader, model
under DeepSpeed ZeRO, metrics. All train on the same masked rows. `--rounds` measures every
contestant that many times, alternately; each measurement is the median of its steps.

Utilization (MFU) counts the matrix products that the model needs, with the head on masked tokens
only, equally for all contestants. It is relative to the rate that the GPU reaches in a large
product of random bf16 matrices.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.loader_speed import write_rows
from configs import command
from configs.load import load
from model.parallel.grid import make_grid
from pipeline.data.loader import StepBatch
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.start import start_distributed
from pipeline.engine.stragglers import measure_peak_flops
from pipeline.engine.throughput import StepMeter
from pipeline.launch.environment import Launch
from pipeline.launch.local_ranks import run_ranks
from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.engine import build_engine
from pipeline.pretraining.resume import plan_segments
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from pipeline.run.memory import estimate_memory
from pipeline.run.plan import RunPlan, plan_run

ROOT = Path(__file__).parent.parent
GLOBAL_ROWS, MICRO_ROWS = 128, 32
LEARNING_RATE = 1e-4
WARMUP_STEPS = 3
RANK_TIMEOUT_S = 600.0
NO_ATTENTION_DROPOUT = {"model.attention_dropout": 0.0}
GRAPHS = {"compute.cuda_graphs": "on"}
WINDOW = {"model.attention_pattern": {"type": "window", "neighbours": 64}, **NO_ATTENTION_DROPOUT}
PIECES = {"model.packed_rows": {"type": "inside"}, **NO_ATTENTION_DROPOUT}
OURS: dict[str, dict[str, Any]] = {
    "sdpa": {},
    "sdpa, layers not compiled": {"compute.compile": "off"},
    "sdpa, CUDA graphs": GRAPHS,
    "sdpa, CUDA graphs, layers not compiled": {"compute.compile": "off", **GRAPHS},
    "sdpa, any order of sums": {"compute.deterministic": False},
    "explicit": {"compute.attention_backend": "explicit"},
    "sdpa, no attention dropout": NO_ATTENTION_DROPOUT,
    "sdpa, no attention dropout, CUDA graphs": {**NO_ATTENTION_DROPOUT, **GRAPHS},
    "flex, no attention dropout": {"compute.attention_backend": "flex", **NO_ATTENTION_DROPOUT},
    "sdpa, window of 64": {"compute.attention_backend": "sdpa", **WINDOW},
    "flex, window of 64": {"compute.attention_backend": "flex", **WINDOW},
    "varlen, no attention dropout": {"compute.attention_backend": "varlen", **NO_ATTENTION_DROPOUT},
    "varlen, window of 64": {"compute.attention_backend": "varlen", **WINDOW},
    "sdpa, pieces": {"compute.attention_backend": "sdpa", **PIECES},
    "flex, pieces": {"compute.attention_backend": "flex", **PIECES},
    "varlen, pieces": {"compute.attention_backend": "varlen", **PIECES},
}
"""What is changed of configs/base.yaml."""


@dataclass(frozen=True)
class Measurement:
    """What one contestant reached in its timed steps."""

    tokens_per_s: float
    """Of the median step."""
    utilization: float
    """Operations that the model needs over those that the GPU can do (MFU), in the median step."""
    memory_gb: float
    """Peak memory of its tensors, 1e9 bytes."""
    loss: float
    """Of the last step, nats per masked token."""
    planned_gb: float | None = None
    """The peak that `pipeline.run.memory` estimates."""
    kernels: str = ""
    """The kernels that take the most time, with --profile."""


def make_config(folder: Path, steps: int, changes: dict[str, Any]) -> TrainConfig:
    """configs/base.yaml on the synthetic rows in `folder`, with `changes`."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    overrides += [
        f"output={folder / 'run'}",
        f"data.path={folder / 'rows'}",
        f"total_rows={steps * GLOBAL_ROWS}",
        f"batch={json.dumps({'global_rows': GLOBAL_ROWS, 'micro_rows': MICRO_ROWS})}",
        "schedule.warmup_rows=0",
    ]
    return load(ROOT / "configs" / "base.yaml", TrainConfig, overrides)


def train_ours(config: TrainConfig, with_profile: bool) -> Measurement:
    """The run of `config` without its event log, evaluations and checkpoints."""
    plan = plan_run(config, 1)
    start_distributed(Launch(0, 0, 1, 1))
    grid = make_grid(1)
    meter = StepMeter(grid.device, config.precision)
    torch.cuda.reset_peak_memory_stats()
    engine = build_engine(plan, grid, None)
    values: list[dict[str, float]] = []
    with batches_of(plan) as batches:
        meter.start_step()
        for batch in batches:
            meter.data_arrived()
            result = pretraining_step(engine, batch, LEARNING_RATE, data_wait_s=meter.data_wait_s)
            flops = plan.phases[0].training_flops(
                config.model, GLOBAL_ROWS, result.label_counts["mlm"]
            )
            values.append(meter.step_finished(result, GLOBAL_ROWS, GLOBAL_ROWS * 512, flops))
            if len(values) == plan.steps.total_steps - 1:
                memory_gb = torch.cuda.max_memory_allocated() / 1e9
                break
        kernels = profile(engine, next(batches)) if with_profile else ""
    timed = values[WARMUP_STEPS:]
    return Measurement(
        statistics.median(v["tokens_per_s"] for v in timed),
        statistics.median(v["model_flops_utilization"] for v in timed),
        memory_gb,
        result.loss,
        planned_gb=estimate_memory(plan).total_gb,
        kernels=kernels,
    )


def train_hugging_face(config: TrainConfig, compiled: bool) -> Measurement:
    """Hugging Face's model on the batches of `config`, in a plain loop."""
    import transformers

    plan = plan_run(config, 1)
    ours = config.model
    device = torch.device("cuda", 0)
    peak_flops = measure_peak_flops(device, torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    settings = transformers.RobertaConfig(
        vocab_size=plan.vocab_size,
        hidden_size=ours.hidden_size,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_attention_heads,
        intermediate_size=ours.ffn_hidden_size,
        max_position_embeddings=ours.max_row_tokens + 2,
        type_vocab_size=1,
        attn_implementation="sdpa",
    )
    model: Any = transformers.RobertaForMaskedLM(settings).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    called = torch.compile(model) if compiled else model
    seconds: list[float] = []
    utilization: list[float] = []
    with batches_of(plan) as batches:
        started = time.perf_counter()
        for batch in batches:
            loss = take_step(called, optimizer, batch, device)
            now = time.perf_counter()
            masked = int((batch.labels >= 0).sum())
            flops = plan.phases[0].training_flops(ours, GLOBAL_ROWS, masked)
            seconds.append(now - started)
            utilization.append(flops / seconds[-1] / peak_flops)
            started = time.perf_counter()
    return Measurement(
        GLOBAL_ROWS * 512 / statistics.median(seconds[WARMUP_STEPS:]),
        statistics.median(utilization[WARMUP_STEPS:]),
        torch.cuda.max_memory_allocated() / 1e9,
        loss,
    )


def take_step(model: Any, optimizer: Any, batch: StepBatch, device: torch.device) -> float:
    """The loss of one optimizer step, once the GPU has finished it."""
    total = torch.zeros((), device=device)
    for micro in range(len(batch.dropout_keys)):
        tokens, positions, labels = (
            tensor[micro].to(device).long()
            for tensor in (batch.tokens, batch.positions, batch.labels)
        )
        spread = torch.full_like(tokens, -100).scatter(1, positions, labels)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=tokens, labels=spread).loss / len(batch.dropout_keys)
        loss.backward()
        total += loss.detach()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total)


@contextmanager
def batches_of(plan: RunPlan) -> Iterator[Iterator[StepBatch]]:
    """The batches of the run."""
    with closing(run_batches(plan, plan_segments(plan, None), (), 0, 0)) as batches:
        yield batches


def profile(engine: Engine, batch: StepBatch) -> str:
    """The kernels that take the most time of one optimizer step, one per line."""
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        pretraining_step(engine, batch, LEARNING_RATE)
        torch.cuda.synchronize()
    averages = [e for e in profiler.key_averages() if e.self_device_time_total]
    total = sum(event.self_device_time_total for event in averages)
    top = sorted(averages, key=lambda event: -event.self_device_time_total)[:24]
    lines = [f"  {e.self_device_time_total / total:6.1%} {e.count:6} x  {e.key[:100]}" for e in top]
    return "\n".join([f"  kernels {total / 1e3:.0f} ms", *lines])


def main() -> None:
    """Prints a line for every contestant."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="timed optimizer steps")
    parser.add_argument("--rounds", type=int, default=1, help="measurements per contestant")
    parser.add_argument("--compile", action="store_true", help="also Hugging Face's, compiled")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure only these of ours")
    parser.add_argument("--profile", action="store_true", help="print our slowest kernels too")
    parser.add_argument("--output", type=Path, help="write the measurements to this JSON file")
    arguments = parser.parse_args()
    measurements: dict[str, list[Measurement]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = WARMUP_STEPS + arguments.steps + 1
        write_rows(folder / "rows", steps * GLOBAL_ROWS)
        base = make_config(folder, steps, {})
        contestants: dict[str, Callable[[], Measurement]] = {
            "Hugging Face": partial(train_hugging_face, base, False)
        }
        if arguments.compile:
            contestants["Hugging Face, compiled"] = partial(train_hugging_face, base, True)
        for title in arguments.only or OURS:
            changes = OURS[title]
            config = make_config(folder, steps, changes)
            contestants[f"ours, {title}"] = partial(train_ours, config, arguments.profile)
        for _ in range(arguments.rounds):
            for title, train in contestants.items():
                (one,) = run_ranks(train, 1, timeout_s=RANK_TIMEOUT_S, device="cuda")
                measurements.setdefault(title, []).append(one)
                print(f"{title:34} {line_of(one, measurements['Hugging Face'][-1])}", flush=True)
                if one.kernels:
                    print(one.kernels, flush=True)
                if arguments.output:
                    tree = {key: [asdict(m) for m in value] for key, value in measurements.items()}
                    arguments.output.write_text(json.dumps(tree, indent=1) + "\n")


def line_of(one: Measurement, baseline: Measurement) -> str:
    """A measurement in one line."""
    planned = "" if one.planned_gb is None else f" (planned {one.planned_gb:.1f})"
    return (
        f"{one.tokens_per_s:9,.0f} tokens/s ({one.tokens_per_s / baseline.tokens_per_s:.2f} x)  "
        f"{one.utilization:5.1%} of peak  {one.memory_gb:5.1f} GB{planned}  loss {one.loss:.3f}"
    )


if __name__ == "__main__":
    command.run(main)

"""Training throughput on the CPU: our model and Hugging Face's, side by side in one run.

    python -m benchmarks.model_speed [--steps 2] [--accumulation 4] [--profile]

A small RoBERTa (4 layers, hidden size 512, vocabulary 50,265), rows of 512 tokens, bf16. The
baseline is `RobertaForMaskedLM` under transformers' `Trainer` (bf16 autocast, its defaults); ours
is pretraining as configs/base.yaml has it (ZeRO 1), on one rank with all threads, the same with
compiled layers, and on two tensor-parallel ranks.
All train on the same masked rows in the same batches. The first optimizer step of each is not
timed. The Trainer needs `accelerate`, which the project itself does not. On a machine that is busy
with other work, compare the throughput per CPU second.

The peak is what a large product of bf16 matrices reaches in a CPU second of the same process. A
share of it is the operations of the matrix products that training needs (`model.flops`: what
follows the last attention and the head on masked tokens only, for all contestants) over those that
the peak allows in the time.
"""

import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from configs import command
from configs.load import load
from model.config import ModelConfig
from model.flops import training_flops
from model.heads import build_masked_lm
from model.objectives import MaskedLanguageModelConfig, MaskedRows, RowsToMask
from model.parallel.grid import make_grid
from pipeline.data.position import StepRange
from pipeline.data.step_batch import StepBatch
from pipeline.engine.deepspeed_engine import Engine
from pipeline.engine.start import start_distributed
from pipeline.engine.stragglers import measure_peak_flops
from pipeline.launch.environment import Launch
from pipeline.launch.local_ranks import run_ranks
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig

ROOT = Path(__file__).parent.parent
VOCAB_SIZE = 50_265
ROW_TOKENS = 512
MICRO_ROWS = 8
MODEL = {"num_layers": 4, "hidden_size": 512, "num_attention_heads": 8}
LEARNING_RATE = 1e-4
RANK_TIMEOUT_S = 1800.0
BASELINE = "Hugging Face Trainer"


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock, and CPU seconds of all threads of the process."""

    wall_s: float
    cpu_s: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)


def now() -> Cost:
    """The two clocks."""
    return Cost(time.perf_counter(), time.process_time())


@dataclass(frozen=True)
class Measurement:
    """What a process measured."""

    cost: Cost
    bf16_peak: float
    """Operations in a CPU second of a large product of bf16 matrices."""
    fp32_peak: float
    """The same of fp32 matrices."""
    memory_gb: float
    """The largest memory of the process, 1e9 bytes."""


def measure_peaks() -> tuple[float, float]:
    """The peaks of a `Measurement`, with the threads of this process."""
    bf16, fp32 = (
        measure_peak_flops(torch.device("cpu"), dtype) for dtype in (torch.bfloat16, torch.float32)
    )
    return bf16, fp32


def peak_memory_gb() -> float:
    """Of this process, 1e9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def masked_rows(num_rows: int) -> MaskedRows:
    """The rows that all contestants train on."""
    rows = np.random.default_rng(0).integers(4, VOCAB_SIZE - 1, (num_rows, ROW_TOKENS))
    rows[:, 0], rows[:, -1] = 0, 2
    numbers = np.arange(num_rows)
    objective = MaskedLanguageModelConfig().build(VOCAB_SIZE)
    return objective.mask_rows(
        RowsToMask(rows.astype(np.uint16), seed=0, passes=numbers * 0, row_numbers=numbers)
    )


def train_hugging_face(num_steps: int, accumulation: int, threads: int) -> Measurement:
    """What transformers' Trainer costs after its first optimizer step."""
    torch.set_num_threads(threads)
    peaks = measure_peaks()
    import transformers

    masked = masked_rows((num_steps + 1) * accumulation * MICRO_ROWS)
    labels = np.full(masked.tokens.shape, -100)
    used = masked.labels >= 0
    row = np.broadcast_to(np.arange(len(labels))[:, None], masked.positions.shape)
    labels[row[used], masked.positions[used]] = masked.labels[used]
    rows = [
        {"input_ids": torch.from_numpy(tokens), "labels": torch.from_numpy(label)}
        for tokens, label in zip(masked.tokens.astype(np.int64), labels, strict=True)
    ]
    ours = ModelConfig(**MODEL)
    model = transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=ours.hidden_size,
            num_hidden_layers=ours.num_layers,
            num_attention_heads=ours.num_attention_heads,
            intermediate_size=ours.ffn_hidden_size,
            max_position_embeddings=ROW_TOKENS + 2,
            type_vocab_size=1,
        )
    )
    times: list[Cost] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]  # transformers is untyped
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(now())

    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="hf-trainer-"),
        per_device_train_batch_size=MICRO_ROWS,
        gradient_accumulation_steps=accumulation,
        max_steps=num_steps + 1,
        learning_rate=LEARNING_RATE,
        bf16=True,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, callbacks=[Clock()]
    )
    trainer.train()
    return Measurement(times[-1] - times[0], *peaks, peak_memory_gb())


def train_ours(
    tp_size: int, compiles: bool, num_steps: int, accumulation: int, threads: int
) -> Measurement:
    """What our model costs in pretraining after its first optimizer step, on this rank."""
    torch.set_num_threads(threads)
    peaks = measure_peaks()
    start_distributed(Launch(dist.get_rank(), dist.get_rank(), tp_size, tp_size), tp_size=tp_size)
    grid = make_grid(tp_size)
    rows = accumulation * MICRO_ROWS
    overrides = [f"model.{key}={value}" for key, value in MODEL.items()]
    overrides += [f"compute.compile={'on' if compiles else 'off'}", f"parallel.tensor={tp_size}"]
    config = load(ROOT / "configs" / "base.yaml", TrainConfig, overrides)
    model = build_masked_lm(config.model, VOCAB_SIZE, grid, config.seed, config.compute)
    engine = Engine(model, config, accumulation, grid, [config.optimizer])
    masked = masked_rows((num_steps + 1) * rows)
    shape = (num_steps + 1, accumulation, MICRO_ROWS, -1)
    arrays = (masked.tokens, masked.positions, masked.labels)
    tokens, positions, labels = (torch.from_numpy(array).view(shape) for array in arrays)
    started = now()
    for number in range(num_steps + 1):
        if number == 1:
            started = now()
        batch = StepBatch(
            *(tokens[number], positions[number], labels[number]),
            dropout_keys=tuple(range(number * accumulation, (number + 1) * accumulation)),
            step=StepRange(number * rows, rows),
            phase=0,
            consumed_rows=(number + 1) * rows,
        )
        pretraining_step(engine, batch, LEARNING_RATE)
    return Measurement(now() - started, *peaks, peak_memory_gb())


def profile(threads: int) -> str:
    """The operations that take the most time of a forward and backward pass, one per line."""
    torch.set_num_threads(threads)
    model = build_masked_lm(ModelConfig(**MODEL), VOCAB_SIZE, make_grid(1), seed=0)
    masked = masked_rows(MICRO_ROWS)
    inputs = [torch.from_numpy(a).long() for a in (masked.tokens, masked.positions, masked.labels)]

    def run() -> None:
        loss_sum, count, _ = model(*inputs, 0)
        (loss_sum / count).backward()

    run()
    with torch.profiler.profile() as profiler:
        run()
    averages = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in averages)
    top = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:12]
    return "\n".join(f"  {e.self_cpu_time_total / total:6.1%}  {e.key}" for e in top)


def main() -> None:
    """Prints what every contestant reached, its ratio to the baseline and its share of the peak."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2, help="timed optimizer steps")
    parser.add_argument("--accumulation", type=int, default=4, help="micro-batches of 8 rows")
    parser.add_argument("--profile", action="store_true", help="print our slowest operations too")
    parser.add_argument("--output", type=Path, help="write the measurements to this JSON file")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    sizes = (arguments.steps, arguments.accumulation)
    contestants: dict[str, Any] = {
        "ours, one rank": (train_ours, 1, 1, False, *sizes, threads),
        "ours, one rank, compiled layers": (train_ours, 1, 1, True, *sizes, threads),
        "ours, tensor parallel 2": (train_ours, 2, 2, False, *sizes, max(1, threads // 2)),
    }
    # Outside of any process group: the Trainer would wrap the model for data parallelism.
    with ProcessPoolExecutor(max_workers=1) as pool:
        found = {BASELINE: [pool.submit(train_hugging_face, *sizes, threads).result()]}
    for name, (function, world_size, *values) in contestants.items():
        found[name] = run_ranks(function, world_size, *values, timeout_s=RANK_TIMEOUT_S)
    measured = [one for ranks in found.values() for one in ranks]
    bf16_peak, fp32_peak = (max(peaks) for peaks in zip(*map(peaks_of, measured), strict=True))
    num_rows = arguments.steps * arguments.accumulation * MICRO_ROWS
    flops_per_token = flops_of_rows(num_rows) / num_rows / ROW_TOKENS
    print(
        f"peak of matrix products in a CPU second: bf16 {bf16_peak / 1e9:.0f} GFLOP, fp32 "
        f"{fp32_peak / 1e9:.0f}; the model needs {flops_per_token / 1e6:.0f} MFLOP a token"
    )
    report = {
        name: rates_of(ranks, num_rows * ROW_TOKENS, flops_per_token, bf16_peak, threads)
        for name, ranks in found.items()
    }
    for name, rates in report.items():
        print(line_of(name, rates, report[BASELINE]))
    if arguments.profile:
        print(run_ranks(profile, 1, threads, timeout_s=RANK_TIMEOUT_S)[0])
    if arguments.output:
        machine = {
            "bf16_flops_per_cpu_s": bf16_peak,
            "fp32_flops_per_cpu_s": fp32_peak,
            "flops_per_token": flops_per_token,
        }
        arguments.output.write_text(json.dumps({**machine, **report}, indent=1) + "\n")


def peaks_of(one: Measurement) -> tuple[float, float]:
    """(bf16, fp32)."""
    return one.bf16_peak, one.fp32_peak


def flops_of_rows(num_rows: int) -> int:
    """Operations of the matrix products that training on these rows needs."""
    num_labels = int((masked_rows(num_rows).labels >= 0).sum())
    sizes = (VOCAB_SIZE, num_rows, ROW_TOKENS, num_labels)
    return training_flops(ModelConfig(**MODEL), *sizes, reads_all=False)


def rates_of(
    ranks: list[Measurement], tokens: int, flops_per_token: float, peak: float, threads: int
) -> dict[str, float]:
    """What `ranks` reached together on `tokens`; `peak` is that of a CPU second."""
    per_s = tokens / max(one.cost.wall_s for one in ranks)
    per_cpu_s = tokens / sum(one.cost.cpu_s for one in ranks)
    return {
        "tokens_per_s": round(per_s),
        "tokens_per_cpu_s": round(per_cpu_s),
        "share_of_peak": per_s * flops_per_token / (peak * threads),
        "share_of_peak_per_cpu_s": per_cpu_s * flops_per_token / peak,
        "memory_gb": sum(one.memory_gb for one in ranks),
    }


def line_of(name: str, rates: dict[str, float], baseline: dict[str, float]) -> str:
    """What a contestant reached, and its ratios to the baseline."""
    speeds = "   ".join(
        f"{rates[kind]:6,} {unit} "
        f"({rates[kind] / baseline[kind]:.2f} x, {rates[share]:.0%} of the peak)"
        for kind, unit, share in (
            ("tokens_per_s", "tokens/s", "share_of_peak"),
            ("tokens_per_cpu_s", "tokens/CPU s", "share_of_peak_per_cpu_s"),
        )
    )
    return f"{name:32} {speeds}   {rates['memory_gb']:.1f} GB"


if __name__ == "__main__":
    command.run(main)

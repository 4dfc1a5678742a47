"""Training throughput on the CPU: our model and Hugging Face's, side by side in one run.

    python -m benchmarks.model_speed [--steps 2] [--accumulation 4] [--profile]

A small RoBERTa (4 layers, hidden size 512, vocabulary 50,265), rows of 512 tokens, bf16. The
baseline is `RobertaForMaskedLM` under transformers' `Trainer` (bf16 autocast, its defaults); ours
is the model under DeepSpeed ZeRO 1, on one rank with all threads, the same with compiled layers,
and on two tensor-parallel ranks.
All train on the same masked rows in the same batches. The first optimizer step of each is not
timed. The Trainer needs `accelerate`, which the project itself does not. On a machine that is busy
with other work, compare the throughput per CPU second.
"""

import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs import command
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.objectives import MaskedLanguageModelConfig, MaskedRows, RowsToMask
from model.parallel.grid import make_grid
from pipeline.launch.local_ranks import run_ranks

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


def masked_rows(num_rows: int) -> MaskedRows:
    """The rows that all contestants train on."""
    rows = np.random.default_rng(0).integers(4, VOCAB_SIZE - 1, (num_rows, ROW_TOKENS))
    rows[:, 0], rows[:, -1] = 0, 2
    numbers = np.arange(num_rows)
    objective = MaskedLanguageModelConfig().build(VOCAB_SIZE)
    return objective.mask_rows(
        RowsToMask(rows.astype(np.uint16), seed=0, passes=numbers * 0, row_numbers=numbers)
    )


def train_hugging_face(num_steps: int, accumulation: int, threads: int) -> Cost:
    """The cost of transformers' Trainer after its first optimizer step."""
    torch.set_num_threads(threads)
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
    return times[-1] - times[0]


def train_ours(
    tp_size: int, compiles: bool, num_steps: int, accumulation: int, threads: int
) -> Cost:
    """The cost of our model under DeepSpeed after its first optimizer step."""
    torch.set_num_threads(threads)
    import deepspeed

    grid = make_grid(tp_size)
    compute = ComputeConfig(compile="on" if compiles else "off")
    model = build_masked_lm(ModelConfig(**MODEL), VOCAB_SIZE, grid, 0, compute)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True),
        mpu=grid,
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": MICRO_ROWS,
            "gradient_accumulation_steps": accumulation,
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 1.0,
        },
    )
    masked = masked_rows((num_steps + 1) * accumulation * MICRO_ROWS)
    arrays = (masked.tokens, masked.positions, masked.labels)
    started = now()
    for number in range((num_steps + 1) * accumulation):
        if number == accumulation:
            started = now()
        part = slice(number * MICRO_ROWS, (number + 1) * MICRO_ROWS)
        inputs = [torch.from_numpy(array[part]).long() for array in arrays]
        loss_sum, count, _ = engine(*inputs, number)
        engine.backward(loss_sum / count)
        engine.step()
    return now() - started


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
    """Prints the throughput of every contestant, and its ratio to the baseline."""
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
        costs = {BASELINE: [pool.submit(train_hugging_face, *sizes, threads).result()]}
    for name, (function, world_size, *values) in contestants.items():
        costs[name] = run_ranks(function, world_size, *values, timeout_s=RANK_TIMEOUT_S)
    tokens = arguments.steps * arguments.accumulation * MICRO_ROWS * ROW_TOKENS
    throughput = {
        name: {
            "tokens_per_s": round(tokens / max(cost.wall_s for cost in ranks)),
            "tokens_per_cpu_s": round(tokens / sum(cost.cpu_s for cost in ranks)),
        }
        for name, ranks in costs.items()
    }
    for name, rates in throughput.items():
        ratios = [rates[kind] / throughput[BASELINE][kind] for kind in rates]
        print(
            f"{name:24} {rates['tokens_per_s']:6,} tokens/s ({ratios[0]:.2f} x)   "
            f"{rates['tokens_per_cpu_s']:6,} tokens/CPU s ({ratios[1]:.2f} x)"
        )
    if arguments.profile:
        print(run_ranks(profile, 1, threads, timeout_s=RANK_TIMEOUT_S)[0])
    if arguments.output:
        arguments.output.write_text(json.dumps(throughput, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)

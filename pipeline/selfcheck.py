"""Compares tensor parallelism with one rank: ``python -m pipeline.selfcheck CONFIG.yaml``.

Trains the config's model for some steps in fp32 on random rows with dropout: once on one rank and
once at the config's tensor-parallel size and ZeRO stage, on CPU ranks of this machine. Compares
losses, gradient norms, every gathered gradient of the first step and every weight of the last step,
and names the parameters that differ. For large models, check fewer layers (model.num_layers=2).
"""

import logging
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs import command
from configs.terminal import visible
from data_prep.dataset.manifest import MANIFEST_NAME
from model.grid_check import check_grid
from model.heads import build_masked_lm
from model.objectives import MaskedLanguageModelConfig, RowsToMask
from model.parallel.grid import close_grid, make_grid
from model.parameters import ParameterSpec
from model.replicas import differing_replicas
from pipeline.data.loader import StepBatch
from pipeline.data.position import StepRange
from pipeline.data.shard_cache import open_data_set
from pipeline.engine.deepspeed_engine import Engine
from pipeline.launch.local_ranks import run_ranks
from pipeline.optim.adamw import AdamWConfig
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from pipeline.run.train_config import load_train

TOLERANCE = 1e-5
"""Largest allowed difference, relative to the largest value of the tensor."""
GRADIENT_FLOOR = 1e-6
"""Gradients whose largest value is smaller are rounding noise and compared absolutely."""
# Adam normalizes a gradient by its size: with a small eps, the rounding noise of gradients that
# should be zero (attention key biases) would change weights as much as a real gradient does.
OPTIMIZER = AdamWConfig(lr=1e-3, eps=1e-3)
ACCUMULATION = 2
MAX_MICRO_ROWS = 4
VOCAB_SIZE_WITHOUT_DATA = 1009
RANK_TIMEOUT_S = 3600.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trajectory:
    """What one rank computed."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, Tensor]
    """By parameter: this rank's shard of the first step's gradient."""
    weights: dict[str, Tensor]
    """By parameter: this rank's shard of the weights after the last step."""
    specs: dict[str, ParameterSpec]
    unequal_replicas: list[str]
    """Replicated parameters that differ between tensor-parallel ranks after the last step."""


def main() -> int:
    """``python -m pipeline.selfcheck CONFIG.yaml --steps 20 key.sub=value ...``; 1: different."""
    parser = command.parser("Compare this config's tensor parallelism with one rank.")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps (default: 20)")
    arguments = parser.parse_args()
    config = load_train(arguments.config, arguments.overrides)
    tp_size, zero_stage = config.parallel.tensor, config.parallel.zero_stage
    check_grid(config.model, config.compute, tp_size)
    vocab_size = vocab_size_of(config)
    logger.info(
        "tensor parallel %d, ZeRO %d against one rank: %d steps in fp32 on CPU ranks, vocabulary "
        "%d",
        *(tp_size, zero_stage, arguments.steps, vocab_size),
    )
    problems = compare_with_one_rank(config, vocab_size, arguments.steps)
    for problem in problems:
        print(visible(f"DIFFERENT {problem}"))
    if not problems:
        print(f"equal: losses, norms, gradients and weights within {TOLERANCE:.0e} (relative)")
    return 1 if problems else 0


def compare_with_one_rank(config: TrainConfig, vocab_size: int, num_steps: int) -> list[str]:
    """One line for every metric and parameter that differs; none if the grid is correct."""
    tp_size = config.parallel.tensor
    [expected] = _run(config, 1, 1, vocab_size, num_steps)
    ranks = _run(config, tp_size, config.parallel.zero_stage, vocab_size, num_steps)
    problems = [
        f"{name} differs between tensor-parallel ranks" for name in ranks[0].unequal_replicas
    ]
    for kind in ("losses", "norms"):
        pairs = zip(getattr(expected, kind), getattr(ranks[0], kind), strict=True)
        for step, (one, many) in enumerate(pairs, start=1):
            if abs(one - many) > TOLERANCE * abs(one):
                problems.append(
                    f"{kind}: step {step}: {one:.7g} on one rank, {many:.7g} on {tp_size}"
                )
                break
    for kind in ("gradients", "weights"):
        for name, one in getattr(expected, kind).items():
            many = _gather([getattr(rank, kind)[name] for rank in ranks], expected.specs[name])
            floor = GRADIENT_FLOOR if kind == "gradients" else OPTIMIZER.lr
            scale = max(float(one.abs().max()), floor)
            error = float((one - many).abs().max())
            if not error <= TOLERANCE * scale:
                problems.append(
                    f"{kind}: {name}: differs by {error:.2e}; its largest value is {scale:.2e}"
                )
    return problems


def _run(
    config: TrainConfig, tp_size: int, zero_stage: int, vocab_size: int, num_steps: int
) -> list[Trajectory]:
    layout = {"tensor": tp_size, "zero_stage": zero_stage, "zero_gather_ranks": None}
    parallel = config.parallel.model_copy(update=layout)
    changes = {
        "parallel": parallel,
        "precision": "fp32",
        "gradient_clipping": 0.0,
        "optimizer": OPTIMIZER,
    }
    changed = config.model_copy(update=changes)
    return run_ranks(train_rank, tp_size, changed, vocab_size, num_steps, timeout_s=RANK_TIMEOUT_S)


def train_rank(config: TrainConfig, vocab_size: int, num_steps: int) -> Trajectory:
    """What this rank computes in `num_steps` steps on random rows; needs a process group."""
    grid = make_grid(config.parallel.tensor)
    model_config = config.model.for_loaded_weights()
    model = build_masked_lm(model_config, vocab_size, grid, config.seed, config.model_compute)
    engine = Engine(model, config, ACCUMULATION, grid)
    losses, norms, gradients = [], [], {}
    for step in range(num_steps):
        result = pretraining_step(engine, random_batch(config, vocab_size, step), OPTIMIZER.lr)
        losses.append(result.loss)
        norms.append(result.gradient_norm)
        if step == 0:
            averages = _shards(engine, "exp_avg")
            gradients = {name: value / (1 - OPTIMIZER.beta1) for name, value in averages.items()}
    weights = _shards(engine, "weight")
    unequal = differing_replicas(engine.module, grid)
    close_grid()
    return Trajectory(losses, norms, gradients, weights, engine.specs, unequal)


def _shards(engine: Engine, key: str) -> dict[str, Tensor]:
    """By trained parameter: this rank's shard, which may be vocabulary padding alone."""
    held = engine.snapshot(check_replicas=False)
    empty = {
        name: torch.zeros(spec.saved_shape(*engine.grid.tp_shard))
        for name, spec in engine.specs.items()
    }
    return {
        name: held[name].tensors[key] if name in held else shard
        for name, shard in empty.items()
        if name not in held or key in held[name].tensors
    }


def random_batch(config: TrainConfig, vocab_size: int, step: int) -> StepBatch:
    """Random masked rows, equal on every rank."""
    micro_rows = min(config.batch.micro_rows, MAX_MICRO_ROWS)
    num_rows, row_tokens = ACCUMULATION * micro_rows, config.model.max_row_tokens
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    shape = (num_rows, row_tokens)
    rows = torch.randint(4, vocab_size - 1, shape, generator=generator).numpy()
    rows[:, 0], rows[:, -1] = 0, 2
    rows[:, row_tokens // 3] = config.model.begin_token_id  # a second document
    numbers = np.arange(num_rows)
    objective = MaskedLanguageModelConfig().build(vocab_size)
    masked = objective.mask_rows(
        RowsToMask(
            rows.astype(np.uint32), seed=config.seed, passes=numbers * 0 + step, row_numbers=numbers
        )
    )
    split = (ACCUMULATION, micro_rows, -1)
    return StepBatch(
        tokens=torch.from_numpy(masked.tokens).view(split),
        positions=torch.from_numpy(masked.positions).view(split),
        labels=torch.from_numpy(masked.labels).view(split),
        dropout_keys=tuple(step * ACCUMULATION + micro for micro in range(ACCUMULATION)),
        step=StepRange(step * num_rows, num_rows),
        phase=0,
        consumed_rows=(step + 1) * num_rows,
    )


def _gather(parts: list[Tensor], spec: ParameterSpec) -> Tensor:
    return parts[0] if spec.partition_dim is None else torch.cat(parts, dim=spec.partition_dim)


def vocab_size_of(config: TrainConfig) -> int:
    """The vocabulary size of the data set, or a small one if the rows do not exist yet."""
    if config.data.url is None and not (config.data.path / MANIFEST_NAME).exists():
        logger.info("%s: no data set yet; a small vocabulary is used", config.data.path)
        return VOCAB_SIZE_WITHOUT_DATA
    return open_data_set(config.data).vocab_size


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # gloo on CPU ranks, whatever the machine has
    command.run(main)

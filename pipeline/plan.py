"""The arithmetic of a run: what a batch is made of, and whether it fits the ranks at all."""

from dataclasses import dataclass

from configs.load import ConfigError
from data_prep.shards import Manifest
from model.config import check_grid
from pipeline.config import BatchConfig, TrainConfig
from pipeline.order import build_order, train_sources


@dataclass(frozen=True)
class BatchPlan:
    """One optimizer step: `global_rows` = `accumulation` x `dp_size` x `micro_rows`."""

    global_rows: int
    micro_rows: int
    dp_size: int
    accumulation: int

    def sentence(self, config: TrainConfig, step: int) -> str:
        """What is about to happen, in one line."""
        begin = f"goes on behind step {step:,}" if step else "starts"
        return (
            f"{config.name} {begin}: {config.total_steps:,} steps of {self.global_rows:,} rows "
            f"({self.accumulation} x {self.dp_size} x {self.micro_rows}), tensor parallel "
            f"{config.parallel.tensor}, ZeRO {config.parallel.zero_stage}, {config.precision}"
        )


def plan_batch(batch: BatchConfig, dp_size: int) -> BatchPlan:
    """How `batch` is split over `dp_size` data-parallel ranks.

    Raises ConfigError that names the nearest global batches that divide.
    """
    rows_per_pass = batch.micro_rows * dp_size
    accumulation, rest = divmod(batch.global_rows, rows_per_pass)
    if rest:
        nearest = [n * rows_per_pass for n in (accumulation, accumulation + 1) if n]
        micro = [
            m for m in range(1, batch.global_rows + 1) if batch.global_rows % (m * dp_size) == 0
        ]
        micro_hint = (
            f", or batch.micro_rows to {min(micro, key=lambda m: abs(m - batch.micro_rows))}"
            if micro
            else ""
        )
        raise ConfigError(
            f"batch.global_rows {batch.global_rows} is not a multiple of batch.micro_rows "
            f"{batch.micro_rows} x {dp_size} data-parallel ranks; set batch.global_rows to "
            f"{' or '.join(map(str, nearest))}{micro_hint}"
        )
    return BatchPlan(batch.global_rows, batch.micro_rows, dp_size, accumulation)


def check_run(config: TrainConfig, manifest: Manifest, world_size: int) -> BatchPlan:
    """The batch plan of `config` on `world_size` ranks, after every check that needs no weights.

    Raises ConfigError, before anything is allocated, for ranks that do not divide, heads or
    vocabulary that do not split over the tensor-parallel ranks, rows longer than the positions, and
    mixture weights that do not fit the sources.
    """
    tp_size = config.parallel.tensor
    if world_size % tp_size:
        raise ConfigError(
            f"parallel.tensor {tp_size} does not divide the {world_size} ranks of this launch; "
            f"start a multiple of {tp_size} ranks or change parallel.tensor"
        )
    check_grid(config.model, tp_size)
    if manifest.row_tokens > config.model.max_row_tokens:
        raise ConfigError(
            f"model.max_row_tokens {config.model.max_row_tokens} is less than the rows of "
            f"{manifest.row_tokens} tokens in {config.data.path}"
        )
    build_order(train_sources(manifest), config.data.weights, config.seed)
    return plan_batch(config.batch, world_size // tp_size)

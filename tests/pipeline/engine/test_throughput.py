"""What is measured of a step: operations counted, stragglers named, metrics recorded."""

import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from model.compute import ComputeConfig
from model.config import ModelConfig
from model.flops import attended_pairs, encoder_flops, head_flops, training_flops
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.task_heads import LossAndCounts
from pipeline.engine import stragglers, throughput
from pipeline.engine.stragglers import RankMeasurements, Stopwatch, straggler_line
from pipeline.pretraining.step import MaskedMicroBatch
from pipeline.run.config import TrainConfig
from tests.gloo import in_one_rank, run_ranks
from tests.model.parallel.test_tensor_parallel import OPTIONS, TINY, VOCAB_SIZE
from tests.pipeline.training_run import make_config, make_rows, metrics, pretrain

ROWS, ROW_TOKENS, MASKED = 2, 16, 3


@pytest.mark.parametrize("options", [{}, OPTIONS["swiglu"]], ids=["roberta", "swiglu"])
@in_one_rank
def test_the_counted_operations_are_those_of_the_model(options: dict[str, Any]) -> None:
    config = ModelConfig(**{**TINY, **options})
    compute = ComputeConfig(attention_backend="explicit")
    model = build_masked_lm(config, VOCAB_SIZE, make_grid(1), seed=0, compute=compute)
    tokens = torch.randint(4, VOCAB_SIZE - 1, (ROWS, ROW_TOKENS))
    positions = torch.arange(1, 1 + MASKED).repeat(ROWS, 1)
    with FlopCounterMode(display=False) as counter:
        model(tokens, positions, tokens[:, 1 : 1 + MASKED].contiguous(), None)
    padding = compute.padded_vocab_size(VOCAB_SIZE) - VOCAB_SIZE
    forward = ROWS * encoder_flops(config, ROW_TOKENS)
    forward += ROWS * MASKED * (head_flops(config, VOCAB_SIZE + padding))
    sizes = (VOCAB_SIZE + padding, ROWS, ROW_TOKENS, ROWS * MASKED)
    assert training_flops(config, *sizes) == 3 * forward
    assert training_flops(config, *sizes, reads_all=False) == 3 * counter.get_total_flops()


@pytest.mark.parametrize("window", [None, 0, 1, 3, 9, 20])
def test_attended_pairs_are_those_of_the_mask(window: int | None) -> None:
    rows = np.arange(10)
    distance = np.abs(rows[:, None] - rows)
    reach = 10 if window is None else window
    assert attended_pairs(10, window) == int((distance <= reach).sum())


def test_slow_ranks_are_named() -> None:
    names = ["a", "a", "b", "b"]
    assert straggler_line(np.array([1.0, 1.1, 1.0, 1.2]), names) is None
    line = straggler_line(np.array([1.0, 1.0, 1.0, 2.5]), names)
    assert line is not None
    assert "rank 3 on b 2.5" in line


class Clock:
    """In place of `time` in the stopwatch's module: no test depends on the speed of the machine."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        """The present time; a millisecond passes with every call."""
        self.now_s += 1e-3
        return self.now_s

    process_time = monotonic = perf_counter


def test_the_stopwatch_adds_up_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(stragglers, "time", clock)
    stopwatch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with stopwatch:
            clock.now_s += 0.02
        clock.now_s += 0.2
    assert stopwatch.seconds() == pytest.approx(2 * (0.02 + 1e-3))


@in_one_rank
def test_no_step_is_faster_than_the_peak() -> None:
    """Where the measurement was slower than training, as on a busy machine."""
    with mock.patch.object(throughput, "measure_peak_flops", return_value=1e6):
        meter = throughput.StepMeter(torch.device("cpu"), "fp32")
    assert meter.peak_flops == 1e6
    result = mock.Mock(ranks=[RankMeasurements(1.0, 0.0, 1.0, 0.0, 0.0)])
    meter._step_started_at, shares = 0.0, []
    for now_s, flops in ((1.0, 500_000), (2.0, 8_000_000), (4.0, 8_000_000)):
        clock = mock.Mock(monotonic=mock.Mock(return_value=now_s))
        with mock.patch.object(throughput, "time", clock):
            values = meter.step_finished(result, rows=1, tokens=1, flops=flops)
        shares.append(values["model_flops_utilization"])
    assert shares == [0.5, 1.0, 0.5]


@in_one_rank
def test_time_of_other_processes_does_not_lower_the_peak() -> None:
    """The rank has a tenth of the machine: its own processor time decides."""
    cpu = torch.device("cpu")
    alone = stragglers.measure_peak_flops(cpu, torch.float32, 1.0)
    clock = mock.Mock(process_time=time.process_time, perf_counter=lambda: time.time() * 10)
    with mock.patch.object(stragglers, "time", clock):
        busy = stragglers.measure_peak_flops(cpu, torch.float32, 1.0)
    assert busy > alone / 3


@in_one_rank
def test_the_peak_counts_the_processor_time_of_all_threads() -> None:
    cpu, peaks = torch.device("cpu"), []
    with mock.patch.object(stragglers, "PEAK_SECONDS", 0.3):
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            peaks.append(stragglers.measure_peak_flops(cpu, torch.float32))
    assert peaks[1] < 1.5 * peaks[0]


def cores_of_a_rank() -> float:
    torch.set_num_threads(64)
    return stragglers.rank_cores()


def test_ranks_share_the_cores_of_a_host() -> None:
    num_cores = len(os.sched_getaffinity(0))
    assert run_ranks(cores_of_a_rank, 2) == [num_cores / 2] * 2


def pretrain_with_a_slow_rank(config: TrainConfig) -> None:
    """On a clock by which each forward pass takes 0.05 s on rank 0 and 0.1 s on rank 1."""
    clock = Clock()
    real = MaskedMicroBatch.forward

    def slow(batch: MaskedMicroBatch, model: Any, device: torch.device) -> dict[str, LossAndCounts]:
        clock.now_s += 0.05 * (1 + dist.get_rank())
        return real(batch, model, device)

    with (
        mock.patch.object(MaskedMicroBatch, "forward", slow),
        mock.patch.object(stragglers, "time", clock),
    ):
        pretrain(config)


def test_the_metrics_of_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_rows(tmp_path / "rows", rows=64)
    config = make_config(tmp_path / "rows", tmp_path / "run", log_every_steps=5)
    run_ranks(pretrain_with_a_slow_rank, 2, config)
    assert metrics(config, "slowest_rank") == [1.0] * 20
    two_micro_batches = 2 * (0.1 + 1e-3)
    assert metrics(config, "slowest_forward_s") == pytest.approx([two_micro_batches] * 20)
    assert (
        "slow ranks, as multiples of the median forward time: rank 1 on" in capfd.readouterr().out
    )
    assert all(0 < value <= 1 for value in metrics(config, "model_flops_utilization"))
    assert all(0.05 < value < 10 for value in metrics(config, "host_memory_gb"))
    rates = zip(
        metrics(config, "tokens_per_s_per_rank"), metrics(config, "tokens_per_s"), strict=True
    )
    assert all(total == pytest.approx(2 * each) for each, total in rates)


@pytest.mark.parametrize(
    ("precision", "peaks", "warns"),
    [("bf16", (1e9, 1.2e10), True), ("bf16", (1e10, 5e9), False), ("fp32", (1e9,), False)],
)
@in_one_rank
def test_a_number_format_that_the_device_lacks_is_named(
    precision: str, peaks: tuple[float, ...], warns: bool
) -> None:
    with (
        mock.patch.object(throughput, "measure_peak_flops", side_effect=peaks),
        mock.patch.object(throughput.logger, "warning") as warning,
    ):
        throughput.StepMeter(torch.device("cpu"), precision)
    assert warning.call_count == warns
    if warns:
        assert "bf16 are 12 times slower" in warning.call_args.args[0] % warning.call_args.args[1:]

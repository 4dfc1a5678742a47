"""When a step is saved by the clock: the same steps on all ranks, and the same bits."""

from pathlib import Path
from unittest import mock

import torch.distributed as dist

from pipeline.checkpoint.manifest import list_checkpoints, read_manifest
from pipeline.engine import stragglers
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import run_ranks
from tests.pipeline.engine.test_throughput import Clock
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    pretrain,
)


class SlowClock(Clock):
    """A minute passes in every step; each rank's clock has another start."""

    def __init__(self) -> None:
        super().__init__()
        self.minutes = 1000 * dist.get_rank()

    def monotonic(self) -> float:
        self.minutes += 1
        return 60.0 * self.minutes


def on_slow_clocks(config: TrainConfig) -> None:
    with mock.patch.object(stragglers, "time", SlowClock()):
        pretrain(config)


def saved_steps(config: TrainConfig) -> list[int]:
    return [read_manifest(path).step for path in list_checkpoints(checkpoints_folder(config))]


def test_a_step_is_saved_minutes_after_the_last_one(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    rules = {"every_steps": 8, "keep_last": 99}
    plain = make_config(tmp_path / "rows", tmp_path / "plain", checkpoint=rules)
    timed = make_config(
        tmp_path / "rows", tmp_path / "timed", checkpoint={**rules, "every_minutes": 3}
    )
    for config in (plain, timed):
        run_ranks(on_slow_clocks, 2, config)
    assert saved_steps(plain) == [8, 16, 20]
    assert saved_steps(timed) == [4, 7, 8, 11, 14, 16, 19, 20]
    assert_same_bits(final_state(plain), final_state(timed))

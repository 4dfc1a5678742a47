"""A stage that needs more memory gets it from the workers that run; others do not."""

import time
from types import SimpleNamespace

import pytest

from data_prep.engine import worker_memory
from data_prep.engine.engine import WorkersKilled
from data_prep.engine.resources import Resources
from data_prep.engine.workers import LocalEngineConfig
from data_prep.tokenization.config import TrainTokenizerConfig
from data_prep.tokenization.tokenizer import TokenizerStage

MB = 1_000_000


def hold(num_bytes: int) -> int:
    """Holds so much memory for longer than a nanny needs to notice."""
    held = b"\1" * num_bytes
    time.sleep(1.5)
    return len(held)


@pytest.mark.timeout(300)
def test_a_part_may_use_what_its_stage_asks_for_and_the_next_stage_may_not() -> None:
    with LocalEngineConfig(workers=1, worker_memory_mb=400).build() as engine:
        calls = [(600 * MB,)]
        assert list(engine.run(hold, calls, ["large"], part_bytes=1500 * MB)) == [600 * MB]
        with pytest.raises(WorkersKilled, match="usual: this part killed its worker process"):
            list(engine.run(hold, calls, ["usual"]))


@pytest.mark.parametrize(
    ("asked", "allowed_by_groups", "limit"),
    [
        (9000 * MB, None, 9000 * MB),
        (9000 * MB, 20_000 * MB, 9000 * MB),
        (9000 * MB, 8000 * MB, 7200 * MB),
        (9000 * MB, 2000 * MB, 3000 * MB),  # never less than it was started with
        (0, None, 3000 * MB),
    ],
)
def test_the_limit_stays_inside_that_of_the_control_groups(
    monkeypatch: pytest.MonkeyPatch, asked: int, allowed_by_groups: int | None, limit: int
) -> None:
    resources = Resources(1, "test", allowed_by_groups)
    monkeypatch.setattr(worker_memory, "usable_resources", lambda: resources)
    worker = SimpleNamespace(memory_manager=SimpleNamespace(memory_limit=3000 * MB))
    worker_memory._allow_here(asked, worker)
    assert worker.memory_manager.memory_limit == limit
    worker_memory._allow_here(0, worker)
    assert worker.memory_manager.memory_limit == 3000 * MB


def test_a_worker_without_a_limit_stays_without() -> None:
    worker = SimpleNamespace(memory_manager=SimpleNamespace(memory_limit=None))
    worker_memory._allow_here(1, worker)
    assert worker.memory_manager.memory_limit is None


def test_a_tokenizer_asks_for_four_times_its_sample() -> None:
    config = TrainTokenizerConfig(type="train", vocab_size=1000, sample_mb=2000)
    stage = object.__new__(TokenizerStage)
    object.__setattr__(stage, "config", config)
    assert stage.part_memory_bytes == 9000 * MB

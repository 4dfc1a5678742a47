"""What runs on a GPU are compared with, made once."""

from pathlib import Path

import pytest

from pipeline.run.config import TrainConfig
from tests.pipeline.gpu.gpu_runs import MAX_ROW_TOKENS, NO_DROPOUT, run_on
from tests.pipeline.training_run import make_rows


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, row_tokens=128)
    return folder


@pytest.fixture(scope="session")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two pieces, several blocks of attention's kernels: sums could come in any order."""
    folder = tmp_path_factory.mktemp("long-rows")
    make_rows(folder, row_tokens=MAX_ROW_TOKENS, piece_tokens=300)
    return folder


@pytest.fixture(scope="session")
def on_cpu(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The CPU's run without dropout in fp32, saved half-way too."""
    folder = tmp_path_factory.mktemp("cpu")
    return run_on("cpu", rows, folder / "run", NO_DROPOUT, checkpoint={"every_steps": 10})

"""Rows that are damaged or cannot be read end a run with one message, from every process."""

import os
from pathlib import Path

import pytest
import yaml

from configs.load import UserError
from data_prep.dataset.manifest import read_manifest
from pipeline.pretraining.batches import run_batches
from pipeline.pretraining.resume import plan_segments
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from tests.forked import ForkedProcess, run_script
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain

ROOT = Path(__file__).parents[3]


def damage(rows: Path) -> Path:
    """Flips a bit in the last block of source "a" in place; the path of its shard."""
    shard = read_manifest(rows).splits["train"]["a"].shards[0]
    path = rows / shard.path
    with path.open("r+b") as file:
        file.seek(shard.block_offsets[-1] + 100)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    return path


def drain(config: TrainConfig) -> int:
    """Reads all batches of a run; how many there are."""
    plan = plan_run(config, 1)
    return sum(1 for _ in run_batches(plan, plan_segments(plan, None), (), 0, 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_block_is_one_message_also_from_a_worker(tmp_path: Path, workers: int) -> None:
    make_rows(tmp_path / "rows")
    config = make_config(tmp_path / "rows", tmp_path / "run", workers=workers)
    assert drain(config) == 20
    path = damage(tmp_path / "rows")
    with pytest.raises(UserError) as caught:
        drain(config)
    assert str(caught.value).startswith(f"{path}: block 7 (rows 448 to 511 of its source")
    assert "restore the shard from a copy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_in_mid_training_is_found(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    plan = plan_run(make_config(tmp_path / "rows", tmp_path / "run", total_rows=20_000), 1)
    batches = run_batches(plan, plan_segments(plan, None), (), 0, 0)
    for _ in range(50):  # every block was read and checked
        next(batches)
    path = damage(tmp_path / "rows")
    with pytest.raises(UserError, match="block 7 "):
        list(batches)
    os.truncate(path, 5000)
    batches = run_batches(plan, plan_segments(plan, None), (), 0, 0)
    with pytest.raises(UserError, match="5,000 bytes, but"):
        list(batches)


def test_all_ranks_end(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    damage(tmp_path / "rows")
    config = make_config(tmp_path / "rows", tmp_path / "run", workers=1)
    data = config.data.model_copy(update={"verify": "sizes"})  # so that it is found by a reader
    config = config.model_copy(update={"data": data})
    with pytest.raises(RankError, match=r"UserError: .*/a\.tar: block 7 "):
        run_ranks(pretrain, 2, config)


def test_the_command_reports_it_in_one_line(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows")
    path = damage(tmp_path / "rows")
    config = make_config(tmp_path / "rows", tmp_path / "run", workers=1)
    config_path = tmp_path / "config.yaml"
    config_path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = (str(config_path), "data.verify=sizes")
    done = ForkedProcess(lambda: run_script(ROOT / "pipeline/train.py", *arguments)).wait()
    assert done.returncode == 2, done.stderr
    assert f"error: {path}: block 7 " in done.stderr
    assert "Traceback" not in done.stderr

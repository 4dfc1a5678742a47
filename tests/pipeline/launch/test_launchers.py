"""The same train.py under torchrun and without a launcher; a mistake of one rank is told once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs.load import UserError
from pipeline.launch import shared_error as mistakes
from pipeline.run.run_folder import is_done
from pipeline.slurm_job import judge
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    pretrain,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder)
    return folder


def torchrun(script: str, config_path: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Two ranks of a script under torchrun."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *(script, *before, str(config_path)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150
    )


def written(rows: Path, folder: Path):
    config = make_config(rows, folder / "run", total_rows=5 * 16)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config, path


def test_torchrun_trains_to_the_same_bits_as_forked_ranks(rows, tmp_path):
    config, path = written(rows, tmp_path)
    done = torchrun("pipeline/train.py", path)
    assert done.returncode == 0, done.stderr
    assert is_done(config)
    forked = config.model_copy(update={"output": tmp_path / "forked"})
    run_ranks(pretrain, 2, forked)
    assert_same_bits(final_state(config), final_state(forked))


def test_a_mistake_of_one_rank_is_told_once_and_not_tried_again(rows, tmp_path):
    config, path = written(rows, tmp_path)
    done = torchrun("tests/faulty_rank.py", path, "pipeline/train.py")
    assert done.returncode != 0
    assert done.stderr.count("came out wrong on rank 1") == 1, done.stderr
    assert "error (rank 1): " in done.stderr
    assert "RuntimeError" not in done.stderr  # of the peer, which lost its connection
    verdict = judge(config, 137, "none", 3)  # srun's code: its peers were killed
    assert (verdict.state, verdict.exit_code) == ("failed", 2)
    assert judge(config, 137, "none", 3).exit_code == 75, "the next try begins anew"


def test_only_the_first_mistake_is_told(tmp_path):
    with pytest.raises(UserError, match="first"), mistakes.told_once(tmp_path, 3):
        raise UserError("first")
    for error in (UserError("second"), RuntimeError("connection closed by peer")):
        with pytest.raises(SystemExit) as stop, mistakes.told_once(tmp_path, 0):
            raise error
        assert stop.value.code == 2
    mistakes.forget(tmp_path)
    with pytest.raises(RuntimeError, match="a real one"), mistakes.told_once(tmp_path, 0):
        raise RuntimeError("a real one")
    with pytest.raises(UserError), mistakes.told_once(tmp_path / "absent", 0):
        raise UserError("where nothing can be written")


def test_a_rank_that_is_alone_with_a_mistake_tells_it(rows, tmp_path):
    _, path = written(rows, tmp_path)
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    environment = {**os.environ, **place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for override, is_told in (("data.path=nowhere", True), ("seed=minus", False)):
        done = subprocess.run(
            [sys.executable, "pipeline/train.py", str(path), override],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert ("error (rank 1): nowhere/manifest.json: no such file" in done.stderr) == is_told
        assert bool(done.stderr) == is_told

"""Errors of a user before training: one clear message, exit code 2, no traceback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs.load import ConfigError
from data_prep.dataset.manifest import read_manifest
from pipeline.run.plan import plan_run
from tests.forked import ForkedProcess, run_script
from tests.pipeline.training_run import make_config, make_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, rows=64)
    return folder


def start(folder: Path, rows: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python pipeline/train.py` with the tiny config, in a process of its own."""
    config = make_config(rows, folder / "run")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, str(ROOT / "pipeline" / "train.py"), str(path), *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hiden_size=4", "model.hiden_size: unknown key; did you mean 'hidden_size'?"),
        ("data.path=nowhere", "nowhere/manifest.json: no such file"),
        ("batch.global_rows=18", "set batch.global_rows to 16 or 20"),
        ("parallel.tensor=8", "parallel.tensor 8 does not divide the 1 ranks of this launch"),
        ("model.num_attention_heads=5", "hidden_size 32 is not divisible by num_attention_heads 5"),
        ("model.max_row_tokens=16", "model.max_row_tokens 16 is less than the rows of 32 tokens"),
        ("model.pad_token_id=3", "model.pad_token_id is 3, but 1 in the rows of"),
        ("total_rows=3", "total_rows 3 is less than one optimizer step"),
        ("schedule.warmup_rows=999", "schedule.warmup_rows 999 is longer than the schedule"),
        ("data.weights={a: 1, c: 1}", "unknown sources ['c'], sources without a weight ['b']"),
    ],
)
def test_errors_in_the_config(rows: Path, tmp_path: Path, override: str, message: str) -> None:
    done = start(tmp_path, rows, override)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_too_few_heads_for_the_tensor_parallel_size() -> None:
    config = make_config(Path("rows"), Path("run"), parallel={"tensor": 8})
    with pytest.raises(ConfigError, match="num_attention_heads 4 is not divisible by"):
        plan_run(config, world_size=8)


def test_the_start_of_documents_is_that_of_the_rows_where_it_is_used(rows: Path) -> None:
    def plan(**model: object) -> None:
        sizes = make_config(rows, Path("run")).model.model_dump(exclude_unset=True)
        config = make_config(rows, Path("run"), model={**sizes, "begin_token_id": 2, **model})
        plan_run(config, world_size=1)

    plan()
    for used in ({"packed_rows": {"type": "inside"}}, {"visibility": {"type": "random_keys"}}):
        with pytest.raises(ConfigError, match=r"begin_token_id is 2, but 0 in the rows of"):
            plan(**used)


@pytest.mark.parametrize("kind", ["damaged", "missing or short"])
def test_wrong_shards_are_all_named(rows: Path, tmp_path: Path, kind: str) -> None:
    make_rows(tmp_path / "rows")
    manifest = read_manifest(tmp_path / "rows")
    shards = [manifest.splits["train"][name].shards[0].path for name in ("a", "b")]
    first, second = (tmp_path / "rows" / shard for shard in shards)
    if kind == "damaged":
        for path in (first, second):
            content = bytearray(path.read_bytes())
            content[3000] ^= 1
            path.write_bytes(content)
        problems = ["its sha256 is not the manifest's (damaged bytes)"] * 2
    else:
        size = first.stat().st_size
        os.truncate(first, 3000)
        second.unlink()
        problems = [f"3,000 bytes instead of {size:,}", "missing"]
    done = start(tmp_path, tmp_path / "rows")
    assert done.returncode == 2
    for shard, problem in zip(shards, problems, strict=True):
        assert f"{shard}: {problem}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_holds_a_different_run(rows: Path, tmp_path: Path) -> None:
    from pipeline.run.run_folder import claim

    fingerprint = read_manifest(rows).fingerprint
    assert claim(make_config(rows, tmp_path / "run"), fingerprint) == []
    done = start(tmp_path, rows, "seed=8", "model.num_layers=3", "optimizer.lr=1")
    assert done.returncode == 2
    assert "holds a different run" in done.stderr
    assert "seed: 7 before, 8 now" in done.stderr
    assert "model.num_layers: 2 before, 3 now" in done.stderr
    assert "optimizer.lr" not in done.stderr


def test_a_port_in_use(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", port)
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(make_config(rows, tmp_path / "run").model_dump(mode="json")))
        done = ForkedProcess(lambda: run_script(ROOT / "pipeline/train.py", str(path))).wait()
    assert done.returncode == 2
    assert f"port {port} is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_launcher_environment_with_missing_variables(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = start(tmp_path, rows)
    assert done.returncode == 2
    assert "the environment has RANK, WORLD_SIZE but not LOCAL_RANK" in done.stderr

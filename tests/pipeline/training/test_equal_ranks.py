"""Ranks that differ in config, data, code, packages or environment do not train together."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist

from configs.load import UserError
from pipeline.run.config import TrainConfig
from pipeline.run.versions import versions
from pipeline.training import equal_ranks
from pipeline.training.equal_ranks import MAX_LINES, check_equal_ranks, source_hashes
from tests.gloo import run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain


def changed(config: TrainConfig, what: str) -> str:
    """The error of this rank, of which rank 2 alone differs in `what`."""
    data = {"rows": "abc"}
    patches: list[Any] = []
    if dist.get_rank() == 2:
        if what == "config":
            model = config.model.model_copy(update={"num_layers": 3})
            config = config.model_copy(update={"seed": 8, "model": model})
        elif what == "data":
            data = {"rows": "abd"}
        elif what == "code":
            hashes = source_hashes(equal_ranks.ROOT) | {"model/heads.py": "0", "model/new.py": "1"}
            patches.append(mock.patch.object(equal_ranks, "source_hashes", return_value=hashes))
        elif what == "versions":
            newer = {**versions(), "torch": "99.0"}
            patches.append(mock.patch.object(equal_ranks, "versions", return_value=newer))
        elif what == "environment":
            patches.append(mock.patch.dict(os.environ, NCCL_ALGO="Ring"))
    for patch in patches:
        patch.start()
    try:
        check_equal_ranks(config, data)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("config", ["config.seed is 8, but 7 on rank 0", "config.model.num_layers is 3, but 2"]),
        ("data", ['data.rows is "abd", but "abc" on rank 0']),
        ("code", ['code.model/heads.py is "0", but "', 'model/new.py is "1", but not there on']),
        ("versions", ['versions.torch is "99.0", but "']),
        ("environment", ['environment.NCCL_ALGO is "Ring", but not there on rank 0']),
        ("nothing", []),
    ],
    ids=str,
)
def test_a_rank_that_differs_is_named_on_all_ranks(what: str, parts: list[str]) -> None:
    messages = run_ranks(changed, 3, make_config(Path("rows"), Path("run")), what)
    assert len(set(messages)) == 1
    assert bool(messages[0]) == bool(parts)
    for part in parts:
        assert part in messages[0]
    assert f"rank 2 on {socket.gethostname()}: " in messages[0] or not parts
    assert "rank 1 on" not in messages[0]


def pretrain_with_own_seed(config: TrainConfig) -> str:
    seed = 7 + dist.get_rank()
    try:
        pretrain(config.model_copy(update={"seed": seed}))
    except UserError as error:
        return str(error)
    return ""


def test_a_launch_with_two_seeds_takes_no_step(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows", rows=64)
    config = make_config(tmp_path / "rows", tmp_path / "run")
    for message in run_ranks(pretrain_with_own_seed, 2, config):
        assert "config.seed is 8, but 7 on rank 0" in message
    assert not (config.output / "checkpoints").exists()
    assert not (config.output / "events.jsonl").exists()


def differ_in_all_files() -> str:
    hashes = {f"model/{n}.py": str(dist.get_rank()) for n in range(50)}
    with mock.patch.object(equal_ranks, "source_hashes", return_value=hashes):
        try:
            check_equal_ranks(make_config(Path("rows"), Path("run")), {})
        except UserError as error:
            return str(error)
    return ""


def test_the_message_stays_short() -> None:
    messages = run_ranks(differ_in_all_files, 4)
    assert messages[0].count("\n") <= MAX_LINES + 3
    assert f"and {3 * MAX_LINES - MAX_LINES} more" in messages[0]


def test_every_source_of_training_is_hashed(tmp_path: Path) -> None:
    hashes: Mapping[str, str] = source_hashes(equal_ranks.ROOT)
    for path in ("pipeline/engine/step.py", "model/heads.py", "configs/load.py"):
        assert path in hashes
    assert "data_prep/dataset/row_reader.py" in hashes

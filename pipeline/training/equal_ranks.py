"""Compares what the ranks of a launch train, and with what: config, data, code and packages.

Ranks that differ would train together without a word: with another seed on one rank, rows are
lost and seen twice; with other code, replicas drift apart.
"""

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from configs.differences import differences
from configs.load import UserError
from configs.redact import redact
from model.parallel.json_exchange import broadcast_json, gather_json
from pipeline.run.config import RunConfig
from pipeline.run.versions import versions

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("configs", "data_prep/dataset", "model", "pipeline")
VARIABLES = (
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("NCCL_ALGO", "NCCL_PROTO"),
)
"""Environment variables by which kernels compute different bits."""
MAX_LINES = 20


def check_equal_ranks(config: RunConfig, data: Mapping[str, str]) -> None:
    """Returns when all ranks agree; `data` are fingerprints of what is trained on. A collective.

    Raises UserError on all ranks alike, which names each rank that differs from rank 0, its host
    and the keys with both values.
    """
    if dist.get_world_size() == 1:
        return
    mine = json.loads(json.dumps(describe_rank(config, data)))
    found = differences(broadcast_json(mine), mine)
    differing = [[each.path, each.before, each.now] for each in found][:MAX_LINES]
    ranks = gather_json([socket.gethostname(), differing])
    first_host = ranks[0][0]
    lines = [
        f"  rank {rank} on {host}: {path} is {_shown(now)}, but {_shown(before)} on rank 0 "
        f"({first_host})"
        for rank, (host, differing) in enumerate(ranks)
        for path, before, now in differing
    ]
    if not lines:
        return
    more = [f"  and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    raise UserError(
        "the ranks of this launch differ:\n"
        + "\n".join([*lines[:MAX_LINES], *more])
        + "\nall ranks need the same config, data, code, packages and settings: start them with "
        "one command, on files that all nodes share"
    )


def describe_rank(config: RunConfig, data: Mapping[str, str]) -> dict[str, Any]:
    """All that has to be equal on the ranks of a launch."""
    return {
        "config": redact(config.model_dump(mode="json"), {}),
        "data": dict(data),
        "code": source_hashes(ROOT),
        "versions": {
            **versions(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        },
        "environment": {name: os.environ.get(name) for name in VARIABLES},
    }


def source_hashes(root: Path) -> dict[str, str]:
    """The start of the sha256 of each source file that training may import, by its path."""
    paths = [path for name in SOURCE_FOLDERS for path in (root / name).rglob("*.py")]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(paths)
    }


def _shown(value: Any) -> str:
    return "not there" if value is None else json.dumps(value, ensure_ascii=False)

"""What ranks tell each other arrives as it was sent, and nothing of this project sends pickles."""

import math
import re
from pathlib import Path
from typing import Any

import torch.distributed as dist

from model.parallel.json_exchange import broadcast_json, gather_json
from tests.gloo import run_ranks

ROOT = Path(__file__).parents[3]


def exchange() -> tuple[Any, list[Any]]:
    rank = dist.get_rank()
    return broadcast_json({"from": rank, "é": [0.1, 1e300]}), gather_json([rank] * (7 * rank))


def test_values_of_any_length() -> None:
    expected = ({"from": 0, "é": [0.1, 1e300]}, [[], [1] * 7, [2] * 14])
    assert run_ranks(exchange, 3) == [expected] * 3


def gather_numbers() -> list[float]:
    return [number for part in gather_json([math.pi, math.inf, math.nan]) for number in part]


def test_numbers_keep_every_bit() -> None:
    (numbers,) = run_ranks(gather_numbers, 1)
    assert numbers[:2] == [math.pi, math.inf]
    assert math.isnan(numbers[2])


def test_no_collective_of_the_project_sends_pickles() -> None:
    collective = re.compile(r"_object(_list)?\(")
    sources = [path for name in ("model", "pipeline") for path in (ROOT / name).rglob("*.py")]
    assert not [path for path in sources if collective.search(path.read_text())]

"""Runs ``pipeline/train.py``, but rank 1 finds its network faulty once the ranks have met."""

import os
import runpy
import sys
from unittest import mock

sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())

from configs.load import UserError  # noqa: E402
from pipeline.engine import start  # noqa: E402


def find_it_faulty(device: object) -> None:
    if os.environ["RANK"] == "1":
        raise UserError("an all-reduce of known result came out wrong on rank 1")


with mock.patch.object(start, "check_all_reduce", find_it_faulty):
    runpy.run_path("pipeline/train.py", run_name="__main__")

"""What ``python pipeline/train.py`` does, but rank 1 finds its network faulty after the meeting."""

import os
import runpy
import sys

sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())

import pipeline.engine.start as start  # noqa: E402
from configs.load import UserError  # noqa: E402


def find_it_faulty(device: object) -> None:
    if os.environ["RANK"] == "1":
        raise UserError("an all-reduce of known result came out wrong on rank 1")


start.check_all_reduce = find_it_faulty
runpy.run_path("pipeline/train.py", run_name="__main__")

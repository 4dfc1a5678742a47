"""One thread for all tests: OpenMP's threads do not survive the fork of `tests.gloo`."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

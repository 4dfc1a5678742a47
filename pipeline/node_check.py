"""Is this node fit to train on? ``srun --ntasks-per-node=1 python -m pipeline.node_check CONFIG``.

Looks at what ruins a run hours later or on one node of many: disk, shared folder, memory, /dev/shm,
clock, accelerators, and the versions of the packages. Imports nothing heavy.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from configs import command
from configs.load import UserError
from pipeline.finetuning.run_config import load_run
from pipeline.run.versions import versions

MIN_DISK_GB = 1.0
MIN_MEMORY_GB = 1.0
MIN_SHARED_MEMORY_GB = 0.06
"""64 MB is what containers give by default, and what loader workers can live with."""
MAX_CLOCK_DIFFERENCE_S = 60.0


def main() -> None:
    """``python -m pipeline.node_check CONFIG.yaml [--time NOW] [--accelerators N]``."""
    parser = command.parser("Check that this node is fit to train on.")
    parser.add_argument("--time", type=float, help="the clock of the first node, in Unix seconds")
    parser.add_argument("--accelerators", type=int, default=0, help="how many have to be visible")
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    host = socket.gethostname()
    problems = [
        *folder_problems(config.output),
        *memory_problems(),
        *clock_problems(arguments.time),
        *accelerator_problems(arguments.accelerators),
    ]
    if problems:
        raise UserError(f"node {host}: " + "; ".join(problems))
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"node {host}: fit ({arguments.accelerators or 'no'} accelerators; {found})", flush=True)


def folder_problems(output: Path) -> Iterator[str]:
    """What is wrong with the shared folder of the run, as seen from this node."""
    probe = output / f".probe-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        yield f"cannot write to {output} ({error.strerror})"
        return
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    free_gb = shutil.disk_usage(output).free / 1e9
    if free_gb < MIN_DISK_GB:
        yield f"{free_gb:.2f} GB are free in {output}, {MIN_DISK_GB:.0f} GB are needed"


def memory_problems() -> Iterator[str]:
    """Whether there is memory to start at all."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free_gb = int(meminfo["MemAvailable"].split()[0]) * 1024 / 1e9
    if free_gb < MIN_MEMORY_GB:
        yield f"{free_gb:.2f} GB of memory are free, {MIN_MEMORY_GB:.0f} GB are needed"
    shared = Path("/dev/shm")
    if not shared.exists() or shutil.disk_usage(shared).free / 1e9 < MIN_SHARED_MEMORY_GB:
        yield f"less than {1000 * MIN_SHARED_MEMORY_GB:.0f} MB are free in {shared}"


def clock_problems(reference_s: float | None) -> Iterator[str]:
    """Whether this clock agrees with the one of the first node."""
    if reference_s is None:
        return
    difference_s = time.time() - reference_s
    if abs(difference_s) > MAX_CLOCK_DIFFERENCE_S:
        yield f"the clock differs by {difference_s:+.0f} s from the first node's"


def accelerator_problems(expected: int) -> Iterator[str]:
    """Whether the driver answers and shows as many accelerators as ranks will run here."""
    if not expected:
        return
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except FileNotFoundError:
        yield "nvidia-smi is not installed, yet the job asks for accelerators"
        return
    except subprocess.TimeoutExpired:
        yield "nvidia-smi gave no answer in 60 s"
        return
    if done.returncode:
        yield f"nvidia-smi: {done.stderr.strip() or done.stdout.strip()}"
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(visible.split(",")) if visible else len(done.stdout.split())
    found = min(found, len(done.stdout.split()))
    if found < expected:
        yield f"{found} accelerators are visible, {expected} are needed"


if __name__ == "__main__":
    command.run(main)

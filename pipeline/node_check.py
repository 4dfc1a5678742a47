"""Health check of a node: ``srun --ntasks-per-node=1 python -m pipeline.node_check CONFIG``.

Checks what would make a run fail hours later, or on one node of many: disk, shared folder, memory,
/dev/shm, clock and accelerators; prints the versions of the packages. Imports nothing heavy.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs import command
from configs.load import UserError
from pipeline.finetuning.run_config import load_run
from pipeline.run.versions import versions

MIN_DISK_GB = 1.0
MIN_MEMORY_GB = 1.0
MIN_SHARED_MEMORY_GB = 0.06
"""Containers have 64 MB by default, which is enough for loader workers."""
MAX_CLOCK_DIFFERENCE_S = 60.0


@dataclass(frozen=True)
class Driver:
    """How a vendor's driver lists its accelerators."""

    command: tuple[str, ...]
    line: str
    """Matches a line of an accelerator."""
    visible: tuple[str, ...]
    """Variables that name those which a process may use."""


DRIVERS = (
    Driver(
        ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader"),
        r"^\d+\s*$",
        ("CUDA_VISIBLE_DEVICES",),
    ),
    Driver(
        ("rocm-smi", "--showmeminfo", "vram", "--csv"),
        r"^card\d+,",
        ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    ),
)


def main() -> None:
    """``python -m pipeline.node_check CONFIG.yaml [--time NOW] [--accelerators N]``."""
    parser = command.parser("Check that this node can train: disk, memory, clock, accelerators.")
    parser.add_argument("--time", type=float, help="the clock of the first node (Unix time)")
    parser.add_argument("--accelerators", type=int, default=0, help="how many must be visible")
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
    print(f"node {host}: ok ({arguments.accelerators or 'no'} accelerators; {found})", flush=True)


def folder_problems(output: Path) -> Iterator[str]:
    """Problems of the run's shared folder, as seen from this node."""
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
        yield f"{free_gb:.2f} GB free in {output}, {MIN_DISK_GB:.0f} GB required"


def memory_problems() -> Iterator[str]:
    """Problems of memory and shared memory."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free_gb = int(meminfo["MemAvailable"].split()[0]) * 1024 / 1e9
    if free_gb < MIN_MEMORY_GB:
        yield f"{free_gb:.2f} GB of memory free, {MIN_MEMORY_GB:.0f} GB required"
    shared = Path("/dev/shm")
    if not shared.exists() or shutil.disk_usage(shared).free / 1e9 < MIN_SHARED_MEMORY_GB:
        yield f"less than {1000 * MIN_SHARED_MEMORY_GB:.0f} MB free in {shared}"


def clock_problems(reference_s: float | None) -> Iterator[str]:
    """Problems of this clock compared with `reference_s`, the first node's clock (Unix time)."""
    if reference_s is None:
        return
    difference_s = time.time() - reference_s
    if abs(difference_s) > MAX_CLOCK_DIFFERENCE_S:
        yield f"the clock differs by {difference_s:+.0f} s from the first node's"


def accelerator_problems(expected: int) -> Iterator[str]:
    """Problems of the driver, and fewer visible accelerators than ranks on this node."""
    if not expected:
        return
    driver = next((one for one in DRIVERS if shutil.which(one.command[0])), None)
    if driver is None:
        names = " nor ".join(one.command[0] for one in DRIVERS)
        yield f"neither {names} is installed, but the job requests accelerators"
        return
    program = driver.command[0]
    try:
        done = subprocess.run(driver.command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        yield f"{program} did not answer within 60 s"
        return
    if done.returncode:
        yield f"{program}: {done.stderr.strip() or done.stdout.strip()}"
        return
    found = len(re.findall(driver.line, done.stdout, re.MULTILINE))
    for variable in driver.visible:
        if chosen := os.environ.get(variable):
            found = min(found, len(chosen.split(",")))
    if found < expected:
        yield f"{found} accelerators visible, {expected} required"


if __name__ == "__main__":
    command.run(main)

"""Runs a function on forked ranks of this machine: `run_ranks(fn, world_size, *args)`.

What the parent has imported need not be imported again: a rank starts in a tenth of a second. The
parent must not use CUDA, which a forked process cannot take over: where it wants something of a
GPU, it asks a rank.
"""

import datetime
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

# As in model/__init__.py, for parents that import DeepSpeed, which asks too, before a model.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

TIMEOUT_S = 120.0


class RankError(AssertionError):
    """A rank failed; the message holds its traceback."""


def run_ranks(
    fn: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout_s: float = TIMEOUT_S,
    device: Literal["cpu", "cuda"] = "cpu",
) -> list[Any]:
    """What `fn(*args)` returned on each of `world_size` ranks, inside an initialised world.

    The world is gloo's on CPU ranks, which see no GPU whatever the machine has, and NCCL's on
    "cuda", a GPU a rank.

    Raises RankError with the traceback of the first rank that failed; after `timeout_s` seconds
    all ranks are killed and the error says which had not come back.

    The calling process must not have made a gloo world of its own before: what gloo leaves behind
    (a thread) is dead in ranks forked later, which then hang.
    """
    with tempfile.TemporaryDirectory() as folder:
        pids = [
            _fork_rank(fn, args, rank, world_size, device, Path(folder))
            for rank in range(world_size)
        ]
        missing = _wait(pids, Path(folder), timeout_s)
        errors = [
            f"rank {rank}:\n{file.read_text()}"
            for rank in range(world_size)
            if (file := Path(folder, f"{rank}.error")).exists()
        ]
        if errors:
            raise RankError("\n".join(errors))
        if missing:
            raise RankError(f"ranks {missing} died or gave no answer within {timeout_s} s")
        return [
            pickle.loads(Path(folder, f"{rank}.result").read_bytes()) for rank in range(world_size)
        ]


def _fork_rank(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    rank: int,
    world_size: int,
    device: str,
    folder: Path,
) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            OMP_NUM_THREADS="1",
        )
        if device == "cuda":
            torch.cuda.set_device(rank)
        else:
            _hide_cuda()
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=dist.FileStore(str(folder / "store"), world_size),
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=60),
            device_id=torch.device("cuda", rank) if device == "cuda" else None,
        )
        result = fn(*args)
        temporary = folder / f"{rank}.writing"
        temporary.write_bytes(pickle.dumps(result))
        temporary.rename(folder / f"{rank}.result")
        # Not a collective: a rank that left it first would close its connections to the others.
        while len(list(folder.glob("*.result"))) < world_size:
            time.sleep(0.002)
        code = 0
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
    finally:
        os._exit(code)  # no cleanup of what the parent owns: pytest's files, its own world


def _hide_cuda() -> None:
    """No CUDA in this process and in those that it starts, also where the parent saw some."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.cuda.is_available = lambda: False  # what the parent found out is remembered


def _wait(pids: list[int], folder: Path, timeout_s: float) -> list[int]:
    """Waits for all ranks, kills the rest after a failure or the timeout; ranks without result."""
    alive = dict(enumerate(pids))
    deadline = time.monotonic() + timeout_s
    while alive:
        for rank, pid in list(alive.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del alive[rank]
                if status:
                    # The others would wait for it in a collective; an error may be theirs first.
                    grace_s = 0.1 if os.WIFSIGNALED(status) else 1.0
                    deadline = min(deadline, time.monotonic() + grace_s)
        if time.monotonic() > deadline:
            for pid in alive.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            break
        time.sleep(0.005)
    return [rank for rank in range(len(pids)) if not (folder / f"{rank}.result").exists()]

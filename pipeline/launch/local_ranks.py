"""Runs a function on forked ranks of this machine: `run_ranks(fn, world_size, *args)`.

What the parent has imported is not imported again: a rank starts in a tenth of a second. The parent
must not use CUDA, which a forked process cannot use after it: work on a GPU is done in a rank.
"""

import datetime
import gc
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
from torch._C._distributed_c10d import FileStore

from pipeline.launch.rendezvous import use_loopback

# As in model/__init__.py, for parents that import DeepSpeed, which checks for CUDA, before a model.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

TIMEOUT_S = 300.0


class RankError(AssertionError):
    """A rank failed; the message holds its traceback."""


def run_ranks(
    fn: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout_s: float = TIMEOUT_S,
    device: Literal["cpu", "cuda"] = "cpu",
) -> list[Any]:
    """What `fn(*args)` returned on each of `world_size` ranks, inside an initialised process group.

    It is a gloo group of CPU ranks, which see no GPU of the machine, or an NCCL group ("cuda") with
    one GPU per rank.

    Raises RankError with the tracebacks of the ranks that failed; after `timeout_s` seconds all
    ranks are killed and the error names those without a result.

    The calling process must not have made a gloo process group before: gloo's thread does not exist
    in ranks forked later, which then hang.
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
            raise RankError(f"ranks {missing} died or returned nothing within {timeout_s} s")
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
        gc.freeze()  # a full collection need not walk what the parent has imported
        torch.set_num_threads(1)
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            OMP_NUM_THREADS="1",
        )
        use_loopback()
        if device == "cuda":
            torch.cuda.set_device(rank)
        else:
            _hide_cuda()
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=FileStore(str(folder / "store"), world_size),
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=60),
            device_id=torch.device("cuda", rank) if device == "cuda" else None,
        )
        result = fn(*args)
        temporary = folder / f"{rank}.writing"
        temporary.write_bytes(pickle.dumps(result))
        temporary.rename(folder / f"{rank}.result")
        # Not a collective: the first rank to leave it would close its connections to the rest.
        while len(list(folder.glob("*.result"))) < world_size:
            time.sleep(0.002)
        code = 0
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
    finally:
        os._exit(code)  # no cleanup of what the parent owns, such as pytest's files


def _hide_cuda() -> None:
    """Hides CUDA from this process and from those that it starts.

    Reason: the environment variable alone has no effect once torch has counted devices in the
    parent: it keeps the number over the fork.
    Upstream: `device_count` (`_cached_device_count`) in torch/cuda/__init__.py (2.13).
    Remove when: torch counts devices again after `CUDA_VISIBLE_DEVICES` has changed.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.cuda.is_available = lambda: False


def _wait(pids: list[int], folder: Path, timeout_s: float) -> list[int]:
    """Waits for all ranks and returns those without a result.

    After a failure or the timeout it kills the remaining ones.
    """
    alive = dict(enumerate(pids))
    deadline = time.monotonic() + timeout_s
    while alive:
        for rank, pid in list(alive.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del alive[rank]
                if status:
                    # Its peers wait for it in a collective; the first error may be one of theirs.
                    grace_s = 0.1 if os.WIFSIGNALED(status) else 1.0
                    deadline = min(deadline, time.monotonic() + grace_s)
        if time.monotonic() > deadline:
            for pid in alive.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            break
        time.sleep(0.005)
    return [rank for rank in range(len(pids)) if not (folder / f"{rank}.result").exists()]

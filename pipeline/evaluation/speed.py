"""Time and memory of the encoder's forward pass on this machine."""

import platform
import re
import resource
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.config import SpeedConfig
from pipeline.evaluation.models import FoundModel
from pipeline.evaluation.results import CheckResult, Measure

if TYPE_CHECKING:
    from model.heads import MaskedLanguageModel

MIN_REPEAT_S = 0.2
"""Batches that take less are repeated until so much time has passed, for each of the repeats."""
SEED = 0
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def speed_check(
    model: FoundModel, module: "MaskedLanguageModel", config: SpeedConfig
) -> CheckResult:
    """Tokens a second and peak memory for each length of rows.

    Rows are full and of random ordinary tokens. The vocabulary head is not computed. Memory is that
    of the whole process (its resident set) on a CPU, that of torch's tensors on a GPU.
    """
    measures, left_out = [], {}
    for row_tokens in dict.fromkeys(config.row_tokens):
        if row_tokens > model.config.max_row_tokens:
            left_out[f"length of rows, {row_tokens} tokens, which the model does not take"] = 1
            continue
        measures += _measured(model, module, config, row_tokens)
    return CheckResult(tuple(measures), left_out)


def machine() -> dict[str, Any]:
    """What times depend on: processor, threads, device."""
    import torch

    facts: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    if torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name()
    return facts


def _measured(
    model: FoundModel, module: "MaskedLanguageModel", config: SpeedConfig, row_tokens: int
) -> list[Measure]:
    import torch

    device = next(module.parameters()).device
    special = {model.special.bos, model.special.eos, model.special.pad, model.special.mask}
    ordinary = np.setdiff1d(np.arange(model.vocab_size), sorted(special))
    size = (config.batch_rows, row_tokens)
    rows = np.random.default_rng(SEED).choice(ordinary, size=size)
    rows[:, 0], rows[:, -1] = model.special.bos, model.special.eos
    tokens = torch.from_numpy(rows).to(device)

    def run() -> None:
        module.encoder(tokens)
        if device.type == "cuda":
            torch.cuda.synchronize()

    _reset_peak(device)
    times = []
    with torch.inference_mode():
        run()  # the first one also allocates
        for _ in range(config.repeats):
            start, count = time.perf_counter(), 0
            while not count or time.perf_counter() - start < MIN_REPEAT_S:
                run()
                count += 1
            times.append((time.perf_counter() - start) / count)
    seconds = statistics.median(times)
    group = f"{config.batch_rows} x {row_tokens}"
    rates = sorted(tokens.numel() / each for each in times)
    return [
        Measure("tokens_per_s", tokens.numel() / seconds, group, rates[0], rates[-1], len(times)),
        Measure("batch_ms", 1000 * seconds, group, count=len(times)),
        Measure("peak_memory_mb", _peak_bytes(device) / 1e6, group),
    ]


def _reset_peak(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        _CLEAR.write_text("5")  # man 5 proc: resets the peak of the resident set
    except OSError:
        return  # not Linux, or not allowed: the peak is then that of the process so far


def _peak_bytes(device: Any) -> int:
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()

"""Samples processors, memory, disk, network and accelerators of a node in a separate process.

The first rank of each node starts the process. It appends to ``system/HOST.jsonl`` in the run's
folder, which the sender beside rank 0 reads. Each sample carries the optimizer step of the run at
that time. The file is started by its path and imports nothing but the standard library.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PERIOD_S = 10.0
FIRST_SAMPLE_S = 1.0
GPU_FIELDS = {
    "utilization.gpu": "gpu_{}_utilization_percent",
    "memory.used": "gpu_{}_memory_mb",
    "power.draw": "gpu_{}_power_w",
    "temperature.gpu": "gpu_{}_temperature_c",
}


def start_sampler(output: Path) -> "subprocess.Popen[bytes]":
    """Starts a process that samples this node until its standard input is closed."""
    command_line = [sys.executable, "-S", str(Path(__file__).resolve()), str(output.resolve())]
    return subprocess.Popen(command_line, stdin=subprocess.PIPE, start_new_session=True)


def stop_sampler(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process after a last sample."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_seconds() -> tuple[float, float]:
    """(busy, total) seconds of all processors since the machine started."""
    fields = [float(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / 100, sum(fields) / 100


def network_bytes() -> tuple[int, int]:
    """(received, sent) bytes of all network interfaces except the loopback."""
    received = sent = 0
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            fields = numbers.split()
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent


def memory_mb() -> tuple[float, float]:
    """(used, total) memory in MB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {line.split(":")[0]: float(line.split()[1]) for line in lines}
    total, free = kilobytes["MemTotal"], kilobytes["MemAvailable"]
    return (total - free) / 1e3, total / 1e3


def gpu_values() -> Iterator[tuple[str, float]]:
    """(metric name, value) of each accelerator from nvidia-smi; nothing without accelerators."""
    if shutil.which("nvidia-smi") is None:
        return
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    for number, line in enumerate(done.stdout.splitlines() if done.returncode == 0 else ()):
        for name, text in zip(GPU_FIELDS.values(), line.split(","), strict=True):
            if text.strip().replace(".", "", 1).isdigit():  # "[N/A]" where it cannot measure
                yield name.format(number), float(text)


def sample(output: Path, since: tuple[float, float]) -> dict[str, float]:
    """The values now, by metric name; `since` is `cpu_seconds` at the previous sample."""
    busy, total = (now - before for now, before in zip(cpu_seconds(), since, strict=True))
    used_mb, total_mb = memory_mb()
    received, sent = network_bytes()
    values = {
        "cpu_percent": 100 * busy / total if total > 0 else 0.0,
        "memory_used_mb": used_mb,
        "memory_used_percent": 100 * used_mb / total_mb,
        "disk_free_gb": shutil.disk_usage(output).free / 1e9,
        "network_received_mb": received / 1e6,
        "network_sent_mb": sent / 1e6,
        **dict(gpu_values()),
    }
    host = socket.gethostname()
    return {f"system/{host}/{name}": value for name, value in values.items()}


def last_step(event_log: Path) -> int:
    """The last optimizer step in a run's event log, 0 before the first."""
    if not event_log.exists():
        return 0
    with event_log.open("rb") as stream:
        stream.seek(max(0, event_log.stat().st_size - 20_000))
        for line in reversed(stream.read().splitlines()):
            try:
                event = json.loads(line)
            except ValueError:  # the cut start of a line, or a line being written
                continue
            if event["kind"] == "metrics":
                return int(event["step"])
    return 0


def main(output: Path) -> None:
    """Samples every PERIOD_S seconds until standard input ends."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    path = output / "system" / f"{socket.gethostname()}.jsonl"
    path.parent.mkdir(exist_ok=True)
    interval_s = FIRST_SAMPLE_S
    ended = False
    while not ended:
        since = cpu_seconds()
        ended = bool(select.select([sys.stdin], [], [], interval_s)[0])
        event = {
            "kind": "system",
            "time_ms": int(time.time() * 1000),
            "step": last_step(output / "events.jsonl"),
            "values": sample(output, since),
        }
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, (json.dumps(event) + "\n").encode())
        os.close(descriptor)
        interval_s = PERIOD_S


if __name__ == "__main__":
    main(Path(sys.argv[1]))

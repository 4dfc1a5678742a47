"""A real Slurm cluster on this machine: munge, slurmctld and several slurmd; needs root.

Where the kernel allows it, each node has its own PID, network, UTS and mount namespaces: its own
host name, address, ports and /dev/shm. What works only on localhost fails here as it does on a
cluster. Otherwise the nodes share the host and differ by port. The nodes' GPUs are fake devices:
``--gpus-per-node`` and CUDA_VISIBLE_DEVICES behave as on a GPU cluster.

    python -m tests.slurm.cluster up [NODES]     then: export SLURM_CONF=/run/slurm-test/slurm.conf
    python -m tests.slurm.cluster down
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.slurm.cluster_files import BOOT, NETWORK, node_address, node_number, write_files

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip", "unshare")
FOLDER = Path("/run/slurm-test")
BRIDGE = "slurmt"


def why_unavailable() -> str | None:
    """The reason why no cluster can be started here, None if there is none."""
    if os.geteuid() != 0:
        return "a Slurm test cluster needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        packages = "slurmctld slurmd slurm-client munge iproute2"
        return f"not installed: {', '.join(missing)} (Debian: {packages})"
    return None


FINAL_STATES = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY")
"""States of a job that has ended; all others, such as SIGNALING, lead on."""


class Cluster:
    """A cluster whose files are in `folder`."""

    def __init__(self, folder: Path = FOLDER, num_nodes: int = 2) -> None:
        self.folder = folder
        self._isolated = True
        self.nodes = [f"node{number}" for number in range(1, num_nodes + 1)]
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": _path(),
        }

    def up(self) -> None:
        """Starts the daemons and returns when all nodes are idle."""
        self.down()
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("state", "spool", "dev", "keys"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "keys").chmod(0o700)
        self._isolated = self._make_bridge()
        (self.folder / "mode").write_text("isolated" if self._isolated else "shared")
        write_files(self.folder, self.nodes, self._isolated)
        key = self.folder / "keys" / "munge"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._call(
            *("munged", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket"),
            *(f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log"),
            f"--seed-file={self.folder}/keys/seed",
        )
        self._call("slurmctld", "-f", f"{self.folder}/slurm.conf")
        for node in self.nodes:
            self.start(node)
        self.wait_idle()

    def down(self) -> None:
        """Ends all jobs and daemons of this cluster, also those of an earlier process."""
        if (self.folder / "slurmctld.pid").exists():
            with contextlib.suppress(subprocess.SubprocessError):
                self._call("scancel", "--user=root", timeout_s=10)
                self._wait_for(lambda: self.output("squeue", "-h") == "", 30, "jobs to end")
        for pid_file in sorted(self.folder.glob("spool/node*.pid")):
            self.fail(pid_file.stem)
        for name in ("slurmctld", "munged"):
            self._end(self.folder / f"{name}.pid", signal.SIGTERM)
        mode = self.folder / "mode"
        if mode.exists() and mode.read_text() == "isolated":
            subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)
        mode.unlink(missing_ok=True)

    def start(self, node: str) -> None:
        """Boots one node."""
        spool = self.folder / "spool" / node
        spool.mkdir(exist_ok=True)
        if not self._isolated:
            self._call("slurmd", "-b", "-f", f"{self.folder}/slurm.conf", "-N", node)
            return
        boot = BOOT.format(name=node, folder=self.folder, address=node_address(node))
        with (self.folder / f"{node}.out").open("ab") as output:
            process = subprocess.Popen(
                [
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"),
                    *("--net", "--mount", "bash", "-c", boot, str(self.folder)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,
            )
        (self.folder / "spool" / f"{node}.boot").write_text(str(process.pid))
        own = os.readlink("/proc/self/ns/net")
        namespace = f"/proc/{process.pid}/ns/net"
        self._wait_for(lambda: os.readlink(namespace) != own, 10, f"{node}'s network namespace")
        link = f"{BRIDGE}-{node_number(node)}"
        self._call(
            *("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0"),
            *("netns", str(process.pid)),
        )
        self._call("ip", "link", "set", link, "master", BRIDGE, "up")

    def fail(self, node: str) -> None:
        """Simulates a power failure of a node: connections are cut and all its processes killed."""
        subprocess.run(
            ["ip", "link", "del", f"{BRIDGE}-{node_number(node)}"],
            check=False,
            capture_output=True,
        )
        pid_file = self.folder / "spool" / f"{node}.pid"
        boot_file = self.folder / "spool" / f"{node}.boot"
        if boot_file.exists():  # `unshare --kill-child` also kills process 1 of the node
            self._end(boot_file, signal.SIGKILL)
            pid_file.unlink(missing_ok=True)
            return
        self._end(pid_file, signal.SIGKILL)
        mark = f"SLURMD_NODENAME={node}\0".encode()
        for process in self._processes():
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
                    if (Path("/proc") / parent / "comm").read_text().strip() == "slurmstepd":
                        os.kill(int(parent), signal.SIGKILL)
                    os.kill(int(process.name), signal.SIGKILL)

    def wait_idle(self, timeout_s: float = 60) -> None:
        """Returns when every node is idle."""

        def idle() -> bool:
            lines = self.output("sinfo", "-h", "-N", "-o", "%N %t").splitlines()
            return set(lines) == {f"{node} idle" for node in self.nodes}

        self._wait_for(idle, timeout_s, "idle nodes")

    def output(self, *command: str) -> str:
        """The output of one of Slurm's commands; raises RuntimeError if it failed."""
        return self._call(*command).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of ``scontrol show job``."""
        words = self.output("scontrol", "--oneliner", "show", "job", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_job(self, job_id: str, timeout_s: float = 240) -> dict[str, str]:
        """The job's fields after its end, when it will not be requeued."""
        self._wait_for(
            lambda: self.job(job_id)["JobState"] in FINAL_STATES,
            timeout_s,
            f"the end of job {job_id}",
        )
        return self.job(job_id)

    def _make_bridge(self) -> bool:
        """Whether nodes can have their own namespaces; makes the network that connects them."""
        subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)
        commands = [
            ("unshare", "--pid", "--fork", "--mount-proc", "--uts", "--net", "--mount", "true"),
            ("ip", "link", "add", BRIDGE, "type", "bridge"),
            ("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE),
            ("ip", "link", "set", BRIDGE, "up"),
        ]
        return all(
            subprocess.run(command, check=False, capture_output=True).returncode == 0
            for command in commands
        )

    def _call(self, *command: str, timeout_s: float = 60) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def _processes(self) -> list[Path]:
        return [path for path in Path("/proc").iterdir() if path.name.isdigit()]

    def _end(self, pid_file: Path, number: signal.Signals) -> None:
        """Ends the process of `pid_file` if it still belongs to this cluster."""
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text() or 0)
        command_line = Path(f"/proc/{pid}/cmdline")
        with contextlib.suppress(OSError):
            if str(self.folder).encode() in command_line.read_bytes():
                os.kill(pid, number)
                deadline = time.monotonic() + 5
                while command_line.read_bytes() and time.monotonic() < deadline:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                    time.sleep(0.05)
                os.kill(pid, signal.SIGKILL)
        pid_file.unlink(missing_ok=True)

    def _wait_for(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not after {timeout_s:.0f} s; see {self.folder}/*.log")
            time.sleep(0.2)


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


def main(arguments: Sequence[str]) -> None:
    """``up [NODES]`` or ``down``, for developers."""
    if not arguments or arguments[0] not in ("up", "down"):
        sys.exit(__doc__)
    reason = why_unavailable()
    if reason:
        sys.exit(reason)
    cluster = Cluster(num_nodes=int(arguments[1]) if len(arguments) > 1 else 2)
    if arguments[0] == "down":
        cluster.down()
        return
    cluster.up()
    print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")


if __name__ == "__main__":
    main(sys.argv[1:])

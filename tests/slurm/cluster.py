"""A real Slurm cluster on this machine: munge, slurmctld and several slurmd, as root, no systemd.

Where the kernel allows it every node lives in PID, network, UTS and mount namespaces of its own: it
has its own host name, address, ports and /dev/shm, so that what only works on localhost fails here
as it does on a cluster. Otherwise the nodes share the host and differ by port. Nodes offer GPUs
that are only names, enough for ``--gpus-per-node`` and CUDA_VISIBLE_DEVICES to behave.

    python -m tests.slurm.cluster up [NODES]     then: export SLURM_CONF=/run/slurm-test/slurm.conf
    python -m tests.slurm.cluster down
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip", "unshare")
FOLDER = Path("/run/slurm-test")
CONTROLLER_PORT = 27817
NETWORK = "10.78.0"
BRIDGE = "slurmt"
GPUS_PER_NODE = 8
CPUS_PER_NODE = 16
NODE_TIMEOUT_S = 12
"""After so long without an answer a node is down and its jobs are requeued."""

CONFIG = """\
ClusterName=test
SlurmctldHost={host}({controller})
SlurmctldPort={port}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/spool/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
Epilog={folder}/epilog
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=5
PropagateResourceLimits=NONE
ReturnToService=2
SlurmdTimeout={node_timeout_s}
KillWait=10
MinJobAge=86400
GresTypes=gpu
"""

EPILOG = """\
#!/bin/bash
# A cluster with cgroups ends what a job left on the node; here its environment gives it away.
for entry in $(grep -lzxF -- "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ 2>/dev/null); do
  pid=${entry#/proc/}; pid=${pid%/environ}
  [[ $pid != "$$" ]] || continue
  grep -qzxF -- "SLURMD_NODENAME=$SLURMD_NODENAME" "$entry" 2>/dev/null || continue
  ! grep -qz epilog "/proc/$pid/cmdline" 2>/dev/null && kill -KILL "$pid" 2>/dev/null
done
true
"""

BOOT = """\
hostname {name}
mount --bind {folder}/hosts /etc/hosts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip addr add {address}/24 dev eth0
ip link set lo up
ip link set eth0 up
slurmd -D -b -f {folder}/slurm.conf -N {name} &
wait $!
"""
"""Runs as process 1 of a node; not `exec slurmd`, since process 1 has to reap orphans."""


def why_not() -> str | None:
    """What keeps a cluster from being started here, None when nothing does."""
    if os.geteuid() != 0:
        return "a Slurm test cluster needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurm-wlm munge iproute2)"
    return None


class Cluster:
    """The cluster in `folder`; `up` starts it, `down` ends every process that `up` started."""

    def __init__(self, folder: Path = FOLDER, num_nodes: int = 2) -> None:
        self.folder = folder
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
        self._write_config()
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
        """Ends all jobs and daemons of this cluster, and of one that was left over."""
        if (self.folder / "slurmctld.pid").exists():
            with contextlib.suppress(subprocess.SubprocessError):
                self._call("scancel", "--user=root", timeout_s=10)
                self._wait_for(lambda: not self.output("squeue", "-h"), 30, "jobs to end")
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
        boot = BOOT.format(name=node, folder=self.folder, address=self._address(node))
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
        link = f"{BRIDGE}-{self._number(node)}"
        self._call(
            *("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0"),
            *("netns", str(process.pid)),
        )
        self._call("ip", "link", "set", link, "master", BRIDGE, "up")

    def fail(self, node: str) -> None:
        """Cuts the power of one node: its peers see no goodbye, and all that ran there is gone."""
        subprocess.run(
            ["ip", "link", "del", f"{BRIDGE}-{self._number(node)}"],
            check=False,
            capture_output=True,
        )
        pid_file = self.folder / "spool" / f"{node}.pid"
        boot_file = self.folder / "spool" / f"{node}.boot"
        if boot_file.exists():  # `unshare --kill-child` takes process 1 of the node with it
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
        """What one of Slurm's commands printed; raises CalledProcessError when it failed."""
        return self._call(*command).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of ``scontrol show job``."""
        words = self.output("scontrol", "--oneliner", "show", "job", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_job(self, job_id: str, timeout_s: float = 240) -> dict[str, str]:
        """The job's fields once it has ended for good."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY")
        self._wait_for(
            lambda: self.job(job_id)["JobState"] in final, timeout_s, f"the end of job {job_id}"
        )
        return self.job(job_id)

    def _write_config(self) -> None:
        host = socket.gethostname()
        controller = f"{NETWORK}.1" if self._isolated else "127.0.0.1"
        lines = [
            CONFIG.format(
                host=host,
                controller=controller,
                port=CONTROLLER_PORT,
                folder=self.folder,
                node_timeout_s=NODE_TIMEOUT_S,
            )
        ]
        hosts = ["127.0.0.1 localhost", f"{controller} {host}"]
        for node in self.nodes:
            number = self._number(node)
            if self._isolated:
                where = f"NodeAddr={self._address(node)} Port={CONTROLLER_PORT + 1}"
                hosts.append(f"{self._address(node)} {node}")
            else:
                where = f"NodeAddr=127.0.0.1 NodeHostname={host} Port={CONTROLLER_PORT + number}"
            lines.append(
                f"NodeName={node} {where} CPUs={CPUS_PER_NODE} RealMemory=200000 "
                f"Gres=gpu:{GPUS_PER_NODE}\n"
            )
        lines.append("PartitionName=test Nodes=ALL Default=YES State=UP MaxTime=INFINITE\n")
        (self.folder / "slurm.conf").write_text("".join(lines))
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        # Without this Slurm looks for the machine's cgroups, and gives up where there are none.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for number in range(GPUS_PER_NODE):  # a GPU has to be a character device
            (self.folder / "dev" / f"nvidia{number}").symlink_to("/dev/null")
        (self.folder / "gres.conf").write_text(
            f"AutoDetect=off\nName=gpu File={self.folder}/dev/nvidia[0-{GPUS_PER_NODE - 1}]\n"
        )
        (self.folder / "epilog").write_text(EPILOG)
        (self.folder / "epilog").chmod(0o755)

    def _make_bridge(self) -> bool:
        """Whether nodes can have namespaces of their own; makes the network that joins them."""
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

    def _number(self, node: str) -> int:
        return int(node.removeprefix("node"))

    def _address(self, node: str) -> str:
        return f"{NETWORK}.{10 + self._number(node)}"

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
        """Ends the process of `pid_file` if it is still the one that was started for us."""
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

    def _wait_for(self, condition, timeout_s: float, what: str) -> None:  # type: ignore[no-untyped-def]
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
    reason = why_not()
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

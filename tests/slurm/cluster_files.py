"""Configuration files of the test cluster: slurm.conf, gres.conf, hosts, the epilog."""

import socket
from collections.abc import Sequence
from pathlib import Path

CONTROLLER_PORT = 27817
NETWORK = "10.78.0"
GPUS_PER_NODE = 8
CPUS_PER_NODE = 16
NODE_TIMEOUT_S = 12
"""A node that does not answer for so long is down, and its jobs are requeued."""

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
# On a cluster, cgroups end the processes that a job left; here their environment identifies them.
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
"""Process 1 of a node. Not `exec slurmd`, because process 1 must reap orphans."""


def node_address(node: str) -> str:
    """The IP address of "node3", if it has its own network namespace."""
    return f"{NETWORK}.{10 + node_number(node)}"


def node_number(node: str) -> int:
    """3 for "node3"."""
    return int(node.removeprefix("node"))


def write_files(folder: Path, nodes: Sequence[str], isolated: bool) -> None:
    """Writes the files for `nodes`, which have their own namespaces if `isolated`."""
    host = socket.gethostname()
    controller = f"{NETWORK}.1" if isolated else "127.0.0.1"
    lines = [
        CONFIG.format(
            host=host,
            controller=controller,
            port=CONTROLLER_PORT,
            folder=folder,
            node_timeout_s=NODE_TIMEOUT_S,
        )
    ]
    hosts = ["127.0.0.1 localhost", f"{controller} {host}"]
    for node in nodes:
        if isolated:
            where = f"NodeAddr={node_address(node)} Port={CONTROLLER_PORT + 1}"
            hosts.append(f"{node_address(node)} {node}")
        else:
            port = CONTROLLER_PORT + node_number(node)
            where = f"NodeAddr=127.0.0.1 NodeHostname={host} Port={port}"
        lines.append(
            f"NodeName={node} {where} CPUs={CPUS_PER_NODE} RealMemory=200000 "
            f"Gres=gpu:{GPUS_PER_NODE}\n"
        )
    lines.append("PartitionName=test Nodes=ALL Default=YES State=UP MaxTime=INFINITE\n")
    (folder / "slurm.conf").write_text("".join(lines))
    (folder / "hosts").write_text("\n".join(hosts) + "\n")
    # Without this file Slurm requires that cgroups are mounted.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    for number in range(GPUS_PER_NODE):  # a GPU must be a character device
        (folder / "dev" / f"nvidia{number}").symlink_to("/dev/null")
    (folder / "gres.conf").write_text(
        f"AutoDetect=off\nName=gpu File={folder}/dev/nvidia[0-{GPUS_PER_NODE - 1}]\n"
    )
    (folder / "epilog").write_text(EPILOG)
    (folder / "epilog").chmod(0o755)

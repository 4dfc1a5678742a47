"""The processor cores and the memory that this process may use.

A container or a batch job often allows less than the machine has: by the set of cores, by a quota
of processor time, and by a memory limit of the control group (cgroup), version 1 or 2, or of one
that it lies in.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True)
class Resources:
    """What may be used, and what limits it."""

    cpus: int
    cpus_by: str
    """What limits the cores, for a message."""
    memory_bytes: int | None
    """Limit of the control groups; None if they have none."""


def usable_resources(
    proc: Path = Path("/proc/self"), environment: Mapping[str, str] = os.environ
) -> Resources:
    """The cores and the memory for this process and those that it starts.

    `proc` holds the files cgroup and mountinfo. Of a quota that is no whole number of cores, the
    whole number below it, and at least one core.
    """
    limits = [(float(len(os.sched_getaffinity(0))), "cores of this process")]
    slurm = environment.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal() and int(slurm) > 0:
        limits.append((float(slurm), "SLURM_CPUS_PER_TASK"))
    groups = list(_groups(proc))
    limits += [(quota, f"the CPU quota of {group}") for group in groups for quota in _quotas(group)]
    cpus, cpus_by = min(limits)
    memory = min((limit for group in groups for limit in _memory_limits(group)), default=None)
    return Resources(max(1, int(cpus)), cpus_by, memory)


def node_memory_bytes() -> int:
    """The memory of this machine, or the part of it that its control groups allow."""
    limit = usable_resources().memory_bytes
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return physical if limit is None else min(limit, physical)


def _groups(proc: Path) -> Iterator[Path]:
    """The folders of the control groups of this process, and of all that they lie in."""
    try:
        paths = dict(_paths_by_controller((proc / "cgroup").read_text()))
        mounts = list(_mounts((proc / "mountinfo").read_text()))
    except OSError:  # no control groups on this system
        return
    for controllers, root, mount in mounts:
        for controller in controllers & paths.keys():
            path = PurePosixPath(paths[controller])
            # In a container, the path may be that outside of it, of which only the mount is seen.
            inside = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
            folder = mount / inside
            folder = folder if folder.is_dir() else mount
            yield folder
            yield from (parent for parent in folder.parents if parent.is_relative_to(mount))


def _paths_by_controller(text: str) -> Iterator[tuple[str, str]]:
    """(controller, path) of the lines of /proc/self/cgroup; that of version 2 has no name."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        yield from ((controller, path) for controller in controllers.split(","))


def _mounts(text: str) -> Iterator[tuple[set[str], str, Path]]:
    """(controllers, root, mount point) of the file systems of control groups."""
    for line in text.splitlines():
        mount, _, system = line.partition(" - ")
        fields, (kind, _, options) = mount.split(), system.split(" ", 2)
        root, point = (_unescaped(field) for field in fields[3:5])
        if kind == "cgroup2":
            yield {""}, root, Path(point)
        elif kind == "cgroup":
            yield set(options.split(",")) & {"cpu", "memory"}, root, Path(point)


def _unescaped(field: str) -> str:
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _quotas(group: Path) -> Iterator[float]:
    """The processor time that a group has per time, in cores, if it is limited."""
    words = _words(group / "cpu.max") or [
        *_words(group / "cpu.cfs_quota_us"),
        *_words(group / "cpu.cfs_period_us"),
    ]
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0:
        yield int(words[0]) / int(words[1])


def _memory_limits(group: Path) -> Iterator[int]:
    words = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
    if words and words[0].isdecimal() and int(words[0]) < _UNLIMITED_BYTES:
        yield int(words[0])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # the group has no such limit
        return []

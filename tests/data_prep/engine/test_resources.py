"""Cores and memory that may be used: cores of the process, cgroups of both versions, Slurm."""

import os
from pathlib import Path

import pytest

from data_prep.engine.resources import Resources, usable_resources
from data_prep.engine.workers import LocalEngineConfig

GB = 1_000_000_000
CORES = 16


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(CORES)))


class System:
    """A fake of /proc/self and of the file systems of control groups."""

    def __init__(self, folder: Path) -> None:
        self.proc, self._folder = folder / "proc", folder
        self.proc.mkdir()
        for name in ("cgroup", "mountinfo"):
            (self.proc / name).write_text("22 1 8:1 / / rw - ext4 /dev/a rw\n" * (name != "cgroup"))

    def _append(self, name: str, line: str) -> None:
        with open(self.proc / name, "a") as file:
            file.write(line + "\n")

    def version_2(self, path: str, limits: dict[str, dict[str, str]], root: str = "/") -> None:
        """Groups with files by path below the mount; the process is in `path`."""
        mount = self._folder / "cgroup2"
        self._append("cgroup", f"0::{path}")
        self._append(
            "mountinfo", f"30 22 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw"
        )
        self._write(mount, limits)

    def version_1(self, path: str, limits: dict[str, dict[str, str]]) -> None:
        for controllers in ("cpu,cpuacct", "memory"):
            mount = self._folder / controllers
            self._append("cgroup", f"4:{controllers}:{path}")
            self._append("mountinfo", f"33 31 0:30 / {mount} rw - cgroup cgroup rw,{controllers}")
            self._write(mount, limits)

    def _write(self, mount: Path, limits: dict[str, dict[str, str]]) -> None:
        for path, files in limits.items():
            (mount / path).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (mount / path / name).write_text(text + "\n")

    def resources(self, **environment: str) -> Resources:
        return usable_resources(self.proc, environment)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_without_control_groups_the_cores_of_the_process_count(
    system: System, tmp_path: Path
) -> None:
    assert system.resources() == Resources(CORES, "cores of this process", None)
    assert usable_resources(tmp_path / "nothing", {}) == system.resources()


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", CORES), ("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1)],
)
def test_the_quota_of_a_group(system: System, quota: str, cpus: int) -> None:
    system.version_2("/job", {"job": {"cpu.max": quota, "memory.max": "max"}})
    assert system.resources().cpus == cpus
    assert system.resources().memory_bytes is None


def test_a_group_is_limited_by_those_that_it_lies_in(system: System) -> None:
    limits = {
        "a": {"cpu.max": "300000 100000", "memory.max": str(64 * GB)},
        "a/b": {"cpu.max": "max 100000", "memory.max": str(8 * GB)},
        "a/b/c": {"cpu.max": "900000 100000", "memory.max": "max"},
    }
    system.version_2("/a/b/c", limits)
    found = system.resources()
    assert (found.cpus, found.memory_bytes) == (3, 8 * GB)
    assert found.cpus_by.endswith("cgroup2/a")


def test_in_a_container_the_path_is_that_outside_of_it(system: System) -> None:
    system.version_2("/kube/pod1/x", {"": {"cpu.max": "200000 100000"}}, root="/kube/pod1/x")
    assert system.resources().cpus == 2


def test_a_path_that_is_not_mounted_means_the_mount(system: System) -> None:
    system.version_2("/../other", {"": {"memory.max": str(GB)}})
    assert system.resources().memory_bytes == GB


def test_version_1(system: System) -> None:
    unlimited = "9223372036854771712"
    limits = {
        "": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
        "docker": {"memory.limit_in_bytes": str(4 * GB)},
        "docker/1": {
            "cpu.cfs_quota_us": "600000",
            "cpu.cfs_period_us": "100000",
            "memory.limit_in_bytes": unlimited,
        },
    }
    system.version_1("/docker/1", limits)
    found = system.resources()
    assert (found.cpus, found.memory_bytes) == (6, 4 * GB)


def test_slurm_states_the_cores_of_a_task(system: System) -> None:
    assert system.resources(SLURM_CPUS_PER_TASK="3").cpus == 3
    assert system.resources(SLURM_CPUS_PER_TASK="64").cpus == CORES
    assert system.resources(SLURM_CPUS_PER_TASK="").cpus == CORES


@pytest.mark.parametrize(
    ("config", "memory_bytes", "expected"),
    [
        ({}, None, (CORES, 3 * GB)),
        ({}, 100 * GB, (CORES, 3 * GB)),
        ({}, 10 * GB, (3, 3 * GB)),
        ({}, 2 * GB, (1, 1_800_000_000)),
        ({"worker_memory_mb": 500}, 10 * GB, (CORES, 500_000_000)),
        ({"workers": 5}, 10 * GB, (5, 3 * GB)),
    ],
)
def test_workers_fit_in_the_memory_limit(
    config: dict[str, int], memory_bytes: int | None, expected: tuple[int, int]
) -> None:
    resources = Resources(CORES, "", memory_bytes)
    assert LocalEngineConfig.model_validate(config).worker_limits(resources) == expected

"""What the planner knows of accelerators: measured rates, memory, links and power, with sources.

The table is accelerators.toml; to add an accelerator, add a table there.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from configs.load import ConfigError

_FILE = Path(__file__).with_name("accelerators.toml")
STREAM_SHARE = 0.9
"""Share of the datasheet's memory bandwidth that large copies reach (assumed)."""
NETWORK_SHARE = 0.75
"""Share of the network's datasheet rate that collectives over nodes reach: 74 % on four nodes of 8
B200 (Bekman, ML Engineering, network, 2026), 80 % on DGX-1 (github.com/NVIDIA/nccl-tests, issue
29)."""

Kind = Literal["datasheet", "measured", "assumed"]
_FIGURES = (
    *("memory_gb", "peak_tflops", "memory_gb_s", "link_gb_s", "link_latency_us"),
    *("node_gb_s", "power_w"),
)


class Figure(NamedTuple):
    """A number and where it comes from."""

    value: float
    kind: Kind
    source: str


@dataclass(frozen=True)
class Accelerator:
    """One accelerator and the links of its node; rates in 1e9 bytes or operations a second."""

    name: str
    title: str
    node_accelerators: int
    """Accelerators of the node that `figures` describe, which share its network."""
    matrix: dict[str, Figure]
    """By number format, 1e12 operations a second in large products."""
    figures: dict[str, Figure]
    """By the names that accelerators.toml explains."""

    @property
    def memory_gb(self) -> float:
        """Memory in 1e9 bytes."""
        return self.figures["memory_gb"].value

    @property
    def power_w(self) -> float:
        """Watts of one accelerator at its limit."""
        return self.figures["power_w"].value

    @property
    def peak_flops(self) -> float:
        """The datasheet's operations a second in the format of its matrix units."""
        return self.figures["peak_tflops"].value * 1e12

    @property
    def stream_bytes_s(self) -> float:
        """Bytes a second that large copies in its memory read and write."""
        return self.figures["memory_gb_s"].value * 1e9 * STREAM_SHARE

    @property
    def link_bytes_s(self) -> float:
        """Bytes a second in one direction between the accelerators of a node."""
        return self.figures["link_gb_s"].value * 1e9

    @property
    def link_latency_s(self) -> float:
        """Seconds of a collective in a node, whatever its size."""
        return self.figures["link_latency_us"].value * 1e-6

    def network_bytes_s(self, gpus_per_node: int) -> float:
        """Bytes a second that collectives move out of a node of which so many are used."""
        whole = self.figures["node_gb_s"].value * 1e9 * NETWORK_SHARE
        return whole * min(1.0, gpus_per_node / self.node_accelerators)

    def matrix_flops(self, precision: str) -> float:
        """Operations a second in large matrix products; raises ConfigError for a format that it
        has no units for."""
        if precision not in self.matrix:
            raise ConfigError(
                f"--accelerator {self.name}: it has no matrix units for {precision}: set "
                f"precision to one of {', '.join(self.matrix)}"
            )
        return self.matrix[precision].value * 1e12

    def sources(self) -> dict[str, Figure]:
        """All figures by name."""
        return {f"matrix_tflops.{name}": found for name, found in self.matrix.items()} | (
            self.figures
        )


@cache
def known_accelerators() -> dict[str, Accelerator]:
    """The table by name."""
    tables = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {name: _accelerator(name, table) for name, table in tables.items()}


def find_accelerator(name: str) -> Accelerator:
    """The accelerator of that name; raises ConfigError with all names if there is none."""
    known = known_accelerators()
    if name not in known:
        raise ConfigError(f"--accelerator {name}: not in the table: use one of {', '.join(known)}")
    return known[name]


def _accelerator(name: str, table: dict[str, Any]) -> Accelerator:
    figures = {key: _figure(table[key]) for key in _FIGURES}
    matrix = {key: _figure(found) for key, found in table["matrix_tflops"].items()}
    return Accelerator(name, table["title"], table["node_accelerators"], matrix, figures)


def _figure(found: list[Any]) -> Figure:
    value, kind, source = found
    assert kind in get_args(Kind), kind
    return Figure(float(value), kind, source)

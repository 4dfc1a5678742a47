"""What a stage of data preparation is: a frozen dataclass whose `run_part` does one part.

A stage is cut into parts, which are independent of each other and run in any order. To add one,
subclass `Stage` (and `Part`, where a part has facts of its own) and list it in
``data_prep/stages.py``.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from configs.load import fingerprint

Record = dict[str, Any]
"""What is recorded of a finished part, as JSON values: its counts and ``outputs``, its files."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One unit of work of a stage. Subclasses add what `run_part` needs to know about it."""

    name: str
    """Unique within the stage; the names of the part's files start with it and a dot."""
    num_bytes: int = 0
    """Size of the input, for the progress report."""

    def plan(self) -> dict[str, Any]:
        """What the frozen plan holds of the part besides its name, as JSON values.

        Facts that follow from the name and the stage's inputs need not be repeated.
        """
        return {}


class PartOutput(NamedTuple):
    """What a part made."""

    counts: Record
    """For the record, as JSON values."""
    files: Sequence[str] = ()
    """Names of the files that were written."""


PartT = TypeVar("PartT", bound=Part)
PartT_co = TypeVar("PartT_co", bound=Part, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Stage(ABC, Generic[PartT]):
    """One stage. The first line of a subclass's docstring says what it does, for the docs.

    A stage is pickled for the worker processes, without its `parts`.
    """

    name: ClassVar[str]
    """Name of its folder, and of the stage in the manifest and on the command line."""
    version: ClassVar[int]
    """Raised when the code gives different results for the same input."""
    output: ClassVar[str]
    """What it writes, in words, for the docs."""

    parts: Sequence[PartT]
    inputs: Mapping[str, str]
    """Content fingerprints of the stages and files that this one reads."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the results depend on, as JSON values. They are frozen in the plan."""
        return {}

    @property
    def output_folder(self) -> Path | None:
        """Where the outputs go; None for the stage's own folder."""
        return None

    @abstractmethod
    def run_part(self, folder: Path, part: PartT) -> PartOutput:
        """Does one part: writes files ``PART.*`` to `folder`. Must not depend on other parts.

        `self.parts` is empty here.
        """

    @property
    def content_fingerprint(self) -> str:
        """Names the result: the same whatever the part boundaries and the number of workers."""
        return fingerprint(self._content())

    def plan(self) -> dict[str, Any]:
        """The frozen plan as JSON values."""
        return {**self._content(), "parts": {part.name: part.plan() for part in self.parts}}

    def _content(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "version": self.version,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
        }

    @classmethod
    def summary(cls) -> str:
        """What the stage does, in a line."""
        return (inspect.getdoc(cls) or "").partition("\n")[0].removesuffix(".")


@dataclass(frozen=True, kw_only=True)
class StageResult(Generic[PartT_co]):
    """A finished stage."""

    folder: Path
    parts: Sequence[PartT_co]
    records: Sequence[Record]
    """One record per part, in the order of the parts."""
    content_fingerprint: str
    num_parts_run: int = 0
    """Parts that were run this time; the others were finished before."""

    def with_records(self) -> Iterator[tuple[PartT_co, Record]]:
        """The parts, each with its record."""
        return zip(self.parts, self.records, strict=True)

    def total(self, key: str) -> int:
        """The sum of a count over all parts."""
        return sum(record[key] for record in self.records)

    def files(self, suffix: str) -> list[Path]:
        """The file with this suffix of each part."""
        return [self.folder / f"{part.name}{suffix}" for part in self.parts]

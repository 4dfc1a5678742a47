"""What a stage of data preparation is: a frozen dataclass whose `run_part` does one part.

A stage is cut into parts, which are independent of each other and run in any order. To add one,
subclass `Stage` (and `Part`, where a part has facts of its own) and list it in
``data_prep/stages.py``.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from configs.load import fingerprint
from data_prep.engine.plan_changes import differences, grew

Record = dict[str, Any]
"""What is recorded of a finished part, as JSON values: its counts and ``outputs``, its files."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One unit of work of a stage. Subclasses add what `run_part` needs to know about it."""

    name: str
    """Unique within the stage; the names of the part's files start with it and a dot."""
    num_bytes: int = 0
    """Size of the input, for the progress report."""

    @property
    def num_files(self) -> int:
        """Files that it stands for."""
        return 1

    def plan(self) -> dict[str, Any]:
        """What the frozen plan holds of the part besides its name, as JSON values.

        Facts that follow from the name and the stage's inputs need not be repeated.
        """
        return {}


class Reads(NamedTuple):
    """What a part is expected to read, about; tests hold the counts of its record against it."""

    files: int
    bytes: int


class PartOutput(NamedTuple):
    """What a part made."""

    counts: Record
    """For the record, as JSON values."""
    files: Sequence[str] = ()
    """Names of the files that were written."""


PartT = TypeVar("PartT", bound=Part)
GroupT = TypeVar("GroupT")
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

    source_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that list the sources: adding a source makes these longer, see `extends`."""

    less_memory: ClassVar[str] = ""
    """What else lets a part that lacks memory take less of it, as the end of a message."""

    parts: Sequence[PartT]
    inputs: Mapping[str, str]
    """Content fingerprints of the stages and files that this one reads."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the results depend on, as JSON values. They are frozen in the plan."""
        return {}

    @property
    def part_memory_bytes(self) -> int:
        """Memory that a part may use where that is more than the usual limit of a worker."""
        return 0

    @property
    def output_folder(self) -> Path | None:
        """Where the outputs go; None for the stage's own folder."""
        return None

    @abstractmethod
    def run_part(self, folder: Path, part: PartT) -> PartOutput:
        """Does one part: writes files ``PART.*`` to `folder`. Must not depend on other parts.

        `self.parts` is empty here.
        """

    def reads_of(self, part: PartT) -> Reads:
        """What a part reads: a stage whose parts read the outputs of many others says how much."""
        return Reads(part.num_files, part.num_bytes)

    @property
    def own_inputs(self) -> Mapping[str, str]:
        """Those of `inputs` that users choose; the rest follows from earlier stages."""
        return {}

    def settings_for(self, part: PartT) -> Mapping[str, Any]:
        """Those of `settings` that the outputs of one part depend on."""
        return self.settings

    def inputs_for(self, part: PartT) -> Mapping[str, str]:
        """What the outputs of one part depend on besides its settings and plan, by content.

        A stage whose parts each read the outputs of few others names the hashes of those here, so
        that the part is still valid when other sources are added. The hashes come from records.
        """
        return self.inputs

    def settings_group(self, part: PartT) -> str:
        """Parts of one group have the same `settings_for`; it is the source where these differ."""
        return ""

    def part_keys(self) -> dict[str, str]:
        """By the name of each part, what names its outputs: they are valid while it is the same."""
        settings: dict[str, str] = {}
        keys = {}
        for part in self.parts:
            group = self.settings_group(part)
            if group not in settings:
                own = {"version": self.version, "settings": dict(self.settings_for(part))}
                settings[group] = fingerprint({"stage": self.name, **own})
            keys[part.name] = fingerprint(
                [settings[group], part.name, part.plan(), dict(self.inputs_for(part))]
            )
        return keys

    def extends(self, old: Mapping[str, Any]) -> bool:
        """Whether this stage does what the frozen plan `old` said, for more sources or files.

        If so, parts of the old plan with the same key, see `part_keys`, are taken over. If not,
        users changed something, and have to confirm that the work is to be repeated. What follows
        from earlier stages was confirmed there.
        """
        inputs = old.get("inputs", {})
        return (
            self.extends_settings(old)
            and inputs.keys() == self.inputs.keys()
            and all(inputs[key] == value for key, value in self.own_inputs.items())
        )

    def extends_settings(self, old: Mapping[str, Any]) -> bool:
        """Whether the settings are those of the plan `old`, maybe with more sources."""
        settings = json.loads(json.dumps(dict(self.settings)))
        before = old.get("settings", {})
        return (
            old.get("stage") == self.name
            and old.get("version") == self.version
            and settings.keys() == before.keys()
            and all(
                grew(value, settings[key])
                if key in self.source_settings
                else settings[key] == value
                for key, value in before.items()
            )
        )

    def notices(self) -> Iterable[str]:
        """What the user should know before parts are run."""
        return ()

    def parts_to_repeat(self, records: Mapping[str, Record]) -> Sequence[PartT]:
        """Parts that have to be run once more, in this form, since the `records` of all parts, by
        name, show that they started from something that does not hold. Called again with the new
        records, until there are none."""
        return ()

    def additions(self, old: Mapping[str, Any]) -> Iterator[str]:
        """What this plan has and the plan `old`, which it extends, has not, as lines to log."""
        return iter(())

    def differences(self, old: Mapping[str, Any]) -> Iterator[str]:
        """How the plan differs from the plan `old`, as lines of a message."""
        return differences(old, json.loads(json.dumps(self.plan())))

    @property
    def content_fingerprint(self) -> str:
        """Names what the plan makes: the same whatever the part boundaries and number of workers.

        See `result_fingerprint` for what was made.
        """
        return fingerprint(self._content())

    def result_fingerprint(self, records: Sequence[Record]) -> str:
        """Names the result. A stage that reads files from outside adds a hash of their content."""
        return self.content_fingerprint

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

    def contents(
        self, group_of: Callable[[PartT_co], GroupT], infix: str = ""
    ) -> dict[GroupT, str]:
        """A hash of the outputs of each group of parts; only of those with `infix` in the name."""
        hashes: dict[GroupT, list[str]] = {}
        for part, record in self.with_records():
            hashes.setdefault(group_of(part), []).extend(
                entry["xxh3_128"] for name, entry in record["outputs"].items() if infix in name
            )
        return {group: fingerprint(values) for group, values in hashes.items()}

    def files(self, suffix: str) -> list[Path]:
        """The file with this suffix of each part."""
        return [self.folder / f"{part.name}{suffix}" for part in self.parts]

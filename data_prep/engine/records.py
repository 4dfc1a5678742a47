"""What is on disk of a stage besides its outputs: the frozen plan, and records with hashes.

The folder of a stage under the work folder holds::

    plan.json            what the stage is going to do: settings, inputs, part boundaries
    PART.*               the outputs of a part, each written under a temporary name and renamed
    PART.record.json     counts and hashes of those outputs, written after them
    done.json            the fingerprint of the plan and all records, written last

Records carry a checksum of their own and the key of their part, see `Stage.part_keys`: one that is
damaged, or of another key, counts as missing, so that its part is run again.
"""

import glob
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from configs.load import UserError, fingerprint
from data_prep.dataset.atomic import write_atomic
from data_prep.engine.plan_changes import listed
from data_prep.engine.stage import Part, Record, Stage

logger = logging.getLogger(__name__)

_CHECKSUM = "sha256"
_RECORD_SUFFIX = ".record.json"


class StageFolder:
    """The plan and the records of one stage."""

    def __init__(self, path: Path, stage: Stage[Any]) -> None:
        self.path, self._stage = path, stage
        self._plan = json.loads(json.dumps(stage.plan()))
        self.keys = stage.part_keys()
        """By the names of the parts."""
        self._fingerprint = fingerprint({"plan": self._plan, "keys": self.keys})

    @property
    def is_done(self) -> bool:
        """Whether the stage is finished under this plan."""
        return self._done() is not None

    def _done(self) -> dict[str, Any] | None:
        done = read_checked(self.path / "done.json")
        return done if done is not None and done.get("plan") == self._fingerprint else None

    def freeze(self) -> None:
        """Writes the plan, or checks it against the one that was frozen before.

        A plan that this one extends is replaced, see `Stage.extends`; so is one of which no part is
        finished, and a damaged one, as the records name what their parts did. Raises UserError if
        the folder holds work under a different plan.
        """
        path = self.path / "plan.json"
        if not path.exists():
            self._write_plan()
            return
        old = read_checked(path, also_without_checksum=True)
        if old is None:
            self._write_plan()
        elif old != self._plan:
            if self._stage.extends(old):
                for line in self._stage.additions(old):
                    logger.info("%s: %s", self._stage.name, line)
            elif self._has_finished_parts():
                raise UserError(self._refusal(old))
            self._remove_parts(old["parts"].keys() - self.keys.keys())
            self._write_plan()

    def _has_finished_parts(self) -> bool:
        """Whether anything here would be lost under another plan."""
        finished = (self.path / "done.json", *self.path.glob(f"*{_RECORD_SUFFIX}"))
        return any(path.exists() for path in finished)

    def _write_plan(self) -> None:
        write_checked(self.path / "plan.json", self._plan, indent=1)

    def _refusal(self, old: Mapping[str, Any]) -> str:
        name = self._stage.name
        return (
            f"{self.path}: the stage {name!r} was started under a different plan:\n"
            + listed(self._stage.differences(old))
            + f"\nrun again with '--restart-from {name}' to repeat this stage and all later ones, "
            "or restore the previous settings and files"
        )

    def _remove_parts(self, names: Iterable[str]) -> None:
        """Removes what is left of parts that the plan no longer has."""
        for name in names:
            for path in self.path.glob(f"{glob.escape(name)}.*"):
                path.unlink()

    def records(self, outputs: Path) -> dict[str, Record]:
        """Records of the parts whose outputs all exist in `outputs` with the recorded sizes."""
        records: dict[str, Record] = {}
        done = self._done()
        if done is not None:
            records = dict(zip(self.keys, done["records"], strict=True))
        on_disk = self._with_record_file()
        for name, key in self.keys.items():
            if name not in records and name in on_disk:
                record = read_record(self.path, key, name)
                if record is not None:
                    records[name] = record
        return {name: record for name, record in records.items() if _outputs_exist(outputs, record)}

    def _with_record_file(self) -> set[str]:
        """The names of the parts with a record, by one listing: most may have none."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:  # the stage was not started
            return set()
        return {
            name.removesuffix(_RECORD_SUFFIX) for name in names if name.endswith(_RECORD_SUFFIX)
        }

    def discard(self, parts: Sequence[Part]) -> None:
        """Lets the outputs of `parts` count as not written."""
        self.reopen()
        self.remove_records(parts)

    def remove_records(self, parts: Sequence[Part]) -> None:
        """Removes the records of `parts`; those of a finished stage are in its done.json, too."""
        on_disk = self._with_record_file()
        for part in parts:
            if part.name in on_disk:
                (self.path / f"{part.name}{_RECORD_SUFFIX}").unlink(missing_ok=True)

    def reopen(self) -> None:
        """Removes the mark that the stage is done."""
        (self.path / "done.json").unlink(missing_ok=True)

    def finish(self, records: Sequence[Record]) -> None:
        """Marks the stage as done; `records` are those of all parts in their order."""
        done = {"plan": self._fingerprint, "records": list(records)}
        write_checked(self.path / "done.json", done)


def write_record(folder: Path, key: str, name: str, record: Record) -> None:
    """Writes the record of a part whose outputs are on disk; `key` is that of the part."""
    content = {"key": key, "record": record}
    write_checked(folder / f"{name}{_RECORD_SUFFIX}", content)


def read_record(folder: Path, key: str, name: str) -> Record | None:
    """The record of a part; None if there is none, or it is damaged or of another key."""
    content = read_checked(folder / f"{name}{_RECORD_SUFFIX}")
    if content is None or content.get("key") != key:
        return None
    record: Record = content["record"]
    return record


def write_checked(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Writes JSON values with a checksum of their own, atomically."""
    checked = {**content, _CHECKSUM: fingerprint(content)}
    write_atomic(path, json.dumps(checked, indent=indent, sort_keys=indent is not None))


def read_checked(path: Path, also_without_checksum: bool = False) -> dict[str, Any] | None:
    """What `write_checked` wrote, without its checksum; None if there is none or, with a
    log line, it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if isinstance(content, dict):
        checksum = content.pop(_CHECKSUM, None)
        if checksum == fingerprint(content) or (checksum is None and also_without_checksum):
            return content
    logger.warning("%s: damaged; what it records is done again", path)
    return None


def describe_file(path: Path) -> dict[str, Any]:
    """Size and hash of an output, for its record."""
    digest = xxhash.xxh3_128()
    num_bytes = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            num_bytes += len(chunk)
    return {"bytes": num_bytes, "xxh3_128": digest.hexdigest()}


def damaged_files(folder: str, outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names in `outputs` whose files in `folder` are not what their record says."""
    damaged = []
    for name, entry in outputs.items():
        try:
            if describe_file(Path(folder) / name) != entry:
                damaged.append(name)
        except FileNotFoundError:
            damaged.append(name)
    return damaged


def _outputs_exist(folder: Path, record: Record) -> bool:
    for name, entry in record["outputs"].items():
        try:
            if (folder / name).stat().st_size != entry["bytes"]:
                return False
        except FileNotFoundError:
            return False
    return True

"""What is on disk of a stage besides its outputs: the frozen plan, and records with hashes.

The folder of a stage under the work folder holds::

    plan.json            what the stage is going to do: settings, inputs, part boundaries
    PART.*               the outputs of a part, each written under a temporary name and renamed
    PART.record.json     counts and hashes of those outputs, written after them
    done.json            the fingerprint of the plan and all records, written last

Records carry a checksum of their own and the fingerprint of their plan: one that is damaged, or of
another plan, counts as missing, so that its part is run again.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from configs.load import UserError, fingerprint
from data_prep.dataset.atomic import write_atomic
from data_prep.engine.stage import Part, Record

logger = logging.getLogger(__name__)

_MAX_DIFFERENCES_SHOWN = 12
_CHECKSUM = "sha256"


class StageFolder:
    """The plan and the records of one stage."""

    def __init__(self, path: Path, name: str, plan: Mapping[str, Any]) -> None:
        self.path, self._name = path, name
        self._plan = json.loads(json.dumps(plan))
        self.plan_fingerprint = fingerprint(self._plan)

    @property
    def is_done(self) -> bool:
        """Whether the stage is finished under this plan."""
        done = _read_checked(self.path / "done.json")
        return done is not None and done.get("plan") == self.plan_fingerprint

    def freeze(self, parts: Sequence[Part]) -> None:
        """Writes the plan, or checks it against the one that was frozen before.

        A damaged plan is written again if there are records of the same plan. Raises UserError if
        the folder holds work under a different plan.
        """
        path = self.path / "plan.json"
        if not path.exists():
            self._write_plan()
            return
        try:
            old = json.loads(path.read_bytes())
        except ValueError:
            old = None
        if old == self._plan:
            return
        if self.is_done or any(self._record_of(part.name) is not None for part in parts):
            logger.warning("%s: damaged; written again", path)
            self._write_plan()
            return
        lines = list(_differences(old, self._plan))
        if len(lines) > _MAX_DIFFERENCES_SHOWN:
            rest = len(lines) - _MAX_DIFFERENCES_SHOWN
            lines = [*lines[:_MAX_DIFFERENCES_SHOWN], f"and {rest} more"]
        raise UserError(
            f"{self.path}: the stage {self._name!r} was started under a different plan:\n"
            + "\n".join(f"  {line}" for line in lines)
            + f"\nrun again with '--restart-from {self._name}' to repeat this stage and all later "
            "ones, or restore the previous settings and files"
        )

    def _write_plan(self) -> None:
        write_atomic(self.path / "plan.json", json.dumps(self._plan, indent=1, sort_keys=True))

    def records(self, parts: Sequence[Part], outputs: Path) -> dict[str, Record]:
        """Records of the parts whose outputs all exist in `outputs` with the recorded sizes."""
        records: dict[str, Record] = {}
        done = _read_checked(self.path / "done.json")
        if done is not None and done.get("plan") == self.plan_fingerprint:
            records = {
                part.name: record for part, record in zip(parts, done["records"], strict=True)
            }
        for part in parts:
            if part.name not in records:
                record = self._record_of(part.name, also_without_checksum=True)
                if record is not None:
                    records[part.name] = record
        return {name: record for name, record in records.items() if _outputs_exist(outputs, record)}

    def _record_of(self, name: str, also_without_checksum: bool = False) -> Record | None:
        """The record of a part; None if there is none, or it is damaged or of another plan."""
        content = _read_checked(self.path / f"{name}.record.json")
        if content is None:
            return None
        if _CHECKSUM not in content:  # written before records had checksums
            return content if also_without_checksum and "outputs" in content else None
        record: Record = content["record"]
        return record if content["plan"] == self.plan_fingerprint else None

    def discard(self, parts: Sequence[Part]) -> None:
        """Removes the records of `parts`: their outputs count as not written."""
        self.reopen()
        for part in parts:
            (self.path / f"{part.name}.record.json").unlink(missing_ok=True)

    def reopen(self) -> None:
        """Removes the mark that the stage is done."""
        (self.path / "done.json").unlink(missing_ok=True)

    def finish(self, records: Sequence[Record]) -> None:
        """Marks the stage as done; `records` are those of all parts in their order."""
        done = {"plan": self.plan_fingerprint, "records": list(records)}
        _write_checked(self.path / "done.json", done)


def write_record(folder: Path, plan_fingerprint: str, name: str, record: Record) -> None:
    """Writes the record of a part whose outputs are on disk."""
    content = {"plan": plan_fingerprint, "record": record}
    _write_checked(folder / f"{name}.record.json", content)


def _write_checked(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps({**content, _CHECKSUM: fingerprint(content)}))


def _read_checked(path: Path) -> dict[str, Any] | None:
    """A file that `_write_checked` wrote; None, with a log line, if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if isinstance(content, dict):
        rest = {key: value for key, value in content.items() if key != _CHECKSUM}
        is_of_today = {"plan", "record"} <= rest.keys()
        if content.get(_CHECKSUM) == fingerprint(rest):
            return content
        if _CHECKSUM not in content and not is_of_today:
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


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            where = f"{path}.{key}" if path else key
            if key not in old:
                yield f"{where}: added"
            elif key not in new:
                yield f"{where}: removed"
            else:
                yield from _differences(old[key], new[key], where)
    elif old != new:
        yield f"{path or 'plan.json'}: was {_shorten(old)}, now {_shorten(new)}"


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."

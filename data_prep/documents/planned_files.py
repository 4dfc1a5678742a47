"""The files of the sources in the frozen plan of the first stage, and how they changed."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from data_prep.engine.plan_changes import differences, grew

_NS = 1_000_000_000


def planned_files(plan: Mapping[str, Any]) -> dict[str, str]:
    """What each file was like when the plan was made, by ``SOURCE: PATH``."""
    files: dict[str, str] = {}
    for part in plan.get("parts", {}).values():
        for path, _, num_bytes, modified, *_ in part["spans"]:
            files[f"{part['source']}: {path}"] = f"{num_bytes:,} bytes of {_time(modified)}"
    return files


def _time(modified: str) -> str:
    """The time of a file's last change, if it is recorded in nanoseconds; an etag as it is."""
    if not modified.isdecimal() or len(modified) < len(str(_NS)):
        return modified
    seconds, rest = divmod(int(modified), _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09d} UTC"


def has_same_or_more_files(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the plan `new` reads the files of the plan `old` as they were, in the same parts or
    together with others."""
    before, now = planned_files(old), planned_files(new)
    if len(now) == len(before):
        return bool(old["parts"] == json.loads(json.dumps(new["parts"])))
    return grew(before, now)


def additions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A line for each source of which the plan `new` reads more files than the plan `old`."""
    before = planned_files(old)
    counts = Counter(name.partition(": ")[0] for name in planned_files(new) if name not in before)
    for source, count in counts.items():
        what = "new files of the" if source in old["settings"]["sources"] else "files of the new"
        yield f"{count:,} {what} source {source!r}; parts that are finished are kept"


def plan_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A line for each file that was changed, removed or added, before the other differences; these
    include the parts only where no file differs."""
    before, now = planned_files(old), planned_files(new)
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            yield f"{name}: removed"
        elif name not in before:
            yield f"{name}: added"
        elif before[name] != now[name]:
            yield f"{name}: changed, was {before[name]}, now {now[name]}"
    left_out = {"parts": None, "inputs": None} if before != now else {}
    yield from differences({**old, **left_out}, json.loads(json.dumps({**new, **left_out})))

"""How two plans of a stage differ, as lines for people, and whether one holds all of the other."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from configs.terminal import visible

_MAX_SHOWN = 12
_MAX_VALUE_CHARACTERS = 80


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """A line for each value that differs; `path` leads to the values from the top of the plan.

    Single values, as the version of a stage, come before those with values in them.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        for key in sorted(keys, key=lambda key: isinstance(old.get(key, new.get(key)), dict)):
            where = f"{path}.{key}" if path else key
            if key not in old:
                yield f"{where}: added"
            elif key not in new:
                yield f"{where}: removed"
            else:
                yield from differences(old[key], new[key], where)
    elif old != new:
        yield f"{path or 'plan.json'}: was {_shorten(old)}, now {_shorten(new)}"


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    most = _MAX_VALUE_CHARACTERS
    return text if len(text) <= most else text[: most - 3] + "..."


def listed(lines: Iterable[str]) -> str:
    """The first lines, indented, and how many more there are, as part of a message."""
    shown = [visible(line) for line in lines]
    if len(shown) > _MAX_SHOWN:
        rest = len(shown) - _MAX_SHOWN
        shown = [*shown[:_MAX_SHOWN], f"and {rest:,} more"]
    return "\n".join(f"  {line}" for line in shown)


def grew(old: Any, new: Any) -> bool:
    """Whether `new` holds all of `old`: a mapping with the same values, or a list in its order."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and new[key] == value for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        rest = iter(new)
        return all(value in rest for value in old)
    return bool(old == new)

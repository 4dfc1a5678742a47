"""Config keys that moved to another section stay readable under their old names."""

from collections.abc import Mapping
from typing import Any


def move_keys(
    tree: Mapping[str, Any], new_paths: Mapping[str, str]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """(`tree` with its keys at their new dotted paths, the (old, new) paths that were moved).

    `new_paths` are by old path. An old key that is null counts as not given. `tree` itself is not
    changed. Raises ValueError where both names are given with different values.
    """
    result = dict(tree)
    moved = []
    for old, new in new_paths.items():
        old_section, old_key = _section(result, old)
        if old_section is None or old_key not in old_section:
            continue
        value = old_section.pop(old_key)
        if value is None:
            continue
        new_section, new_key = _section(result, new, create=True)
        if new_section is None:
            raise ValueError(f"{old} is the old name of {new}, whose section is not a mapping")
        if new_section.setdefault(new_key, value) != value:
            raise ValueError(
                f"{old} is the old name of {new}; both are given and differ: {value!r} and "
                f"{new_section[new_key]!r}; remove {old}"
            )
        moved.append((old, new))
    return result, moved


def _section(
    tree: dict[str, Any], path: str, create: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """(a copy, put in its place, of the mapping that holds the last key of `path`, that key)."""
    *sections, key = path.split(".")
    node = tree
    for name in sections:
        child = node.get(name, {} if create else None)
        if not isinstance(child, dict):
            return None, key
        node[name] = dict(child)
        node = node[name]
    return node, key

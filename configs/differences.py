"""What differs between two configs, by dotted path, with the marks of the fields concerned."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

Mark = TypeVar("Mark")


@dataclass(frozen=True)
class Difference:
    """One value that differs."""

    path: str
    """Dotted path of the config key."""
    before: Any
    now: Any
    marks: tuple[Any, ...] = ()
    """The `Annotated` metadata of the fields that lead to the value."""

    def __str__(self) -> str:
        return f"{self.path}: {self.before!r} before, {self.now!r} now"

    def has_mark(self, mark: type) -> bool:
        """Whether a field on the path is annotated with an instance of `mark`."""
        return self.mark(mark) is not None

    def mark(self, mark: type[Mark]) -> Mark | None:
        """The first instance of `mark` that annotates a field on the path."""
        return next((found for found in self.marks if isinstance(found, mark)), None)


def differences(
    before: Any, now: Any, path: str = "", marks: tuple[Any, ...] = ()
) -> Iterator[Difference]:
    """The leaves in which two values differ: configs, mappings, lists or plain values.

    Configs of the same class are compared field by field, others as the mappings that a file holds,
    with the marks of the `type` of both.
    """
    if isinstance(before, BaseModel) and type(before) is type(now):
        for name, field in type(before).model_fields.items():
            yield from differences(
                getattr(before, name),
                getattr(now, name),
                _join(path, name),
                (*marks, *field.metadata),
            )
        return
    are_sequences = isinstance(before, list | tuple) and isinstance(now, list | tuple)
    if are_sequences and len(before) == len(now):
        for number, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, _join(path, str(number)), marks)
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), _join(path, key), marks)
        return
    for config in (before, now):
        if isinstance(config, BaseModel) and "type" in type(config).model_fields:
            marks = (*marks, *type(config).model_fields["type"].metadata)
    before_plain, now_plain = to_jsonable_python(before), to_jsonable_python(now)
    if isinstance(before_plain, dict) and isinstance(now_plain, dict):
        yield from differences(before_plain, now_plain, path, marks)
    elif before_plain != now_plain:
        yield Difference(path, before_plain, now_plain, marks)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key

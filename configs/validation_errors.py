"""Describes pydantic's errors by the keys of the config file, with the nearest known key."""

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from configs.redact import redact

_KEY_OF_MAPPING = "[key]"
"""What pydantic puts after a key of a mapping that is itself wrong."""

_PLAIN = {
    "dict_type": "should be a mapping (key: value)",
    "list_type": "should be a list",
    "model_attributes_type": "should be a mapping (key: value)",
    "model_type": "should be a mapping (key: value)",
    "string_type": "should be text",
    "tuple_type": "should be a list",
}
"""Messages in YAML's terms, where pydantic's own are in Python's."""


def describe(error: ValidationError, schema: type[BaseModel]) -> Iterator[str]:
    """A line for each error: the dotted path in the file, and what is wrong there.

    An error of the whole file has no path.
    """
    alternatives: dict[tuple[int | str, ...], list[Any]] = {}
    for item in error.errors(include_url=False):
        alternatives.setdefault(_before_alternatives(item["loc"], schema), []).append(item)
    for place, items in alternatives.items():
        yield from _lines(place, items, schema)


def _lines(
    place: tuple[int | str, ...], items: Sequence[Any], schema: type[BaseModel]
) -> Iterator[str]:
    """A line for each error at `place`; one for a value that is none of several alternatives."""
    paths = [tuple(_in_file(item["loc"], schema)) for item in items]
    path = tuple(_in_file(place, schema))
    inside = [(item, p) for item, p in zip(items, paths, strict=True) if len(p) > len(path)]
    if len(items) > 1 and not inside:
        yield f"{'.'.join(map(str, path))}: {_none_of(items)}"
        return
    # A mapping is meant to be the alternative that has keys.
    for item, found in inside or zip(items, paths, strict=True):
        name = ".".join(map(str, found))
        if message := _message(item, name, schema):
            yield f"{name}: {message}" if name else message


def _none_of(items: Sequence[Any]) -> str:
    """What is wrong with a value that is none of several alternatives."""
    sentences = [str(item["ctx"]["error"]) for item in items if item["type"] == "value_error"]
    reasons = [
        _PLAIN.get(item["type"], item["msg"]).split(", unable")[0].removeprefix("Input ")
        for item in items
        if item["type"] != "value_error"
    ]
    if reasons:
        wanted = " or ".join(reason.removeprefix("should be ") for reason in reasons)
        sentences.append(f"should be {wanted}, got {_shorten(items[0]['input'])}")
    return "; or ".join(sentences)


def _message(item: Any, name: str, schema: type[BaseModel]) -> str | None:
    """What is wrong, without the path; None if other errors say it better."""
    kind, location, context = item["type"], item["loc"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{_hint_at(schema, location, name)}"
    if kind == "missing":
        return "required, but missing"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"unknown type {context['tag']!r}{_hint(context['tag'], tags, 'types')}"
    if kind == "union_tag_not_found":
        tags = [tag for model in _models(_step_to(schema, location)) for tag in _tags_of(model)]
        return f"without `type`; types: {_join(tags)}"
    if kind == "too_short" and context["actual_length"] == 0:
        # Else each of its values has an error of its own.
        return None if item["input"] else f"empty; give at least {context['min_length']}"
    if kind == "value_error":
        return str(context["error"])
    return f"{_PLAIN.get(kind, item['msg'])}, got {_shorten(item['input'])}"


def _hint(word: str, known: Sequence[str], title: str) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; {title}: {_join(known)}"


def _hint_at(schema: Any, location: Sequence[int | str], name: str) -> str:
    """What is known in place of the unknown key at `location`, which `name` is in the file.

    A choice without `type` is taken for the default one, so the key may be that of another type.
    """
    chosen, key = ["", *map(str, location)][-2:]
    known = _fields_at(schema, location[:-1])
    members = _models(_step_to(schema, location[:-2]))
    others = [m for m in members if chosen not in _tags_of(m)]
    if len(others) < len(members) and not difflib.get_close_matches(key, known, n=1):
        fields = {field for model in others for field in model.model_fields}
        for close in difflib.get_close_matches(key, sorted(fields), n=1):
            tags = [t for m in others if close in m.model_fields for t in _tags_of(m)]
            return (
                f" of the type {chosen!r}; {close!r} is one of {' and '.join(map(repr, tags))}: "
                f"set {name.removesuffix(f'.{key}')}.type"
            )
    return _hint(key, known, "known keys")


def _step_to(schema: Any, location: Sequence[int | str]) -> list[Any]:
    """The annotations at `location`, unions taken apart."""
    annotations = [schema]
    for part in location:
        annotations = _step(annotations, part)[0]
    return annotations


def _step(annotations: Sequence[Any], part: int | str) -> tuple[list[Any], bool]:
    """The annotations one `part` of a location further, and whether the part is in the file.

    Not in the file are the names of the members of unions that pydantic adds.
    """
    members = list(_members(annotations))
    tagged = [member for member in members if _is_model(member) and part in _tags_of(member)]
    inner = [type_ for member in members for type_ in _inner(member, part)]
    if inner:
        return inner, True
    if tagged:
        return tagged, False
    if part == _KEY_OF_MAPPING:
        return members, False
    if named := [member for member in members if _is_model(member) and member.__name__ == part]:
        return named, False
    # A name such as "list[str]" or "literal['detect']" of a member that has no keys.
    plain = [m for m in members if not _is_model(m) and m is not types.NoneType]
    return (plain, False) if isinstance(part, str) and plain else ([], True)


def _inner(annotation: Any, part: int | str) -> Iterator[Any]:
    """The annotations of what `part`, a key or an index, names in a value of `annotation`."""
    if _is_model(annotation):
        if part in annotation.model_fields:
            yield annotation.model_fields[part].annotation
        return
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict and part != _KEY_OF_MAPPING:
        yield arguments[1]
    elif origin in (list, tuple, set, frozenset) and isinstance(part, int):
        yield from (argument for argument in arguments if argument is not Ellipsis)


def _members(annotations: Iterable[Any]) -> Iterator[Any]:
    """`annotations` without Annotated, and the members of unions in place of them."""
    for annotation in annotations:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if isinstance(annotation, types.UnionType) or origin is typing.Union:
            yield from _members(arguments)
        elif origin is typing.Annotated:
            yield from _members(arguments[:1])
        else:
            yield annotation


def _before_alternatives(
    location: tuple[int | str, ...], schema: type[BaseModel]
) -> tuple[int | str, ...]:
    """`location` up to a union without `type`, of which pydantic tried every member, or whole."""
    annotations: list[Any] = [schema]
    for number, part in enumerate(location):
        tags = [tag for model in _models(annotations) for tag in _tags_of(model)]
        annotations, is_in_file = _step(annotations, part)
        if not is_in_file and part != _KEY_OF_MAPPING and part not in tags:
            return location[:number]
    return location


def _models(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    return [member for member in _members(annotations) if _is_model(member)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields_at(schema: Any, location: Sequence[int | str]) -> list[str]:
    """The field names at `location`; those of all members if it is a union."""
    models = _models(_step_to(schema, location))
    return sorted({name for model in models for name in model.model_fields})


def _in_file(location: Sequence[int | str], schema: Any) -> Iterator[int | str]:
    """`location` without the members of unions that pydantic adds, which are not in the file."""
    annotations = [schema]
    for part in location:
        annotations, is_in_file = _step(annotations, part)
        if is_in_file:
            yield part


def _tags_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of `type` that choose this member of a union."""
    field = model.model_fields.get("type")
    return typing.get_args(field.annotation) if field else ()


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _shorten(value: Any) -> str:
    text = repr(redact(value, {}))
    return text if len(text) <= 80 else text[:77] + "..."

"""Reads a YAML file into a frozen pydantic config and reports all of its errors at once.

A config file may inherit from a parent file with ``extends: other.yaml`` (a path relative to
itself). Its own keys take precedence: mappings are merged key by key, lists and scalars are
replaced. A mapping whose ``type`` differs replaces the whole mapping of the parent, because the two
have different keys. Overrides ``key.sub=value`` from the command line are applied last; their
values are YAML.

The schemas are defined beside the code that they configure; this module knows none of them.
"""

import hashlib
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from configs.credentials import credentials_in
from configs.paths import expanded
from configs.validation_errors import describe

ConfigT = TypeVar("ConfigT", bound="Config")


class UserError(ValueError):
    """An error that the user can fix. Reported as one message, without a traceback."""


class ConfigError(UserError):
    """A config file that cannot be used. The message lists all of its errors."""


class Config(BaseModel):
    """Base class of all schemas: unknown keys are errors, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, tree: Any) -> Any:
        """A union member that is given without `type` gets the type of the field's default; one
        value where a list belongs is a list of one."""
        if not isinstance(tree, dict):
            return tree
        chosen = dict(tree)
        for name, field in cls.model_fields.items():
            value, default = tree.get(name), getattr(field.default, "type", None)
            if isinstance(value, dict) and "type" not in value and isinstance(default, str):
                chosen[name] = {"type": default, **value}
        for name in _list_fields(cls) & tree.keys():
            if isinstance(tree[name], str | int | float) and not isinstance(tree[name], bool):
                chosen[name] = [tree[name]]
        return chosen


def shortest_tree(config: BaseModel) -> dict[str, Any]:
    """What differs from the defaults in `config`, as the mapping of a config file.

    A choice keeps its `type`, whose default depends on the field that it stands in.
    """
    tree: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name != "type" and value != field.get_default(call_default_factory=True):
            is_config = isinstance(value, BaseModel)
            plain = config.model_dump(mode="json", include={name})[name]
            tree[name] = shortest_tree(value) if is_config else plain
    kind = getattr(config, "type", None)
    return tree if kind is None else {"type": kind, **tree}


@cache
def _list_fields(schema: type[BaseModel]) -> frozenset[str]:
    """The fields of a schema that hold a list of any length, for which one value may stand."""

    def is_list(annotation: Any) -> bool:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is list or (origin is tuple and arguments[1:] == (Ellipsis,)):
            return True
        # Of a union, only "a list or nothing".
        return bool(arguments) and all(a is type(None) or is_list(a) for a in arguments)

    return frozenset(n for n, field in schema.model_fields.items() if is_list(field.annotation))


def load(path: str | Path, schema: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """The config in the file `path`, with its parents and `overrides` ("key.sub=value") applied.

    Raises ConfigError with the name of the file and the dotted path of every invalid key, and of
    every URL that holds credentials.
    """
    tree = read_tree(path, overrides)
    return validate(tree, schema, origin=str(path), errors=tuple(credentials_in(tree)))


def validate(
    tree: Mapping[str, Any], schema: type[ConfigT], origin: str, errors: Sequence[str] = ()
) -> ConfigT:
    """`tree` as an instance of `schema`.

    Raises ConfigError, which lists all errors, those in `errors` included; `origin` is the name of
    `tree` in its message.
    """
    lines = list(errors)
    try:
        config = schema.model_validate(tree)
    except ValidationError as error:
        lines += describe(error, schema)
    if lines:
        text = "\n".join(f"  {line}" for line in lines)
        raise ConfigError(f"{origin}: {len(lines)} error(s)\n{text}")
    return config


def fingerprint(value: Any, plain: Callable[[Any], Any] | None = None) -> str:
    """The sha256 (hex) of a config, or of any JSON value, in canonical form (sorted keys).

    `plain` gives the JSON value of anything else in it.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    digest = hashlib.sha256()
    for text in _canonical(value, plain):
        # Names of files that are not UTF-8 hold halves of surrogate pairs.
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _canonical(value: Any, plain: Callable[[Any], Any] | None) -> Iterator[str]:
    """The canonical form in pieces: each mapping's own values, so that a large tree is never one
    text."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for number, key in enumerate(sorted(value)):
            yield ("," if number else "{") + json.dumps(key, ensure_ascii=False) + ":"
            yield from _canonical(value[key], plain)
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            yield "," if number else "["
            yield from _canonical(part, plain)
        yield "]"
    else:
        yield json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=plain
        )


def read_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The merged mapping of `path`, its parents and `overrides`, before validation.

    Raises ConfigError if a file cannot be read or an override cannot be applied.
    """
    return with_overrides(_read_with_parents(Path(path), seen=()), overrides)


def with_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`tree`, in which `overrides` are applied; raises ConfigError for one that cannot be."""
    for override in overrides:
        _apply_override(tree, override)
    return tree


def tree_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The mapping that `overrides` ("key.sub=value") alone describe; ConfigError as `read_tree`."""
    tree: dict[str, Any] = {}
    for override in overrides:
        _apply_override(tree, override)
    return tree


def _read_with_parents(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(str(p) for p in (*seen, resolved))
        raise ConfigError(f"{path}: 'extends' is circular: {chain}")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder: give the config file that was run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be 'key: value' lines, not a {_kind(tree)}")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: 'extends' must be the name of one file, not {parent!r}")
    try:
        parent = expanded(parent)
    except ValueError as error:
        raise ConfigError(f"{path}: 'extends': {error}") from None
    return merged(_read_with_parents(path.parent / parent, (*seen, resolved)), tree)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key that appears twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """`parent` with the keys of `child`; mappings in both are merged key by key, unless their
    `type` differs."""
    result = dict(parent)
    for key, value in child.items():
        old = result.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            same_choice = value.get("type", old.get("type")) == old.get("type")
            result[key] = merged(old, value) if same_choice else value
        else:
            result[key] = value
    return result


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r}: write it as key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None
    node: Any = tree
    for depth, key in enumerate(keys):
        is_last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise ConfigError(
                    f"override {override!r}: {'.'.join(keys[:depth])} is a list of {len(node)}; "
                    f"{key!r} is not one of its indices"
                )
            index: Any = int(key)
        elif isinstance(node, dict):
            index = key
        else:
            raise ConfigError(
                f"override {override!r}: {'.'.join(keys[:depth])} is {node!r}, which has no keys"
            )
        if is_last:
            node[index] = value
        elif isinstance(node, dict):
            child = node.get(index)
            node = node.setdefault(index, {}) if child is not None else _set(node, index, {})
        else:
            node = node[index]


def _set(node: dict[str, Any], key: str, value: dict[str, Any]) -> dict[str, Any]:
    node[key] = value
    return value


def _kind(value: Any) -> str:
    return {list: "list", str: "text", int: "number", float: "number"}.get(
        type(value), type(value).__name__
    )

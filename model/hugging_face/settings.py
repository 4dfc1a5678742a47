"""What may be wrong with the settings of a config.json, by their own names."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_DEFAULT_ROPE = "default"
ROPE_KEYS = ("rope_parameters", "rope_scaling")
"""Where transformers 5 and 4 have the settings of rotary positions."""


def number_errors(
    hf: Mapping[str, Any], required: Iterable[str], optional: Mapping[str, int] | None = None
) -> Iterator[str]:
    """A line for each of the `required` sizes that is missing or no whole number from 1, and for
    each of the `optional` numbers below its least value."""
    sizes = dict.fromkeys(required, 1)
    for key, least in {**sizes, **(optional or {})}.items():
        if hf.get(key) is None:
            if key in sizes:
                yield f"{key} is missing"
        elif type(hf[key]) is not int or hf[key] < least:
            yield f"{key} {hf[key]!r} is no number from {least}"


def flag_errors(hf: Mapping[str, Any], keys: Iterable[str]) -> Iterator[str]:
    """A line for each of the `keys` that is given and neither true nor false."""
    for key in keys:
        if key in hf and type(hf[key]) is not bool:
            yield f"{key} {hf[key]!r} is neither true nor false"


def value_errors(hf: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """A line for each key that is given with another value than the `wanted` one."""
    for key, value in wanted.items():
        if hf.get(key) not in (None, value):
            yield f"{key} {hf[key]!r} is not supported (only {value!r})"


def rope_errors(hf: Mapping[str, Any], kinds: Iterable[str] = ()) -> Iterator[str]:
    """A line for each setting of rotary positions that the network does not compute.

    `kinds`: the kinds of layers that have settings of their own in ``rope_parameters``.
    """
    for key in ROPE_KEYS:
        given = hf.get(key) or {}
        sections = {key: given}
        if kinds and key == "rope_parameters" and isinstance(given, Mapping):
            sections = {f"{key}.{kind}": section or {} for kind, section in given.items()}
        for name, section in sections.items():
            yield from _section_errors(name, section)
    yield from _factor_errors("", hf)
    for key in ("rope_theta", "global_rope_theta", "local_rope_theta"):
        yield from _base_errors(key, hf.get(key))


def rope_base(hf: Mapping[str, Any], default: float) -> float:
    """The base of the rotary positions of all layers, in which `rope_errors` found no error.

    As in transformers, ``rope_scaling`` stands for ``rope_parameters`` where both are given.
    """
    parameters = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    return float(parameters.get("rope_theta") or hf.get("rope_theta") or default)


def _section_errors(name: str, section: Any) -> Iterator[str]:
    if not isinstance(section, Mapping):
        yield f"{name} {section!r} is no mapping"
        return
    for key in ("rope_type", "type"):
        kind = section.get(key)
        if kind not in (None, _DEFAULT_ROPE):
            yield f"{name}.rope_type {kind!r} is not supported (only {_DEFAULT_ROPE!r})"
            break
    yield from _factor_errors(f"{name}.", section)
    yield from _base_errors(f"{name}.rope_theta", section.get("rope_theta"))


def _factor_errors(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    if section.get("partial_rotary_factor") not in (None, 1.0):
        yield f"{where}partial_rotary_factor is not supported (only 1.0)"


def _base_errors(name: str, base: Any) -> Iterator[str]:
    if base is not None and (type(base) not in (int, float) or not base > 1):
        yield f"{name} {base!r} is no number above 1"

"""Schemes that mark entities by tags of words: which one labels are of, and its broken rules."""

from collections.abc import Mapping, Sequence
from typing import Literal

Tagging = Literal["auto", "none", "conlleval", "iob1", "iob2", "bioes", "bilou"]

OUTSIDE = "O"
_PREFIXES: Mapping[str, str] = {
    "conlleval": "BIES",
    "iob1": "BI",
    "iob2": "BI",
    "bioes": "BIES",
    "bilou": "BILU",
}
"""What a tag may start with, before "-" and the type of the entity."""
_AS_BIOES = str.maketrans("LU", "ES")


def tagging_of(labels: Sequence[str]) -> Tagging:
    """The scheme that has all of `labels`: "none" where they are no tags of entities."""
    prefixes = {label.split("-", 1)[0] for label in labels if label != OUTSIDE}
    if any("-" not in label for label in labels if label != OUTSIDE) or not prefixes:
        return "none"
    if "B" in prefixes and prefixes <= {"B", "I"}:
        return "iob2"
    if prefixes == {"I"}:
        return "iob1"
    if prefixes <= set(_PREFIXES["bioes"]):
        return "bioes"
    return "bilou" if prefixes <= set(_PREFIXES["bilou"]) else "none"


def wrong_label(labels: Sequence[str], tagging: Tagging) -> str | None:
    """The first of `labels` that the scheme does not have."""
    for label in labels:
        prefix, dash, kind = label.partition("-")
        is_tag = dash and kind and len(prefix) == 1 and prefix in _PREFIXES[tagging]
        if label != OUTSIDE and not is_tag:
            return label
    return None


def num_broken(tags: Sequence[str], tagging: Tagging) -> int:
    """How many tags of a sentence do not fit the one before, or the end of the sentence."""
    if tagging not in ("iob1", "iob2", "bioes", "bilou"):
        return 0
    broken = 0
    before, kind_before = OUTSIDE, ""
    for tag in [*tags, OUTSIDE]:
        prefix, _, kind = tag.partition("-")
        prefix = prefix.translate(_AS_BIOES)
        is_open = before in ("B", "I")
        continues = is_open and kind == kind_before
        if tagging == "iob1":
            broken += prefix == "B" and not continues
        elif tagging == "iob2":
            broken += prefix == "I" and not continues
        elif is_open:
            broken += not (continues and prefix in ("I", "E"))
        else:
            broken += prefix in ("I", "E")
        before, kind_before = prefix, kind
    return broken

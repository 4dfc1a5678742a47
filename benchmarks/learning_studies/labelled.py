"""Labelled examples of a task, and how they are divided, written and read."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.dataset.atomic import write_atomic

SPLITS = ("train", "dev", "test")
SHARES = {"train": 0.6, "dev": 0.1, "test": 0.3}
"""Of the groups of a task's source."""


@dataclass(frozen=True)
class Labelled:
    """A text with its label, or words with a label each."""

    group: str
    """Examples of a group are in the same split: texts of one author or one source."""
    words: tuple[str, ...]
    """The text is these, joined by spaces; for a classified text, a single item."""
    labels: tuple[str, ...]
    """One for the text, or one for each word."""

    @property
    def text(self) -> str:
        """The whole text."""
        return " ".join(self.words)


@dataclass(frozen=True)
class Sizes:
    """How many examples the splits of a task have at most."""

    train: int
    dev: int
    test: int

    def scaled(self, factor: float) -> "Sizes":
        """`factor` times as many, at least 8 each."""
        return Sizes(*(max(8, round(n * factor)) for n in (self.train, self.dev, self.test)))


def keyed_share(*key: str) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    digest = hashlib.sha256("\0".join(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(group: str) -> str:
    """The split of a group, by its hash."""
    place = keyed_share("split", group)
    return "train" if place < SHARES["train"] else "test" if place >= 0.7 else "dev"


def divided(
    examples: Iterable[Labelled], sizes: Sizes, balanced: bool
) -> dict[str, list[Labelled]]:
    """The examples of each split, in a fixed random order, none with the text of an earlier one.

    `balanced` takes equally many of every label (as far as there are so many); else the first ones.
    """
    by_split: dict[str, list[Labelled]] = {name: [] for name in SPLITS}
    seen: set[str] = set()
    for example in sorted(examples, key=lambda e: keyed_share("order", e.group, e.text)):
        key = " ".join(example.text.lower().split())
        if key not in seen:
            seen.add(key)
            by_split[split_of(example.group)].append(example)
    return {
        name: _balanced(found, getattr(sizes, name)) if balanced else found[: getattr(sizes, name)]
        for name, found in by_split.items()
    }


def _balanced(examples: list[Labelled], size: int) -> list[Labelled]:
    by_label: dict[tuple[str, ...], list[Labelled]] = defaultdict(list)
    for example in examples:
        by_label[example.labels].append(example)
    most = size // max(1, len(by_label))
    chosen = {id(e) for found in by_label.values() for e in found[:most]}
    return [example for example in examples if id(example) in chosen]


def write_examples(path: Path, examples: Iterable[Labelled], is_tagging: bool) -> None:
    """Writes JSON lines as fine-tuning reads them."""
    lines: list[Mapping[str, object]] = [
        {"words": e.words, "labels": e.labels}
        if is_tagging
        else {"text": e.text, "label": e.labels[0]}
        for e in examples
    ]
    write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_examples(path: Path) -> Iterator[Labelled]:
    """The examples that `write_examples` wrote, without their groups."""
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "words" in line:
            yield Labelled("", tuple(line["words"]), tuple(line["labels"]))
        else:
            yield Labelled("", (line["text"],), (line["label"],))

"""Damaged copies of a file's content, and changes of values in a JSON tree."""

import random
from collections.abc import Callable, Iterator
from typing import Any

Tree = dict[str, Any]


def changed_bytes(content: bytes, seed: int, count: int = 300) -> Iterator[bytes]:
    """`count` copies of `content` with one byte changed, in two of three a digit to a digit."""
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    generator = random.Random(seed)
    for trial in range(count):
        damaged = bytearray(content)
        place = generator.choice(digits) if trial % 3 else generator.randrange(len(content))
        choices = b"0123456789" if trial % 3 else bytes(range(256))
        damaged[place] = generator.choice([byte for byte in choices if byte != content[place]])
        yield bytes(damaged)


def set_in(*keys: str | int, value: object) -> Callable[[Tree], None]:
    """A change of the value under `keys`."""

    def change(tree: Tree) -> None:
        target: Any = tree
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value

    return change

"""A number that names the documents that were read: the sum of a hash of each.

The sum is the same whatever the part boundaries. It changes when an edit keeps a file's size.
"""

from collections.abc import Iterable

import xxhash

from data_prep.readers.document import Document

_MODULUS = 1 << 128


def hash_of(document: Document, text: bytes) -> int:
    """A hash of a kept document: its normalised text, id and place."""
    place = f"{document.id}\0{document.offset}\0".encode("utf-8", "surrogatepass")
    return xxhash.xxh3_128_intdigest(place + text)


def as_text(content: int) -> str:
    """A sum of hashes as a record holds it."""
    return f"{content % _MODULUS:032x}"


def total(contents: Iterable[str]) -> str:
    """The sum over the records of all parts."""
    return as_text(sum(int(content, 16) for content in contents))

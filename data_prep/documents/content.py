"""A number that names the documents that were read: the sum of a hash of each.

The sum is the same whatever the part boundaries. It changes when an edit keeps a file's size.
"""

from collections.abc import Iterable, Iterator, Sequence

import xxhash

from data_prep.documents.files import StoredDocuments
from data_prep.readers.document import Document

_MODULUS = 1 << 128


def hashes_of(
    batch: Sequence[Document], stored: StoredDocuments, numbers: Iterable[int]
) -> Iterator[int]:
    """A hash of each kept document of a batch: its normalised text, id and place, and metadata."""
    for place, number in enumerate(numbers):
        document = batch[number]
        name = f"{document.id}\0{document.offset}\0".encode("utf-8", "surrogatepass")
        content = name + stored.texts[place]
        if stored.metadata is not None:
            content += b"\0" + stored.metadata[place]
        yield xxhash.xxh3_128_intdigest(content)


def as_text(content: int) -> str:
    """A sum of hashes as a record holds it."""
    return f"{content % _MODULUS:032x}"


def total(contents: Iterable[str]) -> str:
    """The sum over the records of all parts."""
    return as_text(sum(int(content, 16) for content in contents))

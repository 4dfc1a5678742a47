"""Texts in one normal form: NFC, no control characters, plain spaces and newlines.

The rules are applied to a whole batch of texts at once as bytes, which is several times faster than
text by text; ``\\x1e`` (record separator, itself a control character) keeps the texts apart.
"""

import re
import unicodedata
from collections.abc import Sequence

SEPARATOR = b"\x1e"
_DELETED = bytes(set(range(32)) - set(b"\t\n\x0b\x0c\r")) + b"\x7f"
_TO_SPACE = bytes.maketrans(b"\t\x0b\x0c", b"   ")
_KEEPS_SEPARATOR = bytes(set(_DELETED) - set(SEPARATOR))
# Besides ASCII: C1 controls, soft hyphen, zero-width and directional marks, byte order mark,
# replacement character, non-characters and private interlinear marks are deleted.
_DELETED_UNICODE = re.compile(
    "[\x80-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\uffff]"
)
_SPACES_UNICODE = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_NEWLINES_UNICODE = re.compile("[\x85\u2028\u2029]")


def normalise(texts: Sequence[str]) -> list[bytes]:
    """Each text in normal form, as UTF-8.

    Unicode NFC; unusual spaces become a space, unusual line ends a newline; control, invisible and
    replacement characters are deleted; runs of spaces become one; lines and text have no space at
    their ends; at most one blank line stands between lines.
    """
    pieces = [
        text.encode() if text.isascii() else _normalise_unicode(text).encode("utf-8", "ignore")
        for text in texts
    ]
    joined = SEPARATOR.join(pieces)
    if joined.count(SEPARATOR) != max(len(pieces) - 1, 0):
        joined = SEPARATOR.join([piece.replace(SEPARATOR, b"") for piece in pieces])
    joined = joined.translate(_TO_SPACE, _KEEPS_SEPARATOR)
    if b"\r" in joined:
        joined = joined.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for run, one in ((b"  ", b" "), (b" \n", b"\n"), (b"\n ", b"\n"), (b"\n\n\n", b"\n\n")):
        while run in joined:
            joined = joined.replace(run, one)
    return [piece.strip(b" \n") for piece in joined.split(SEPARATOR)] if pieces else []


def _normalise_unicode(text: str) -> str:
    text = _DELETED_UNICODE.sub("", text)
    text = _SPACES_UNICODE.sub(" ", text)
    text = _NEWLINES_UNICODE.sub("\n", text)
    return unicodedata.normalize("NFC", text)

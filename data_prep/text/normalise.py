"""Texts in a normal form: NFC, no control characters, plain spaces and newlines.

The rules are applied to a whole batch of texts at once, which is several times faster than text by
text; ``\\x1e`` (record separator, a control character) separates the texts.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from configs.load import Config
from data_prep.kernels import normal_form
from data_prep.kernels.normal_form import (
    DELETE,
    LEADS,
    MAKE_NEWLINE,
    MAKE_SPACE,
    ORDINARY,
    SPACE,
    SPECIAL,
    has_unstable,
    plain_characters,
    unstable_characters,
)

SEPARATOR = bytes([normal_form.SEPARATOR])

Bytes = npt.NDArray[np.uint8]


def _codes(*ranges: tuple[int, int]) -> Iterable[int]:
    return (code for first, last in ranges for code in range(first, last + 1))


# C1 controls, soft hyphen, zero-width space, directional marks, invisible operators, byte order
# mark, interlinear marks, replacement character. The joiners U+200C and U+200D are kept.
_UNUSUAL = {
    **dict.fromkeys(_codes((0x80, 0x84), (0x86, 0x9F), (0xAD, 0xAD), (0x200B, 0x200B)), DELETE),
    **dict.fromkeys(_codes((0x200E, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F)), DELETE),
    **dict.fromkeys(_codes((0xFEFF, 0xFEFF), (0xFFF9, 0xFFFF)), DELETE),
    **dict.fromkeys(_codes((0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)), MAKE_SPACE),
    **dict.fromkeys(_codes((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)), MAKE_SPACE),
    **dict.fromkeys((0x85, 0x2028, 0x2029), MAKE_NEWLINE),
}


class NormaliseConfig(Config):
    """The normal form of the texts."""

    whitespace: Literal["collapse", "keep"] = "collapse"
    """collapse: consecutive white space becomes one space, lines have no space at their ends, and
    there is at most one blank line between lines. keep: indentation, tabs, spaces inside lines and
    blank lines stay, as code, verse and tables need; only spaces at the ends of lines go."""
    unicode: Literal["nfc", "nfkc", "none"] = "nfc"
    """Unicode normalisation form. nfkc also replaces ligatures, full-width letters, superscripts
    and the like by plain characters; none keeps the characters as they are."""

    @property
    def keeps_whitespace(self) -> bool:
        """Whether indentation and blank lines stay."""
        return self.whitespace == "keep"


DEFAULT_FORM = NormaliseConfig()


def normalise(texts: Sequence[str], form: NormaliseConfig = DEFAULT_FORM) -> list[bytes]:
    """Each text in normal form, as UTF-8.

    Unusual spaces become a space, unusual line ends a newline; control, invisible and replacement
    characters, and halves of surrogate pairs, are deleted; consecutive spaces become one; lines and
    text have no space at their ends; there is at most one blank line between lines; Unicode NFC.
    What `form` says otherwise is not done.
    """
    if not texts:
        return []
    if form.unicode == "nfkc":  # first, as it makes spaces
        texts = [unicodedata.normalize("NFKC", text) for text in texts]
    pieces = [text.encode("utf-8", "ignore") for text in texts]
    joined = SEPARATOR.join(pieces)
    is_separator = np.frombuffer(joined, np.uint8) == normal_form.SEPARATOR
    if np.count_nonzero(is_separator) != len(pieces) - 1:
        joined = SEPARATOR.join([piece.replace(SEPARATOR, b"") for piece in pieces])
    is_ascii = joined.isascii()
    joined = _plain(joined, not form.keeps_whitespace)
    pieces = joined.split(SEPARATOR)
    if not is_ascii and form.unicode != "none":
        for number in _to_compose(joined, pieces):
            pieces[number] = unicodedata.normalize("NFC", pieces[number].decode()).encode()
    if form.keeps_whitespace:
        pieces = [without_trailing_spaces(piece) for piece in pieces]
    return pieces


def _to_compose(joined: bytes, pieces: Sequence[bytes]) -> list[int]:
    """The numbers of the `joined` pieces that may not be in NFC."""
    data = np.frombuffer(joined + bytes(8), dtype=np.uint8)
    eight = np.ndarray((len(data) - 7,), "<u8", data.data, strides=(1,))
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    ends = np.cumsum(lengths + 1) - 1
    found = has_unstable(data, eight, ends, unstable_characters())
    numbers: list[int] = np.flatnonzero(found).tolist()
    return numbers


def without_trailing_spaces(text: bytes) -> bytes:
    """`text` without spaces and tabs at the ends of its lines, and without blank lines at its start
    and end. The first line keeps its indentation."""
    return b"\n".join([line.rstrip(b" \t") for line in text.split(b"\n")]).strip(b"\n")


def plain_white_space(joined: bytes) -> bytes:
    """`joined` texts without consecutive spaces, spaces at ends of lines, consecutive blank lines,
    and white space around them; and without what is not in any text in normal form."""
    return _plain(joined, collapses=True)


def _plain(joined: bytes, collapses: bool) -> bytes:
    data = np.frombuffer(joined, dtype=np.uint8)
    kinds = _KINDS if collapses else _KINDS_BUT_TABS
    return plain_characters(data, kinds, _ACTIONS, collapses).tobytes()


def _kinds_of_bytes(spaces: bytes) -> Bytes:
    """The kind of each byte; `spaces` are those besides the space itself."""
    leads = {chr(code).encode()[0] for code in _UNUSUAL}
    assert leads == set(LEADS), sorted(leads)
    kinds = np.full(256, ORDINARY, dtype=np.uint8)
    kinds[[*range(32), 0x7F, *leads]] = SPECIAL
    kinds[[ord(" "), *spaces]] = SPACE
    return kinds


_KINDS, _KINDS_BUT_TABS = _kinds_of_bytes(b"\t\x0b\x0c"), _kinds_of_bytes(b"\x0b\x0c")
_KINDS_BUT_TABS[ord("\t")] = ORDINARY
_ACTIONS = np.zeros(1 << 16, dtype=np.uint8)
_ACTIONS[list(_UNUSUAL)] = list(_UNUSUAL.values())

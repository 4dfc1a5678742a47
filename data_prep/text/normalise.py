"""Texts in a normal form: NFC, no control characters, plain spaces and newlines.

The rules are applied to a whole batch of texts at once, as bytes in numpy, which is several times
faster than text by text; ``\\x1e`` (record separator, a control character) separates the texts.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from configs.load import Config

SEPARATOR = b"\x1e"
_LINE_END = b"\x1d"
"""Stands for an unusual line end until "\\r\\n" is replaced, which it must not become a part of."""
_SPACE, _NEWLINE, _RECORD = 0x20, 0x0A, SEPARATOR[0]
_TO_SPACE = bytes.maketrans(b"\t\x0b\x0c", b"   ")
_TO_SPACE_BUT_TABS = bytes.maketrans(b"\x0b\x0c", b"  ")
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\x0b\x0c\r") - set(SEPARATOR)) + b"\x7f"
_MAY_COMPOSE = 0xCC
"""First byte of U+0300 in UTF-8: a text of lower bytes only is in NFC."""

Bytes = npt.NDArray[np.uint8]


def _codes(*ranges: tuple[int, int]) -> Iterable[int]:
    return (code for first, last in ranges for code in range(first, last + 1))


_DELETE, _MAKE_SPACE, _MAKE_NEWLINE = 1, 2, 3
# C1 controls, soft hyphen, zero-width space, directional marks, invisible operators, byte order
# mark, interlinear marks, replacement character. The joiners U+200C and U+200D are kept.
_UNUSUAL = {
    **dict.fromkeys(_codes((0x80, 0x84), (0x86, 0x9F), (0xAD, 0xAD), (0x200B, 0x200B)), _DELETE),
    **dict.fromkeys(_codes((0x200E, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F)), _DELETE),
    **dict.fromkeys(_codes((0xFEFF, 0xFEFF), (0xFFF9, 0xFFFF)), _DELETE),
    **dict.fromkeys(_codes((0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)), _MAKE_SPACE),
    **dict.fromkeys(_codes((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)), _MAKE_SPACE),
    **dict.fromkeys((0x85, 0x2028, 0x2029), _MAKE_NEWLINE),
}
_LEADS = sorted({chr(code).encode()[0] for code in _UNUSUAL})


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
    if joined.count(SEPARATOR) != len(pieces) - 1:
        joined = SEPARATOR.join([piece.replace(SEPARATOR, b"") for piece in pieces])
    is_ascii = joined.isascii()
    to_space = _TO_SPACE_BUT_TABS if form.keeps_whitespace else _TO_SPACE
    joined = joined.translate(to_space, _CONTROLS)
    if not is_ascii:  # first: what it deletes may stand between "\r" and "\n"
        joined = _without_unusual(joined)
    if b"\r" in joined:
        joined = joined.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    joined = joined.replace(_LINE_END, b"\n")
    if form.keeps_whitespace:
        pieces = [without_trailing_spaces(piece) for piece in joined.split(SEPARATOR)]
    else:
        pieces = [piece.strip(b" \n") for piece in plain_white_space(joined).split(SEPARATOR)]
    return pieces if is_ascii or form.unicode == "none" else [_composed(piece) for piece in pieces]


def without_trailing_spaces(text: bytes) -> bytes:
    """`text` without spaces and tabs at the ends of its lines, and without blank lines at its start
    and end. The first line keeps its indentation."""
    return b"\n".join([line.rstrip(b" \t") for line in text.split(b"\n")]).strip(b"\n")


def plain_white_space(joined: bytes) -> bytes:
    """`joined` texts without consecutive spaces, spaces at ends of lines, and consecutive blank
    lines."""
    data = np.frombuffer(joined, dtype=np.uint8)
    if b"  " in joined:
        is_space = data == _SPACE
        data = _without(data, 1 + np.flatnonzero(is_space[1:] & is_space[:-1]))
    is_end = (data == _NEWLINE) | (data == _RECORD)
    beside_end = is_end[:-2] | is_end[2:]
    data = _without(data, 1 + np.flatnonzero(beside_end & (data[1:-1] == _SPACE)))
    is_newline = data == _NEWLINE
    run = is_newline[2:] & is_newline[1:-1] & is_newline[:-2]
    return _without(data, 2 + np.flatnonzero(run)).tobytes()


def _without(data: Bytes, positions: npt.NDArray[np.int64]) -> Bytes:
    """`data` without the bytes at `positions`."""
    if not len(positions):
        return data
    keep = np.ones(len(data), dtype=bool)
    keep[positions] = False
    return data[keep]


def _without_unusual(joined: bytes) -> bytes:
    """`joined` with the characters of _UNUSUAL deleted or replaced, line ends by _LINE_END."""
    data = np.frombuffer(joined + bytes(2), dtype=np.uint8)
    keep = np.ones(len(data), dtype=bool)
    keep[-2:] = False
    changed = data.copy()
    for lead in _LEADS:
        at = np.flatnonzero(data == lead)
        if not len(at):
            continue
        size = 2 if lead < 0xE0 else 3
        code = (data[at] & np.uint8(0x1F if size == 2 else 0x0F)).astype(np.int64)
        for offset in range(1, size):
            code = code << 6 | (data[at + offset] & np.uint8(0x3F))
        action = _ACTIONS[code]
        at, action = at[action > 0], action[action > 0]
        for offset in range(1, size):
            keep[at + offset] = False
        keep[at[action == _DELETE]] = False
        changed[at] = np.where(action == _MAKE_NEWLINE, _LINE_END[0], _SPACE)
    return changed[keep].tobytes()


_ACTIONS = np.zeros(1 << 16, dtype=np.uint8)
_ACTIONS[list(_UNUSUAL)] = list(_UNUSUAL.values())


def _composed(piece: bytes) -> bytes:
    """A text in NFC."""
    if piece.isascii() or np.frombuffer(piece, dtype=np.uint8).max() < _MAY_COMPOSE:
        return piece
    return unicodedata.normalize("NFC", piece.decode()).encode()

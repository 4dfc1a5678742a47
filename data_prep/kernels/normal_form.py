"""Texts without control characters, and with plain spaces and line ends."""

import unicodedata
from functools import cache

import numpy as np

from data_prep.kernels.characters import character
from data_prep.kernels.compiled import (
    BYTE,
    FLAG,
    I64,
    INTEGER,
    U8,
    U64,
    UNALIGNED,
    Flags,
    compiled,
    inlined,
    read,
)

SEPARATOR = 0x1E
"""Between texts: the record separator, a control character."""
DELETE, MAKE_SPACE, MAKE_NEWLINE = 1, 2, 3
"""What happens to an unusual character."""
ORDINARY, SPACE, SPECIAL = np.uint8(0), np.uint8(1), np.uint8(2)
"""Kinds of bytes: copied; copied as a space, unless they follow one; looked at more closely."""
LEADS = (0xC2, 0xE1, 0xE2, 0xE3, 0xEF)
"""First bytes in UTF-8 of all characters that have an action."""
_RECORD, _BLANK, _NEWLINE, _RETURN = np.uint8(SEPARATOR), np.uint8(32), np.uint8(10), np.uint8(13)
_0, _1 = np.uint64(0), np.uint64(1)


@inlined
def _without_end(out: U8, num: np.uint64) -> np.uint64:
    """The number of bytes without the white space at their end."""
    while out[num - _1] == _BLANK or out[num - _1] == _NEWLINE:
        num -= _1
    return num


@inlined
def _end_line(out: U8, num: np.uint64, collapses: bool) -> np.uint64:
    """The number of bytes after a newline: without a space before it, and none at the start of a
    text or after two."""
    if collapses:
        if out[num - _1] == _BLANK:
            num -= _1
        last = out[num - _1]
        if last == _RECORD or (last == _NEWLINE and out[num - _1 - _1] == _NEWLINE):
            return num
    out[num] = _NEWLINE
    return num + _1


@inlined
def _suspects(joined: U8) -> U64:
    """The positions of bytes that may have to be changed, ascending, and finally the end."""
    is_suspect = np.zeros(len(joined), np.uint8)
    is_suspect[:1] = 1
    for at in range(1, len(joined)):
        byte, before = joined[at], joined[at - 1]
        is_suspect[at] = np.uint8(
            (byte < _BLANK)
            | ((byte == _BLANK) & (before <= _BLANK))
            | (byte == np.uint8(0x7F))
            | (byte == np.uint8(LEADS[0]))
            | (byte == np.uint8(LEADS[1]))
            | (byte == np.uint8(LEADS[2]))
            | (byte == np.uint8(LEADS[3]))
            | (byte == np.uint8(LEADS[4]))
        )
    positions = np.empty(len(joined) + 1, np.uint64)
    num = _0
    for at in range(np.uint64(len(joined))):
        positions[num] = at  # what is no suspect is overwritten
        num += np.uint64(is_suspect[at])
    positions[num] = len(joined)
    return positions[: num + _1]


@compiled(read(BYTE), read(BYTE), read(BYTE), FLAG)
def plain_characters(joined: U8, kinds: U8, actions: U8, collapses: bool) -> U8:
    """`joined` texts without control and unusual characters, and with plain line ends.

    `kinds` are those of all bytes, `actions` what happens to the characters up to U+FFFF, 0 for
    nothing. With `collapses`, also without consecutive spaces, spaces at ends of lines, consecutive
    blank lines, and white space around texts.
    """
    out = np.empty(len(joined) + 2, np.uint8)
    out[0] = _RECORD
    suspects, suspect = _suspects(joined), _0
    num, at, end = _1, _0, np.uint64(len(joined))
    is_plain = was_return = False
    while at < end:
        if is_plain:  # the byte before: copied up to the next that may have to be changed
            while suspects[suspect] < at:
                suspect += _1
            for place in range(at, suspects[suspect]):
                out[num + place - at] = joined[place]
            num += suspects[suspect] - at
            at = suspects[suspect]
            is_plain = False
            continue
        byte = joined[at]
        at += _1
        if kinds[byte] != SPECIAL:
            is_plain, was_return = bool(kinds[byte] == ORDINARY), False
            if is_plain or not collapses or out[num - _1] > _BLANK:
                out[num] = byte if is_plain else _BLANK
                num += _1
            continue
        action = np.uint8(DELETE)
        if byte == _RECORD:
            num = _without_end(out, num) if collapses else num
            out[num] = _RECORD
            num += _1
            action = np.uint8(0)
        elif byte in (_NEWLINE, _RETURN):
            if not (was_return and byte == _NEWLINE):
                num = _end_line(out, num, collapses)
            was_return = byte == _RETURN
            continue
        elif byte >= 0x80:
            size, action = character(joined, at - _1, end, actions)
            if action == 0:
                for place in range(at - _1, at - _1 + size):
                    out[num] = joined[place]
                    num += _1
            at += size - _1
        if action == DELETE:
            continue
        was_return = False
        if action == MAKE_NEWLINE:
            num = _end_line(out, num, collapses)
        elif action == MAKE_SPACE and (not collapses or out[num - _1] > _BLANK):
            out[num] = _BLANK
            num += _1
    num = _without_end(out, num) if collapses else num
    return out[1:num]


@cache
def unstable_characters() -> U8:
    """1 for each code point below 0x110000 that NFC may change, or that may change those before it,
    0 for others (the quick check of UAX #15)."""
    unstable = np.zeros(0x110000, np.uint8)
    unstable[[*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]] = 1  # parts of Hangul syllables
    for first, end in _WITH_UNSTABLE:
        for code in range(first, end):
            decomposition = unicodedata.decomposition(chr(code))
            if decomposition and decomposition[0] != "<":
                unstable[[int(part, 16) for part in decomposition.split()[1:]]] = 1
            if unicodedata.combining(chr(code)) or (
                decomposition and not unicodedata.is_normalized("NFC", chr(code))
            ):
                unstable[code] = 1
    return unstable


_WITH_UNSTABLE = ((0xA0, 0x3400), (0xA000, 0xAC00), (0xF900, 0x17000), (0x18D00, 0x20000),
                  (0x2F800, 0x2FA20))  # fmt: skip
"""Elsewhere are ideographs and whole Hangul syllables, and nothing beyond."""
_BEYOND_ASCII = np.uint64(0x8080808080808080)
_8 = np.uint64(8)


@compiled(read(BYTE), UNALIGNED, read(INTEGER), read(BYTE))
def has_unstable(data: U8, eight: U64, ends: I64, unstable: U8) -> Flags:
    """Whether each text has a character that is `unstable`: [D]. A byte is between texts; `ends`
    [D] are those of the texts."""
    found = np.zeros(len(ends), np.bool_)
    at = _0
    for text in range(len(ends)):
        end = np.uint64(ends[text])
        while at < end and not found[text]:
            if data[at] < 0x80:
                at += _1
                while at + _8 <= end and eight[at] & _BEYOND_ASCII == _0:
                    at += _8
                continue
            size, is_unstable = character(data, at, end, unstable)
            found[text] = is_unstable != 0
            at += size
        at = end + _1
    return found

"""Where personal data and secrets may start in texts, so that patterns are tried nowhere else.

Each function gives the ascending positions of what its pattern could match, in texts [start, end)
of `data`, and of some that it does not match. Legend: D texts, B bytes, P positions.
"""

import string
from functools import cache

import numpy as np

from data_prep.kernels.characters import character
from data_prep.kernels.compiled import (
    BYTE,
    FLAG,
    I64,
    INTEGER,
    U8,
    Flags,
    compiled,
    inlined,
    read,
)

_DIGIT, _HEX, _WORD, _VALUE, _TOKEN, _CAPITAL, _SPACE, _NO_LEAD_OF_CARD = (1 << n for n in range(8))
"""Kinds of bytes, see `_kinds`."""
_DOT, _COLON, _EQUAL, _PLUS, _LINE_END = (ord(character) for character in ".:=+\n")
_QUOTES = ord('"'), ord("'")
_SEPARATORS = ord(" "), ord("-")
_LEAST_CARD, _LEAST_VALUE, _LEAST_TOKEN, _LEAST_PHONE = 14, 12, 15, 4
"""Digits of a card; bytes of an assigned value and of a token of a service; digits of a telephone
number."""
_KEY_ENDS = tuple(b"yntd")
"""The last letters of names of secrets, in lower case."""
_TOKEN_STARTS = "AK AS AB AC gh gi gl xo xa AI ya GO sk rk wh hf np py dc SG SK sh do ey"


def _kinds() -> U8:
    kinds = np.zeros(256, dtype=np.uint8)
    letters = string.ascii_letters + string.digits
    for kind, members in (
        (_DIGIT, string.digits),
        (_HEX, string.hexdigits),
        (_WORD, letters + "_"),
        (_VALUE, letters + "+/_=!@#$%^&*~-"),
        (_TOKEN, letters + "_-.:"),
        (_CAPITAL, string.ascii_uppercase),
        (_SPACE, string.whitespace),
        (_NO_LEAD_OF_CARD, letters + "_.,+/=-"),
    ):
        kinds[list(members.encode())] |= kind
    return kinds


def _token_starts() -> Flags:
    """Whether a token of a service may start with each two bytes."""
    starts = np.zeros(1 << 16, dtype=bool)
    starts[[pair[0] << 8 | pair[1] for pair in map(str.encode, _TOKEN_STARTS.split())]] = True
    digits = range(ord("0"), ord("9") + 1)
    starts[[first << 8 | second for first in digits for second in digits]] = True
    return starts


_KINDS, _STARTS_TOKEN = _kinds(), _token_starts()


@inlined
def _is(byte: np.uint8, kind: int) -> bool:
    return bool(_KINDS[byte] & kind)


@inlined
def _end_of(data: U8, at: int, end: int, kind: int, most: int) -> int:
    """The end of the bytes of a kind from `at` on, at most `most`."""
    end = min(end, at + most)
    while at < end and _is(data[at], kind):
        at += 1
    return at


@inlined
def _start_of(data: U8, at: int, start: int, kind: int, most: int) -> int:
    """The start of the bytes of a kind before `at`, at most `most`."""
    start = max(start, at - most)
    while at > start and _is(data[at - 1], kind):
        at -= 1
    return at


@compiled(read(BYTE), read(INTEGER), read(INTEGER))
def ipv4_places(data: U8, starts: I64, ends: I64) -> I64:
    """Four groups of up to three digits with dots between, not in a word or after a dot: [P]."""
    found, num = np.empty(len(data) // 2 + 1, np.int64), 0
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        for dot in range(start + 1, end - 1):
            if (
                data[dot] != _DOT
                or not _is(data[dot - 1], _DIGIT)
                or not _is(data[dot + 1], _DIGIT)
            ):
                continue
            first = _start_of(data, dot, start, _DIGIT, 3)
            if first > start and (_is(data[first - 1], _WORD) or data[first - 1] == _DOT):
                continue
            at, groups = dot, 1
            while groups < 4 and at < end and data[at] == _DOT:
                after = _end_of(data, at + 1, end, _DIGIT, 4)
                if not 1 <= after - at - 1 <= 3:
                    break
                at, groups = after, groups + 1
            if groups == 4:
                found[num] = first
                num += 1
    return found[:num]


@compiled(read(BYTE), read(INTEGER), read(INTEGER))
def ipv6_places(data: U8, starts: I64, ends: I64) -> I64:
    """Groups of hexadecimal digits with "::" between two, or seven colons among them: [P]."""
    found, num = np.empty(len(data) // 2 + 1, np.int64), 0
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        for colon in range(start + 1, end - 1):
            if data[colon] != _COLON or not _is(data[colon - 1], _HEX):
                continue
            first = _start_of(data, colon, start, _HEX, 4)
            if first > start:
                before = data[first - 1]
                if _is(before, _WORD) or before in (_COLON, _DOT):
                    continue
            colons, has_double, at = 0, False, colon
            while at < end and (data[at] == _COLON or _is(data[at], _HEX)):
                if data[at] == _COLON:
                    colons += 1
                    has_double |= data[at - 1] == _COLON
                    if has_double or colons == 7:
                        break
                at += 1
            if has_double or colons == 7:
                found[num] = first
                num += 1
    return found[:num]


@compiled(read(BYTE), read(INTEGER), read(INTEGER))
def card_places(data: U8, starts: I64, ends: I64) -> I64:
    """Fourteen digits, single spaces or hyphens between some: [P]."""
    found, num = np.empty(len(data) // 2 + 1, np.int64), 0
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        for first in range(start, end - _LEAST_CARD + 1):
            if not _is(data[first], _DIGIT):
                continue
            if first > start and _is(data[first - 1], _NO_LEAD_OF_CARD):
                continue
            at, digits = first + 1, 1
            while digits < _LEAST_CARD and at < end:
                if not _is(data[at], _DIGIT):
                    is_between = data[at] in _SEPARATORS and at + 1 < end
                    if not is_between or not _is(data[at + 1], _DIGIT):
                        break
                    at += 1
                digits += 1
                at += 1
            if digits == _LEAST_CARD:
                found[num] = first
                num += 1
    return found[:num]


@compiled(read(BYTE), read(INTEGER), read(INTEGER))
def iban_places(data: U8, starts: I64, ends: I64) -> I64:
    """Two capitals and two digits, not in a word: [P]."""
    found, num = np.empty(len(data) // 4 + 1, np.int64), 0
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        for at in range(start, end - 3):
            if (
                _is(data[at], _CAPITAL)
                and _is(data[at + 1], _CAPITAL)
                and _is(data[at + 2], _DIGIT)
                and _is(data[at + 3], _DIGIT)
                and (at == start or not _is(data[at - 1], _WORD) or data[at - 1] == ord("_"))
            ):
                found[num] = at
                num += 1
    return found[:num]


@compiled(read(BYTE), read(INTEGER), read(INTEGER))
def token_places(data: U8, starts: I64, ends: I64) -> I64:
    """First two bytes of a token of a service, and as many bytes as one has, not in a word: [P]."""
    found, num = np.empty(len(data) // 2 + 1, np.int64), 0
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        for at in range(start, end - _LEAST_TOKEN + 1):
            if not _STARTS_TOKEN[np.int64(data[at]) << 8 | np.int64(data[at + 1])]:
                continue
            if at > start and _is(data[at - 1], _WORD):
                continue
            if _end_of(data, at, end, _TOKEN, _LEAST_TOKEN) - at == _LEAST_TOKEN:
                found[num] = at
                num += 1
    return found[:num]


@compiled(read(BYTE), read(INTEGER), read(INTEGER))
def assignment_places(data: U8, starts: I64, ends: I64) -> I64:
    """Colons and equals signs between the end of a name of a secret and a long value: [P]."""
    found, num = np.empty(len(data) // 2 + 1, np.int64), 0
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        for at in range(start + 1, end):
            if data[at] != _COLON and data[at] != _EQUAL:
                continue
            before = _start_of(data, at, start, _SPACE, 3)
            if before > start and (
                data[before - 1] == _QUOTES[0] or data[before - 1] == _QUOTES[1]
            ):
                before -= 1
            if before == start or not _ends_key(data[before - 1]):
                continue
            for first in range(at + 1, at + 7):  # after "=>", three spaces and a quotation mark
                if _end_of(data, first, end, _VALUE, _LEAST_VALUE) - first == _LEAST_VALUE:
                    found[num] = at
                    num += 1
                    break
    return found[:num]


@inlined
def _ends_key(byte: np.uint8) -> bool:
    return bool((byte | np.uint8(0x20)) in _KEY_ENDS)


@compiled(read(BYTE), read(INTEGER), read(INTEGER), read(BYTE), FLAG)
def phone_lines(data: U8, starts: I64, ends: I64, digits: U8, with_plus: bool) -> I64:
    """The starts of lines that may hold a telephone number, `with_plus` with a plus sign: [P].
    `digits` are those of `digits_of_code_points`."""
    found, num = np.empty(len(data) // _LEAST_PHONE + 1, np.int64), 0
    for text in range(len(starts)):
        first, end = starts[text], ends[text]
        num_digits, has_plus = 0, False
        for at in range(starts[text], end + 1):
            if at == end or data[at] == _LINE_END:
                if num_digits >= _LEAST_PHONE and (has_plus or not with_plus):
                    found[num] = first
                    num += 1
                first, num_digits, has_plus = at + 1, 0, False
            elif data[at] < 0x80:
                num_digits += int(_is(data[at], _DIGIT))
                has_plus |= data[at] == _PLUS
            elif data[at] >= 0xC0:
                _, is_digit = character(data, np.uint64(at), np.uint64(end), digits)
                num_digits += int(is_digit)
                has_plus |= _is_wide_plus(data, at, end)
    return found[:num]


@inlined
def _is_wide_plus(data: U8, at: int, end: int) -> bool:
    """Whether the fullwidth plus sign stands at `at`."""
    return bool(
        end - at >= 3 and data[at] == 0xEF and data[at + 1] == 0xBC and data[at + 2] == 0x8B
    )


@cache
def digits_of_code_points() -> U8:
    """1 for each code point below 0x110000 that is a decimal digit of any script, else 0."""
    return np.array([chr(code).isdecimal() for code in range(0x110000)], dtype=np.uint8)

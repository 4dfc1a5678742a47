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

IPV4, IPV6, CARD, IBAN, TOKEN, ASSIGNMENT = range(6)
"""What is looked for."""
_NO_PLACE = -1
_DIGIT, _HEX, _WORD, _VALUE, _TOKEN, _CAPITAL, _SPACE, _NO_LEAD_OF_CARD = (1 << n for n in range(8))
"""Kinds of bytes, see `_kinds`."""
_DOT, _COLON, _PLUS, _LINE_END = (ord(character) for character in ".:+\n")
_QUOTES = ord('"'), ord("'")
_SEPARATORS = ord(" "), ord("-")
_LEAST_CARD, _LEAST_VALUE, _LEAST_TOKEN, _LEAST_PHONE = 14, 12, 15, 4
"""Digits of a card; bytes of an assigned value and of a token of a service; digits of a telephone
number."""
_KEY_ENDS = tuple(b"yntd")
"""The last letters of names of secrets, in lower case."""
_TO_LOWER = np.uint8(0x20)
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


def _givers() -> U8:
    """The bytes that give a place of each kind away, a bit for each kind."""
    givers = np.zeros(256, dtype=np.uint8)
    for kind, members in (
        (IPV4, "."),
        (IPV6, ":"),
        (CARD, "23456"),
        (IBAN, string.ascii_uppercase),
        (TOKEN, string.digits + "".join(pair[0] for pair in _TOKEN_STARTS.split())),
        (ASSIGNMENT, ":="),
    ):
        givers[list(members.encode())] |= 1 << kind
    return givers


_KINDS, _STARTS_TOKEN, _GIVERS = _kinds(), _token_starts(), _givers()


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


@inlined
def _ipv4_at(data: U8, dot: int, start: int, end: int) -> int:
    """Four groups of up to three digits with dots between, not in a word or after a dot: by its
    first dot."""
    if dot == start or not _is(data[dot - 1], _DIGIT):
        return _NO_PLACE
    first = _start_of(data, dot, start, _DIGIT, 3)
    if first > start and (_is(data[first - 1], _WORD) or data[first - 1] == _DOT):
        return _NO_PLACE
    at, groups = dot, 1
    while groups < 4 and at < end and data[at] == _DOT:
        after = _end_of(data, at + 1, end, _DIGIT, 4)
        if not 1 <= after - at - 1 <= 3:
            break
        at, groups = after, groups + 1
    return first if groups == 4 else _NO_PLACE


@inlined
def _ipv6_at(data: U8, colon: int, start: int, end: int) -> int:
    """Groups of hexadecimal digits with "::" between two, or seven colons among them: by the first
    colon."""
    if colon == start or not _is(data[colon - 1], _HEX):
        return _NO_PLACE
    first = _start_of(data, colon, start, _HEX, 4)
    if first > start:
        before = data[first - 1]
        if _is(before, _WORD) or before in (_COLON, _DOT):
            return _NO_PLACE
    colons, at = 0, colon
    while at < end and (data[at] == _COLON or _is(data[at], _HEX)):
        if data[at] == _COLON:
            colons += 1
            if colons == 7 or data[at - 1] == _COLON:
                return first
        at += 1
    return _NO_PLACE


@inlined
def _card_at(data: U8, first: int, start: int, end: int) -> int:
    """Fourteen digits, single spaces or hyphens between some."""
    if first > start and _is(data[first - 1], _NO_LEAD_OF_CARD):
        return _NO_PLACE
    at, digits = first + 1, 1
    while digits < _LEAST_CARD and at < end:
        if not _is(data[at], _DIGIT):
            is_between = data[at] in _SEPARATORS and at + 1 < end
            if not is_between or not _is(data[at + 1], _DIGIT):
                break
            at += 1
        digits += 1
        at += 1
    return first if digits == _LEAST_CARD else _NO_PLACE


@inlined
def _iban_at(data: U8, at: int, start: int, end: int) -> int:
    """Two capitals and two digits, not in a word."""
    if end - at < 4 or _end_of(data, at, end, _CAPITAL, 2) - at < 2:
        return _NO_PLACE
    if _end_of(data, at + 2, end, _DIGIT, 2) - at < 4:
        return _NO_PLACE
    is_inside = at > start and _is(data[at - 1], _WORD) and data[at - 1] != ord("_")
    return _NO_PLACE if is_inside else at


@inlined
def _token_at(data: U8, at: int, start: int, end: int) -> int:
    """First two bytes of a token of a service, and as many bytes as one has, not in a word."""
    if end - at < _LEAST_TOKEN:
        return _NO_PLACE
    if not _STARTS_TOKEN[np.int64(data[at]) << 8 | np.int64(data[at + 1])]:
        return _NO_PLACE
    if at > start and _is(data[at - 1], _WORD):
        return _NO_PLACE
    is_long = _end_of(data, at, end, _TOKEN, _LEAST_TOKEN) - at == _LEAST_TOKEN
    return at if is_long else _NO_PLACE


@inlined
def _assignment_at(data: U8, at: int, start: int, end: int) -> int:
    """A colon or equals sign between the end of a name of a secret and a long value."""
    before = _start_of(data, at, start, _SPACE, 3)
    if before > start and data[before - 1] in _QUOTES:
        before -= 1
    if before == start or (data[before - 1] | _TO_LOWER) not in _KEY_ENDS:
        return _NO_PLACE
    for first in range(at + 1, at + 7):  # after "=>", three spaces and a quotation mark
        if _end_of(data, first, end, _VALUE, _LEAST_VALUE) - first == _LEAST_VALUE:
            return at
    return _NO_PLACE


@inlined
def _place_at(kind: int, data: U8, at: int, start: int, end: int) -> int:
    """The place of a kind that one of its bytes at `at` gives away, in the text [start, end); or
    _NO_PLACE."""
    if kind == IPV4:
        return _ipv4_at(data, at, start, end)
    if kind == IPV6:
        return _ipv6_at(data, at, start, end)
    if kind == CARD:
        return _card_at(data, at, start, end)
    if kind == IBAN:
        return _iban_at(data, at, start, end)
    if kind == TOKEN:
        return _token_at(data, at, start, end)
    return _assignment_at(data, at, start, end)


@compiled(read(BYTE), read(INTEGER), read(INTEGER), INTEGER)
def places_of(data: U8, starts: I64, ends: I64, kind: int) -> I64:
    """Where the pattern of a kind may match, or the signs of assignments: [P]."""
    found, num = np.empty(len(data) // 2 + 1, np.int64), 0  # two neighbours never give one each
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        for at in range(start, end):
            if _GIVERS[data[at]] >> kind & 1 == 0:
                continue
            place = _place_at(kind, data, at, start, end)
            if place != _NO_PLACE:
                found[num] = place
                num += 1
    return found[:num]


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

"""Finds the tokens of texts, and hashes them and ranges of them.

What a token is says `data_prep.text.batch`. Legend: D texts, B bytes of all, T tokens, R ranges of
tokens.
"""

from typing import NamedTuple

import numpy as np

from data_prep.kernels.characters import (
    EXTEND,
    IDEOGRAPH,
    NOT_WORD,
    NUMBER,
    WIDTH_OF_WORD,
    WIDTHS,
    character,
)
from data_prep.kernels.compiled import (
    BYTE,
    FLAG,
    HASH,
    I64,
    INTEGER,
    U8,
    U64,
    UNALIGNED,
    compiled,
    inlined,
    read,
)
from data_prep.kernels.hashing import ODD_0, ODD_1, ODD_2, ODD_3, ODD_3_INVERSE, mix

_LOW_BYTES = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)
_SEVEN_BITS, _EIGHTH_BITS = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x8080808080808080)
_TO_A, _BEYOND_Z = np.uint64(0x3F3F3F3F3F3F3F3F), np.uint64(0x2525252525252525)
_0, _1, _8, _16 = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(16)
_A, _BEYOND_ASCII = np.uint8(ord("A")), np.uint8(0x80)
_OUTSIDE, _CUT, _KIND_SHIFT = np.uint8(0), np.uint8(2), np.uint8(4)
"""Marks of a byte: it is in no token (1: in one); in another one than the byte before it; the
lowest bit of the kind of the character that it starts."""
LONG_TOKEN = np.uint64(64)
"""Bytes above which a token is hashed elsewhere: such tokens are few, or the text is no language.
"""


class Tokens(NamedTuple):
    """All tokens of a batch, ascending."""

    starts: I64
    """First byte of each: [T]."""
    ends: I64
    """The byte after its last: [T]."""
    widths: U8
    """Twelfths of a word that each counts as: [T]."""
    hashes: U64
    """Of all its bytes: [T]; not set for tokens above LONG_TOKEN."""
    first_tokens: I64
    """The first token of each text, and finally T: [D + 1]."""
    word_widths: I64
    """Twelfths of a word of all tokens of each text: [D]."""
    letter_widths: I64
    """Of those that start with a letter: [D]."""
    spaced_words: I64
    """Tokens that are whole words: [D]."""
    spaced_characters: I64
    """Characters of these: [D]."""
    word_bytes: I64
    """Bytes of all tokens: [D]."""
    num_long: int
    """Tokens above LONG_TOKEN."""


@inlined
def _lower(eight: np.uint64) -> np.uint64:
    """Eight bytes, ASCII capitals in lower case."""
    low = eight & _SEVEN_BITS
    is_capital = (low + _TO_A) & ~(low + _BEYOND_Z) & ~eight & _EIGHTH_BITS
    return eight | is_capital >> np.uint64(2)


@inlined
def _hash(eight: U64, start: np.uint64, length: np.uint64) -> np.uint64:
    """The hash of the token of `length` bytes at `start`."""
    result = (_lower(eight[start]) & _LOW_BYTES[min(length, _8)]) * ODD_0
    if length > _8:
        result += (_lower(eight[start + _8]) & _LOW_BYTES[min(length - _8, _8)]) * ODD_1
        if length > _16:
            result += (_lower(eight[start + length - _8]) ^ length) * ODD_2
            for offset in range(_16, min(length, LONG_TOKEN) - _8, _8):  # before the last 8 bytes
                result = mix(result) + _lower(eight[start + offset]) * ODD_3
    return mix(result)


@inlined
def _marks_of_ascii(data: U8) -> U8:
    """_INSIDE for letters and digits, and all bytes beyond ASCII; 0 for other bytes: [B]."""
    marks = np.empty_like(data)
    for at in range(len(data)):
        byte = data[at]
        is_letter = np.uint8((byte | np.uint8(0x20)) - np.uint8(0x61)) < np.uint8(26)
        is_digit = np.uint8(byte - np.uint8(0x30)) < np.uint8(10)
        marks[at] = np.uint8(is_letter) | np.uint8(is_digit) | byte >> np.uint8(7)
    return marks


@inlined
def _mark_characters(
    data: U8, eight: U64, start: np.uint64, end: np.uint64, kinds: U8, marks: U8
) -> np.uint64:
    """Marks what is not ASCII in the text [start, end); bytes of tokens that start no character."""
    at, num_inner, is_alone, was_extension = start, _0, False, False
    while at < end:
        if data[at] < _BEYOND_ASCII:
            if is_alone and marks[at] != _OUTSIDE:
                marks[at] |= _CUT
            is_alone = was_extension = False
            at += _1
            while at + _8 <= end and eight[at] & _EIGHTH_BITS == _0:
                at += _8
            continue
        size, kind = character(data, at, end, kinds)
        is_inside = bool(kind != NOT_WORD)
        if kind == EXTEND:
            is_inside = was_extension or bool(marks[at - _1] != _OUTSIDE)
        elif is_alone or kind >= IDEOGRAPH:
            marks[at] |= _CUT
        marks[at] = marks[at] | np.uint8(kind) << _KIND_SHIFT if is_inside else _OUTSIDE
        for place in range(at + _1, at + size):
            marks[place] = np.uint8(is_inside)
            num_inner += np.uint64(is_inside)
        is_alone, was_extension = bool(kind >= IDEOGRAPH), bool(kind == EXTEND)
        at += size
    return num_inner


@inlined
def _edges(marks: U8) -> tuple[U8, U8]:
    """Whether a token starts at each byte, and whether one ends before it: [B], [B]."""
    starts, ends = np.zeros_like(marks), np.zeros_like(marks)
    for at in range(1, len(marks)):
        mark, before = marks[at], marks[at - 1]
        is_edge = (mark == _OUTSIDE) | (mark & _CUT != _OUTSIDE)
        starts[at] = np.uint8((mark != _OUTSIDE) & (is_edge | (before == _OUTSIDE)))
        ends[at] = np.uint8((before != _OUTSIDE) & is_edge)
    return starts, ends


@compiled(read(BYTE), UNALIGNED, read(INTEGER), read(INTEGER), read(BYTE))
def tokens_of(data: U8, eight: U64, text_starts: I64, text_ends: I64, kinds: U8) -> Tokens:
    """The tokens of the texts [start, end) of `data`, before whose first there is a byte that is no
    letter, and after whose last there are at least 16 more. `kinds` are those of all code points.

    An extending character belongs to no token after punctuation, but a second one in a row does:
    so it is as long as there are signatures.
    """
    num_texts, most = len(text_starts), len(data) // 2 + 1
    starts, ends = np.empty(most, np.int64), np.empty(most, np.int64)
    first_tokens = np.zeros(num_texts + 1, np.int64)
    inner_bytes = np.empty(num_texts, np.int64)
    marks = _marks_of_ascii(data)
    for text in range(num_texts):
        start, end = np.uint64(text_starts[text]), np.uint64(text_ends[text])
        inner_bytes[text] = _mark_characters(data, eight, start, end, kinds, marks)
    is_start, is_end = _edges(marks)
    num = num_ends = _0
    for text in range(num_texts):
        for at in range(np.uint64(text_starts[text]), np.uint64(text_ends[text] + 1)):
            starts[num] = at  # what is no start is overwritten: a branch would be mispredicted
            ends[num_ends] = at
            num += np.uint64(is_start[at])
            num_ends += np.uint64(is_end[at])
        first_tokens[text + 1] = num
    return _measured(data, eight, marks, starts[:num], ends[:num], first_tokens, inner_bytes)


@inlined
def _characters_of_words(data: U8, starts: I64, ends: I64, widths: U8) -> np.uint64:
    """The characters of the tokens that are whole words."""
    number = _0
    for token in range(len(starts)):
        if widths[token] == WIDTH_OF_WORD:
            for at in range(starts[token], ends[token]):
                number += np.uint64(data[at] & np.uint8(0xC0) != np.uint8(0x80))
    return number


@inlined
def _measured(
    data: U8, eight: U64, marks: U8, starts: I64, ends: I64, first_tokens: I64, inner_bytes: I64
) -> Tokens:
    """The tokens of the bounds, hashed and counted; `inner_bytes` [D] start no character."""
    num_texts = len(inner_bytes)
    widths, hashes = np.empty(len(starts), np.uint8), np.empty(len(starts), np.uint64)
    word_widths, letter_widths = np.empty(num_texts, np.int64), np.empty(num_texts, np.int64)
    spaced_words, spaced_characters = np.empty(num_texts, np.int64), np.empty(num_texts, np.int64)
    word_bytes = np.empty(num_texts, np.int64)
    num_long = 0
    for text in range(num_texts):
        num_bytes = all_widths = letters = words = _0
        first, last = np.uint64(first_tokens[text]), np.uint64(first_tokens[text + 1])
        for token in range(first, last):
            start = np.uint64(starts[token])
            length = np.uint64(ends[token]) - start
            kind = marks[start] >> _KIND_SHIFT
            width = WIDTHS[kind]
            widths[token] = width
            hashes[token] = _hash(eight, start, length)
            num_long += int(length > LONG_TOKEN)
            num_bytes += length
            all_widths += width
            letters += np.uint64(width) * np.uint64((data[start] >= _A) & (kind != NUMBER))
            words += np.uint64(width == WIDTH_OF_WORD)
        word_bytes[text], word_widths[text], letter_widths[text] = num_bytes, all_widths, letters
        spaced_words[text] = words
        if words == last - first:
            spaced_characters[text] = num_bytes - np.uint64(inner_bytes[text])
        else:
            tokens = starts[first:last], ends[first:last], widths[first:last]
            spaced_characters[text] = _characters_of_words(data, *tokens)
    return Tokens(
        starts,
        ends,
        widths,
        hashes,
        first_tokens,
        word_widths,
        letter_widths,
        spaced_words,
        spaced_characters,
        word_bytes,
        num_long,
    )


@compiled(read(HASH), read(INTEGER), read(INTEGER))
def range_hashes(hashes: U64, first: I64, end: I64) -> U64:
    """A hash of the tokens in [first, end) of each range, of their `hashes` [T]: [R].

    It is a polynomial of the hashes, so that a range that overlaps the one before follows from it.
    That of an empty range is 0.
    """
    result = np.empty(len(first), np.uint64)
    start = stop = 0
    value, power = np.uint64(0), ODD_3_INVERSE  # the multiplier to the number of tokens less one
    for number in range(len(first)):
        if first[number] < start or first[number] >= stop or end[number] < stop:
            start = stop = first[number]
            value, power = np.uint64(0), ODD_3_INVERSE
        while stop < end[number]:
            value = value * ODD_3 + hashes[stop]
            power *= ODD_3
            stop += 1
        while start < first[number]:
            value -= hashes[start] * power
            power *= ODD_3_INVERSE
            start += 1
        result[number] = mix(value)
    return result


@compiled(read(BYTE), read(INTEGER), INTEGER, FLAG)
def ngram_ranges(widths: U8, first_tokens: I64, n: int, of_tokens: bool) -> tuple[I64, I64]:
    """The first token of each n-gram within a text, and the one after its last: [R], [R].

    One of tokens has n of them. One of words starts at every token and ends with the first token
    that makes n words full, of the `widths` [T].
    """
    firsts, ends = np.empty(len(widths), np.int64), np.empty(len(widths), np.int64)
    num, full = _0, np.uint64(n) * (_1 if of_tokens else np.uint64(WIDTH_OF_WORD))
    for text in range(len(first_tokens) - 1):
        end, last = np.uint64(first_tokens[text]), np.uint64(first_tokens[text + 1])
        width = _0
        for token in range(end, last):
            while width < full and end < last:
                width += _1 if of_tokens else np.uint64(widths[end])
                end += _1
            if width < full:
                break
            firsts[num], ends[num] = token, end
            num += _1
            width -= _1 if of_tokens else np.uint64(widths[token])
    return firsts[:num], ends[:num]

"""Finds the lines and paragraphs of texts, and what stands in them besides words.

Legend: D texts, B bytes of all, T tokens, L lines or paragraphs.
"""

from typing import NamedTuple

import numpy as np

from data_prep.kernels.compiled import (
    BYTE,
    I64,
    INTEGER,
    U8,
    U64,
    UNALIGNED,
    compiled,
    inlined,
    read,
)

_0, _1, _2 = np.uint64(0), np.uint64(1), np.uint64(2)
_NEWLINE, _SPACE, _TAB = np.uint8(ord("\n")), np.uint8(ord(" ")), np.uint8(ord("\t"))
_STAR, _HYPHEN = np.uint8(ord("*")), np.uint8(ord("-"))
_HASH_SIGN, _DOT = np.uint8(ord("#")), np.uint8(ord("."))
_ELLIPSIS = np.frombuffer("…".encode(), dtype=np.uint8)
_FIRST_BEYOND_ASCII = np.uint8(0x80)
_BULLETS = [bullet.encode() for bullet in ("•", "‣", "▪", "◦", "●", "·", "–")]
"""Besides * and -."""
_BULLET_CODES = np.array([int.from_bytes(bullet, "little") for bullet in _BULLETS], np.uint64)
_BULLET_MASKS = np.array([(1 << 8 * len(bullet)) - 1 for bullet in _BULLETS], np.uint64)


class Bounds(NamedTuple):
    """Lines, or paragraphs, that are not empty."""

    starts: I64
    """First byte of each: [L]."""
    ends: I64
    """The byte after its last: [L]."""
    first: I64
    """The first one of each text, and finally L: [D + 1]."""


class Layout(NamedTuple):
    """How texts are laid out."""

    lines: Bounds
    paragraphs: Bounds
    """They end at blank lines."""
    hash_signs: I64
    """Of each text: [D]."""
    ellipses: I64
    """Of each text, three dots or more, or the character: [D]."""


@inlined
def _marks(data: U8) -> U64:
    """The positions of the bytes that `layout_of` looks at, ascending."""
    is_mark = np.empty(len(data), np.uint8)
    for at in range(len(data)):
        byte = data[at]
        is_mark[at] = np.uint8(
            (byte == _NEWLINE) | (byte == _HASH_SIGN) | (byte == _DOT) | (byte == _ELLIPSIS[0])
        )
    positions = np.empty(len(data), np.uint64)
    num = _0
    for at in range(np.uint64(len(data))):
        positions[num] = at  # what is no mark is overwritten
        num += np.uint64(is_mark[at])
    return positions[:num]


@inlined
def _is_ellipsis(data: U8, at: np.uint64) -> bool:
    """Whether the mark at a position is the last dot of three and more, or the character."""
    if data[at] == _DOT:
        is_last = data[at + _1] != _DOT
        return bool(is_last and data[at - _1] == _DOT and data[at - _2] == _DOT)
    return bool(data[at + _1] == _ELLIPSIS[1] and data[at + _2] == _ELLIPSIS[2])


@compiled(read(BYTE), read(INTEGER), read(INTEGER))
def layout_of(data: U8, text_starts: I64, text_ends: I64) -> Layout:
    """The layout of the texts [start, end) of `data`, around each of which there is a byte that is
    no mark."""
    num_texts, marks = len(text_starts), _marks(data)
    most = len(marks) + num_texts
    line_starts, line_ends = np.empty(most, np.int64), np.empty(most, np.int64)
    starts, ends = np.empty(most, np.int64), np.empty(most, np.int64)
    first_lines = np.zeros(num_texts + 1, np.int64)
    first = np.zeros(num_texts + 1, np.int64)
    hash_signs, ellipses = np.zeros(num_texts, np.int64), np.zeros(num_texts, np.int64)
    num_lines = num = number = _0
    for text in range(num_texts):
        line_start = start = np.uint64(text_starts[text])
        text_end = np.uint64(text_ends[text])
        while number < len(marks) and marks[number] < text_end:
            at = marks[number]
            number += _1
            if data[at] == _HASH_SIGN:
                hash_signs[text] += 1
            elif data[at] != _NEWLINE:
                ellipses[text] += _is_ellipsis(data, at)
            else:
                line_starts[num_lines], line_ends[num_lines] = line_start, at
                num_lines += np.uint64(at > line_start)
                line_start = at + _1
                if data[at - _1] == _NEWLINE:
                    starts[num], ends[num] = start, at
                    num += np.uint64(at > start)
                    start = line_start
        line_starts[num_lines], line_ends[num_lines] = line_start, text_end
        num_lines += np.uint64(text_end > line_start)
        starts[num], ends[num] = start, text_end
        num += np.uint64(text_end > start)
        first_lines[text + 1], first[text + 1] = num_lines, num
    return Layout(
        Bounds(line_starts[:num_lines], line_ends[:num_lines], first_lines),
        Bounds(starts[:num], ends[:num], first),
        hash_signs,
        ellipses,
    )


class MarkedLines(NamedTuple):
    """Lines of each text: [D] each."""

    bullets: I64
    """Those that start with a bullet."""
    ellipses: I64
    """Those that end with an ellipsis."""


@compiled(read(BYTE), UNALIGNED, read(INTEGER), read(INTEGER), read(INTEGER))
def marked_lines(data: U8, eight: U64, starts: I64, ends: I64, first_lines: I64) -> MarkedLines:
    """Counts lines [start, end) by how they start and end."""
    num_texts = len(first_lines) - 1
    bullets, ellipses = np.zeros(num_texts, np.int64), np.zeros(num_texts, np.int64)
    for text in range(num_texts):
        for line in range(np.uint64(first_lines[text]), np.uint64(first_lines[text + 1])):
            at, end = np.uint64(starts[line]), np.uint64(ends[line])
            while at < end and (data[at] == _SPACE or data[at] == _TAB):
                at += _1
            is_bullet = data[at] == _STAR or data[at] == _HYPHEN
            if data[at] >= _FIRST_BEYOND_ASCII:
                for number in range(len(_BULLET_CODES)):
                    is_bullet |= eight[at] & _BULLET_MASKS[number] == _BULLET_CODES[number]
            bullets[text] += is_bullet
            last = data[end - _1]
            if last == _DOT:
                ellipses[text] += _is_ellipsis(data, end - _1)
            elif last == _ELLIPSIS[2] and end - np.uint64(starts[line]) > _2:
                ellipses[text] += (
                    data[end - _2] == _ELLIPSIS[1] and data[end - _2 - _1] == _ELLIPSIS[0]
                )
    return MarkedLines(bullets, ellipses)


class UnitWords(NamedTuple):
    """The words of lines or paragraphs."""

    first_tokens: I64
    """The first token from the start of each on, and finally T: [L + 1]."""
    widths: I64
    """Twelfths of a word of the tokens from the start of each to that of the next: [L]."""


@compiled(read(INTEGER), read(INTEGER), read(BYTE))
def unit_words(starts: I64, token_starts: I64, token_widths: U8) -> UnitWords:
    """The words of units, by their `starts` ([L], ascending), of tokens ([T])."""
    num_tokens = np.uint64(len(token_starts))
    first_tokens = np.full(len(starts) + 1, len(token_starts), np.int64)
    widths = np.zeros(len(starts), np.int64)
    token = _0
    for unit in range(len(starts)):
        while token < num_tokens and token_starts[token] < starts[unit]:
            if unit > 0:
                widths[unit - 1] += token_widths[token]
            token += _1
        first_tokens[unit] = token
    if len(starts) > 0:
        for rest in range(token, num_tokens):
            widths[-1] += token_widths[rest]
    return UnitWords(first_tokens, widths)

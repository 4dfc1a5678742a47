"""What the compiled functions compute, in plain Python, one character after the other."""

import unicodedata
from typing import NamedTuple

import numpy as np
import xxhash

from data_prep.kernels.characters import (
    EXTEND,
    IDEOGRAPH,
    NOT_WORD,
    NUMBER,
    WIDTHS,
    WORD,
    kinds_of_code_points,
)

MODULUS = 1 << 64
ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)


class Token(NamedTuple):
    """A token of a text, in characters."""

    text: str
    start: int
    width: int
    is_letter: bool


def kind_of(character: str) -> int:
    """The kind of a character, ASCII or not."""
    if character.isascii():
        return WORD if character.isalnum() else NOT_WORD
    return int(kinds_of_code_points()[ord(character)])


def tokens_in(text: str) -> list[Token]:
    """The tokens of a text."""
    tokens: list[Token] = []
    is_open = is_alone = was_extension = False
    for at, character in enumerate(text):
        kind = kind_of(character)
        if kind == NOT_WORD or (kind == EXTEND and not is_open and not was_extension):
            is_open = is_alone = False
        elif is_open and (kind == EXTEND or (kind < IDEOGRAPH and not is_alone)):
            tokens[-1] = tokens[-1]._replace(text=tokens[-1].text + character)
            is_alone = False
        else:
            is_letter = not character.isdigit() if character.isascii() else kind != NUMBER
            tokens.append(Token(character, at, int(WIDTHS[kind]), is_letter))
            is_open, is_alone = True, kind >= IDEOGRAPH
        was_extension = kind == EXTEND
    return tokens


def mixed(value: int) -> int:
    """Every bit of the input mixed into all bits."""
    value ^= value >> 32
    value = value * ODD[1] % MODULUS
    return value ^ value >> 29


def token_hash(token: str) -> int:
    """The hash of a token: that of its bytes, ASCII in lower case."""
    content = token.encode().lower()
    if len(content) > 64:
        return mixed(xxhash.xxh3_64_intdigest(content))
    words = [int.from_bytes(content[at : at + 8], "little") for at in range(0, len(content), 8)]
    result = words[0] * ODD[0] + (words[1] * ODD[1] if len(words) > 1 else 0)
    if len(content) > 16:
        result += (int.from_bytes(content[-8:], "little") ^ len(content)) * ODD[2]
    result %= MODULUS
    for word in words[2:-1]:
        result = (mixed(result) + word * ODD[3]) % MODULUS
    return mixed(result)


def range_hash(hashes: list[int]) -> int:
    """The hash of a range of tokens, of theirs."""
    result = 0
    for value in hashes:
        result = (result * ODD[3] + value) % MODULUS
    return mixed(result)


SAMPLES = (
    *("the ", "Of ", "a", "B", "word", "Z9", "x" * 30, "y" * 70, "can't ", "12", "١٢", "१"),
    *("é", "ß", "Ж", "да ", "中", "国", "の", "カ", "ー", "ที่", "ภาษา", "क्ष", "ि", "बो་", "한국"),
    *("𠀀", "〇", " ", "  ", "\t", "\n", "\n\n", "\r\n", "\r", ".", "..", "...", "…", "#"),
    *("- ", "* ", "• ", "·", "\u200d", "\u200c", "\ufe0f", "❤", "🙂", "👩\u200d👧", "\u0301"),
    *("\u3099", "か\u3099", "\u1100\u1161", "\xa0", "\u2028", "\x85", "\ufeff", "\xad", "\x07"),
    *("\u3000", "，", "。", "–", "“", "\u212b"),
)
"""Pieces of texts in many scripts, with what is special to the compiled functions."""


def random_texts(seed: int, num_texts: int, num_pieces: int) -> list[str]:
    """Texts of up to so many pieces, each of some of the samples."""
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(num_texts):
        some = generator.choice(len(SAMPLES), int(generator.integers(1, len(SAMPLES))))
        pieces = generator.choice(some, int(generator.integers(0, num_pieces + 1)))
        texts.append("".join(SAMPLES[piece] for piece in pieces))
    return texts


def is_stable(character: str) -> bool:
    """Whether NFC leaves a character as it is, whatever stands before it."""
    return unicodedata.is_normalized("NFC", character) and not unicodedata.combining(character)

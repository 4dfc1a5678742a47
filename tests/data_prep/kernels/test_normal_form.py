"""Which characters Unicode normalisation may change."""

import unicodedata

import numpy as np

from data_prep.kernels.normal_form import unstable_characters
from data_prep.text.normalise import normalise
from tests.data_prep.kernels.plain import is_stable, random_texts


def test_characters_that_are_taken_for_stable_are() -> None:
    unstable = unstable_characters()
    stable = [chr(code) for code in np.flatnonzero(unstable == 0) if not 0xD800 <= code < 0xE000]
    assert all(map(is_stable, stable))
    assert not unstable[:0xA0].any()
    assert unstable.sum() < 3000


def test_characters_that_compose_with_others_are_unstable() -> None:
    unstable = unstable_characters()
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            assert unstable[int(parts[1], 16)]
    syllable = unicodedata.normalize("NFD", "각")
    assert [bool(unstable[ord(part)]) for part in syllable[1:]] == [True, True]


def test_texts_are_in_nfc() -> None:
    texts = random_texts(0, num_texts=300, num_pieces=40)
    assert all(unicodedata.is_normalized("NFC", text.decode()) for text in normalise(texts))

"""Words between white space."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.kernels.words import words_between_spaces


@given(st.lists(st.sampled_from([b" ", b"\n", b"\t", b"\r", b"\x0b", b"\x0c", b"a", b"\xc2\xa0"])))
def test_words_between_spaces_are_counted(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    assert words_between_spaces(np.frombuffer(text, dtype=np.uint8)) == len(text.split())

"""Tokens and their hashes in all scripts, against a plain definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.text.batch import TextBatch
from tests.data_prep.kernels.plain import random_texts, range_hash, token_hash, tokens_in


def check(texts: list[str]) -> None:
    """Compares a batch with the plain definition."""
    batch = TextBatch([text.encode() for text in texts])
    found = batch.tokens
    expected = [tokens_in(text) for text in texts]
    assert batch.token_counts.tolist() == [len(tokens) for tokens in expected]
    flat = [token for tokens in expected for token in tokens]
    bounds = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    assert [batch.data[start:end].tobytes().decode() for start, end in bounds] == [
        token.text for token in flat
    ]
    assert found.widths.tolist() == [token.width for token in flat]
    assert found.hashes.tolist() == [token_hash(token.text) for token in flat]
    for text, tokens in enumerate(expected):
        spaced = [token for token in tokens if token.width == 12]
        assert (
            found.word_widths[text],
            found.letter_widths[text],
            found.spaced_words[text],
            found.spaced_characters[text],
            found.word_bytes[text],
        ) == (
            sum(token.width for token in tokens),
            sum(token.width for token in tokens if token.is_letter),
            len(spaced),
            sum(len(token.text) for token in spaced),
            sum(len(token.text.encode()) for token in tokens),
        )


@pytest.mark.parametrize("seed", range(20))
def test_tokens_of_mixed_scripts(seed: int) -> None:
    check(random_texts(seed, num_texts=8, num_pieces=60))


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_tokens_of_any_text(texts: list[str]) -> None:
    check([text.encode("utf-8", "ignore").decode() for text in texts])


def test_texts_without_words_and_no_texts() -> None:
    check(["", "...", "", "\n\n", ""])
    assert len(TextBatch([]).tokens.starts) == 0
    assert TextBatch([]).word_counts.tolist() == []


def test_a_long_text_is_that_of_its_parts() -> None:
    part = random_texts(0, num_texts=1, num_pieces=500)[0] + " end. "
    one, many = TextBatch([part.encode()]), TextBatch([(part * 2000).encode()])
    assert (many.token_hashes.reshape(2000, -1) == one.token_hashes).all()


def test_bytes_that_are_no_utf_8_are_letters() -> None:
    texts = [b"a\xff\xfe b", b"\xe4\xb8", b"\xf8\x88\x80\x80\x80", b"x\x80\x80", b"\xc3"]
    batch = TextBatch(texts)
    assert batch.token_counts.tolist() == [2, 1, 1, 1, 1]
    assert TextBatch([b"\xff" * 100]).word_counts.tolist() == [1]


@given(st.lists(st.integers(0, 40), min_size=2, max_size=30))
def test_hashes_of_ranges_in_any_order(bounds: list[int]) -> None:
    batch = TextBatch([" ".join(f"w{k}" for k in range(40)).encode()])
    first, end = np.array(bounds[:-1]), np.maximum(np.array(bounds[1:]), np.array(bounds[:-1]))
    hashes = batch.token_hashes.tolist()
    expected = [range_hash(hashes[a:b]) for a, b in zip(first, end, strict=True)]
    assert batch.range_hashes(first, end).tolist() == expected

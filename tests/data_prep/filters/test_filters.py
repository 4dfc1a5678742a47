"""The vectorised filters against plain definitions that go text by text."""

import re
from collections import Counter
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_prep.filters.quality import FiltersConfig, drop_reasons, judged
from data_prep.filters.repetition import RepeatedNgrams, RepetitionConfig, repeated_units
from data_prep.filters.verdicts import KEPT, Verdicts
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise
from tests.data_prep.kernels.plain import range_hash

ALONE = "\u4e00-\u9fff\u3040-\u30ff\u0e00-\u0e7f"
TOKEN = re.compile(f"[{ALONE}]|[^\\W_{ALONE}]+")
texts_of_few_words = st.lists(
    st.lists(
        st.sampled_from(
            [
                "a",
                "bb",
                "Ccc",
                "a-b",
                "ünï",
                "'",
                "\n",
                "\n\n",
                "x" * 20,
                "12",
                "…",
                "“x”",
                "中文字",
                "かな、",
                "ที่ใน",
            ]
        ),
        max_size=40,
    ).map(" ".join),
    min_size=1,
    max_size=6,
)


def tokens_of(text: bytes) -> list[bytes]:
    return [token.encode().lower() for token in TOKEN.findall(text.decode())]


def width_of(token: bytes) -> Fraction:
    first = token.decode()[0]
    if "\u4e00" <= first <= "\u9fff":
        return Fraction(1, 2)
    if "\u3040" <= first <= "\u30ff":
        return Fraction(1, 3)
    return Fraction(1, 4) if "\u0e00" <= first <= "\u0e7f" else Fraction(1)


def ngrams_of(text: bytes, n: int) -> list[tuple[bytes, ...]]:
    """The n-grams of tokens."""
    tokens = tokens_of(text)
    return [tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1)]


def word_ngrams_of(text: bytes, n: int) -> list[tuple[int, int]]:
    """[start, end) of the tokens of each word n-gram: the shortest of n words and more."""
    tokens = tokens_of(text)
    found = []
    for start in range(len(tokens)):
        for end in range(start + 1, len(tokens) + 1):
            if sum(map(width_of, tokens[start:end])) >= n:
                found.append((start, end))
                break
    return found


@given(texts_of_few_words)
def test_tokens_are_those_of_the_plain_definition(texts: list[str]) -> None:
    batch = TextBatch(normalise(texts))
    assert batch.token_counts.tolist() == [len(tokens_of(text)) for text in batch.texts]
    starts, ends = batch.token_bounds
    found = [batch.data[s:e].tobytes().lower() for s, e in zip(starts, ends, strict=True)]
    assert found == [token for text in batch.texts for token in tokens_of(text)]
    assert len(set(batch.token_hashes.tolist())) == len(set(found))
    words = [ceil(sum(map(width_of, tokens_of(text)))) for text in batch.texts]
    assert batch.word_counts.tolist() == words
    spaced = [[t for t in tokens_of(text) if width_of(t) == 1] for text in batch.texts]
    characters = [sum(len(token.decode()) for token in tokens) for tokens in spaced]
    assert batch.tokens.spaced_characters.tolist() == characters


@given(texts_of_few_words, st.integers(1, 5))
def test_ngrams_never_cross_texts(texts: list[str], n: int) -> None:
    batch = TextBatch(normalise(texts))
    hashes, first = batch.token_ngrams(n)
    expected = [(k, gram) for k, text in enumerate(batch.texts) for gram in ngrams_of(text, n)]
    assert batch.token_text[first].tolist() == [k for k, _ in expected]
    assert len(set(hashes.tolist())) == len({gram for _, gram in expected})
    tokens = batch.token_hashes.tolist()
    assert hashes.tolist() == [range_hash(tokens[at : at + n]) for at in first]
    hashes, first, end = batch.word_ngrams(n)
    grams = []
    for k, text in enumerate(batch.texts):
        base = int(batch.first_tokens[k])
        grams += [(base + start, base + stop) for start, stop in word_ngrams_of(text, n)]
    assert list(zip(first.tolist(), end.tolist(), strict=True)) == grams


@settings(max_examples=200)
@given(texts_of_few_words, st.integers(1, 5), st.integers(1, 3))
def test_repetition_is_that_of_the_plain_definition(texts: list[str], n: int, every: int) -> None:
    batch = TextBatch(normalise(texts))
    chosen = np.arange(len(texts)) % every == 0
    ngrams = RepeatedNgrams(batch, chosen)
    repeated = ngrams.repeated_share(n, chosen)
    common = ngrams.most_common_share(n, chosen, ceiling=0.0)
    for k, text in enumerate(batch.texts):
        if not chosen[k]:
            assert repeated[k] == common[k] == 0
            continue
        tokens, bounds = tokens_of(text), word_ngrams_of(text, n)
        grams = [tuple(tokens[start:end]) for start, end in bounds]
        total = max(sum(map(len, tokens)), 1)
        covered = {
            j
            for at, (start, end) in enumerate(bounds)
            if grams[at] in grams[:at]
            for j in range(start, end)
        }
        assert repeated[k] == pytest.approx(sum(len(tokens[j]) for j in covered) / total)
        counts = Counter(grams)
        best = max((c * sum(map(len, g)) for g, c in counts.items() if c > 1), default=0)
        assert common[k] == pytest.approx(best / total)


@given(texts_of_few_words)
def test_repeated_lines_are_those_of_the_plain_definition(texts: list[str]) -> None:
    batch = TextBatch(normalise(texts))
    for bounds, mark in ((batch.layout.lines, b"\n"), (batch.layout.paragraphs, b"\n\n")):
        count_share, byte_share = repeated_units(batch, bounds)
        for k, text in enumerate(batch.texts):
            units = [(tokens_of(u), len(u)) for u in text.split(mark) if tokens_of(u)]
            again = [
                size for at, (unit, size) in enumerate(units) if unit in [u for u, _ in units[:at]]
            ]
            assert count_share[k] == pytest.approx(len(again) / max(len(units), 1))
            total = max(sum(size for _, size in units), 1)
            # Where a paragraph ends in the middle of blank lines its length may differ by one.
            assert byte_share[k] == pytest.approx(sum(again) / total, abs=2 * len(units) / total)


ENGLISH = (
    "The committee met on Tuesday to discuss the budget of the coming year, and it was decided "
    "that a new library should be built beside the old town hall. Residents have asked for one "
    "since the spring, when heavy rain damaged the roof of the former building and its books."
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ENGLISH, KEPT),
        ("", "empty"),
        ("!!! --- ???", "empty"),
        ("Too short to keep.", "too few words"),
        (ENGLISH * 3000, "too many words"),
        ("of a to b c d e " * 20, "words too short"),
        ("internationalisation counterrevolutionary " * 40, "words too long"),
        ("the and 1234 5678 " * 30, "too few letters"),
        (ENGLISH + " #" * 20, "too many symbols"),
        ("Lorem ipsum dolor sit amet consectetur " * 12, "too few stop words"),
        ("\n".join(f"• {line}" for line in ENGLISH.split()), "mostly bullets"),
        (ENGLISH.replace(" ", "...\n", 5), "too many cut-off lines"),
        ("\n".join([ENGLISH, "read more of it"] + ["read more of it"] * 3), "repeated lines"),
        ("\n".join([ENGLISH, "and so on and on", ENGLISH]), "repeated lines"),
        (" ".join([ENGLISH] * 2), "repeated 5-grams"),
        (ENGLISH + " buy this" * 30, "one common 2-gram"),
    ],
)
def test_each_filter_drops_what_it_should(text: str, reason: str) -> None:
    (found,) = drop_reasons(TextBatch(normalise([text])), FiltersConfig(document_language="en"))
    assert found == reason


def test_a_verdict_does_not_depend_on_the_other_texts() -> None:
    texts = normalise(
        [ENGLISH, "", ENGLISH * 2, "of a to b c d e " * 20, ENGLISH + " buy this" * 30]
    )
    config = FiltersConfig()
    together = drop_reasons(TextBatch(texts), config)
    assert together == [drop_reasons(TextBatch([text]), config)[0] for text in texts]


def test_filters_can_be_turned_off() -> None:
    config = FiltersConfig(min_words=0, min_stop_words=0, repetition=None)
    assert drop_reasons(TextBatch(normalise(["spam ham " * 40])), config)[0] == KEPT
    config = FiltersConfig(min_words=0, min_stop_words=0, repetition=RepetitionConfig())
    assert drop_reasons(TextBatch(normalise(["spam ham " * 40])), config)[0] == "one common 2-gram"


def test_words_of_symbols_count_in_the_symbol_ratio() -> None:
    words = " ".join(f"word{chr(97 + n)} the of" for n in range(20))
    limits = FiltersConfig(repetition=None, document_language="en")
    texts = [words + " #tag" * 8, words + " #tag" * 8 + " | =" * 20]
    found = drop_reasons(TextBatch(normalise(texts)), limits)
    assert found == ["too many symbols", KEPT]


def test_old_names_of_limits_are_read(logged: list[str]) -> None:
    limits = FiltersConfig.model_validate({"max_mean_word_bytes": 12})
    assert limits.max_mean_word_characters == 12
    assert logged == [
        "filters: max_mean_word_bytes is now max_mean_word_characters, and counts characters"
    ]


def test_a_text_is_dropped_for_the_first_reason() -> None:
    verdicts = Verdicts(3)
    verdicts.drop("short", np.array([True, False, False]))
    verdicts.drop("ugly", np.array([True, True, False]))
    assert verdicts.reasons == ["short", "ugly", KEPT]
    assert verdicts.undecided.tolist() == [False, False, True]


def test_a_dropped_text_has_the_value_and_the_limit() -> None:
    texts = ["", "one two three", ENGLISH, ENGLISH.replace("e", "eeeeeeeeeeee"), "spam ham " * 60]
    verdicts = judged(TextBatch(normalise(texts)), FiltersConfig(document_language="en"))
    assert verdicts.reasons == [
        "empty",
        "too few words",
        KEPT,
        "words too long",
        "too few stop words",
    ]
    assert verdicts.values.tolist()[:2] == [0, 3]
    assert verdicts.values.tolist()[3] > 10
    assert verdicts.limits.tolist() == [1, 50, pytest.approx(np.nan, nan_ok=True), 10, 2]
    limits = FiltersConfig(document_language="en", stop_words=("spam", "ham"))
    verdicts = judged(TextBatch(normalise(texts[4:])), limits)
    assert verdicts.reasons == ["one common 2-gram"]
    assert verdicts.values[0] == pytest.approx(1, abs=0.02)
    assert verdicts.limits[0] == 0.2


@pytest.mark.parametrize("name", ["max_common_ngram_share", "max_repeated_ngram_share"])
@pytest.mark.parametrize("n", [0, -2])
def test_ngrams_have_at_least_a_word(name: str, n: int) -> None:
    """Others failed at the first text, without a word of the config."""
    with pytest.raises(ValidationError, match=rf"{name}.{n}.*\n.*greater than 0"):
        RepetitionConfig.model_validate({name: {n: 0.2}})

"""The vectorised filters against plain definitions that go text by text."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_prep.filters.language import LanguageConfig
from data_prep.filters.quality import FiltersConfig, drop_reasons
from data_prep.filters.repetition import (
    RepetitionConfig,
    most_common_ngram_share,
    repeated_ngram_share,
    repeated_units,
)
from data_prep.filters.verdicts import KEPT, Verdicts
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise

WORD = re.compile(rb"[A-Za-z0-9\x80-\xff]+")
texts_of_few_words = st.lists(
    st.lists(
        st.sampled_from(["a", "bb", "Ccc", "a-b", "ünï", "'", "\n", "\n\n", "x" * 20, "12", "…"]),
        max_size=40,
    ).map(" ".join),
    min_size=1,
    max_size=6,
)


def words_of(text: bytes) -> list[bytes]:
    return [word.lower() for word in WORD.findall(text)]


def ngrams_of(text: bytes, n: int) -> list[tuple[bytes, ...]]:
    words = words_of(text)
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


@given(texts_of_few_words)
def test_words_are_those_of_the_plain_definition(texts: list[str]) -> None:
    batch = TextBatch(normalise(texts))
    assert batch.word_counts.tolist() == [len(words_of(text)) for text in batch.texts]
    starts, ends = batch.word_bounds
    found = [batch.data[s:e].tobytes().lower() for s, e in zip(starts, ends, strict=True)]
    assert found == [word for text in batch.texts for word in words_of(text)]
    assert len(set(batch.word_hashes.tolist())) == len(set(found))


@given(texts_of_few_words, st.integers(1, 5))
def test_ngrams_never_cross_texts(texts: list[str], n: int) -> None:
    batch = TextBatch(normalise(texts))
    hashes, first = batch.ngram_hashes(n)
    expected = [(k, gram) for k, text in enumerate(batch.texts) for gram in ngrams_of(text, n)]
    assert batch.word_text[first].tolist() == [k for k, _ in expected]
    assert len(set(hashes.tolist())) == len({gram for _, gram in expected})


@settings(max_examples=200)
@given(texts_of_few_words, st.integers(2, 5))
def test_repetition_is_that_of_the_plain_definition(texts: list[str], n: int) -> None:
    batch = TextBatch(normalise(texts))
    every = np.ones(len(texts), dtype=bool)
    repeated = repeated_ngram_share(batch, n, every)
    common = most_common_ngram_share(batch, n, every, ceiling=0.0)
    for k, text in enumerate(batch.texts):
        words, grams = words_of(text), ngrams_of(text, n)
        total = max(sum(map(len, words)), 1)
        covered = {at + j for at, gram in enumerate(grams) if gram in grams[:at] for j in range(n)}
        assert repeated[k] == pytest.approx(sum(len(words[j]) for j in covered) / total)
        counts = Counter(grams)
        best = max((c * sum(map(len, g)) for g, c in counts.items() if c > 1), default=0)
        assert common[k] == pytest.approx(best / total)


@given(texts_of_few_words)
def test_repeated_lines_are_those_of_the_plain_definition(texts: list[str]) -> None:
    batch = TextBatch(normalise(texts))
    for bounds, mark in ((batch.line_bounds, b"\n"), (batch.paragraph_bounds, b"\n\n")):
        count_share, byte_share = repeated_units(batch, *bounds)
        for k, text in enumerate(batch.texts):
            units = [(words_of(u), len(u)) for u in text.split(mark) if words_of(u)]
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
    (found,) = drop_reasons(TextBatch(normalise([text])), FiltersConfig())
    assert found == reason


def test_a_verdict_does_not_depend_on_the_other_texts() -> None:
    texts = normalise(
        [ENGLISH, "", ENGLISH * 2, "of a to b c d e " * 20, ENGLISH + " buy this" * 30]
    )
    config = FiltersConfig()
    together = drop_reasons(TextBatch(texts), config).tolist()
    assert together == [drop_reasons(TextBatch([text]), config)[0] for text in texts]


def test_filters_can_be_turned_off() -> None:
    config = FiltersConfig(min_words=0, min_stop_words=0, repetition=None)
    assert drop_reasons(TextBatch(normalise(["spam ham " * 40])), config)[0] == KEPT
    config = FiltersConfig(min_words=0, min_stop_words=0, repetition=RepetitionConfig())
    assert drop_reasons(TextBatch(normalise(["spam ham " * 40])), config)[0] == "one common 2-gram"


def test_other_languages_are_dropped_under_their_code() -> None:
    german = (
        "Der Ausschuss trat am Dienstag zusammen, um den Haushalt des kommenden Jahres zu beraten, "
        "und es wurde beschlossen, neben dem alten Rathaus eine neue Bibliothek zu errichten."
    )
    config = FiltersConfig(min_words=0, min_stop_words=0, language=LanguageConfig(keep=("en",)))
    found = drop_reasons(TextBatch(normalise([ENGLISH, german])), config)
    assert found.tolist() == [KEPT, "language de"]


def test_stop_words_are_a_list_or_those_of_a_language() -> None:
    assert FiltersConfig.model_validate({"stop_words": "en"}) == FiltersConfig()
    assert FiltersConfig.model_validate({"stop_words": ["der", "und"]}).stop_words == ("der", "und")
    with pytest.raises(ValidationError, match="no stop words of 'xx' are known, only of en"):
        FiltersConfig.model_validate({"stop_words": "xx"})


def test_a_text_is_dropped_for_the_first_reason() -> None:
    verdicts = Verdicts(3)
    verdicts.drop("short", np.array([True, False, False]))
    verdicts.drop("ugly", np.array([True, True, False]))
    assert verdicts.reasons.tolist() == ["short", "ugly", KEPT]
    assert verdicts.undecided.tolist() == [False, False, True]

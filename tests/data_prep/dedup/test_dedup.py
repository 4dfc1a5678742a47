"""Duplicates: planted ones are found, no others are, whatever the order of documents and pairs."""

import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup.clusters import clusters, duplicates, fewest_pairs, join
from data_prep.dedup.joins import exact_pairs, near_pairs
from data_prep.dedup.lines import lines_of
from data_prep.dedup.minhash import band_keys, signatures, similarity
from data_prep.dedup.signatures import word_sequence_hashes
from data_prep.text.batch import I64, U64, TextBatch
from data_prep.text.normalise import normalise

WORDS = [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "ent", "ir", "ost", "u", "ing")]


def jaccard(left: list[str], right: list[str], n: int = 5) -> float:
    sets = [{tuple(w[k : k + n]) for k in range(len(w) - n + 1)} for w in (left, right)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


Pair = tuple[int, int]


def planted(num_documents: int, seed: int = 0) -> tuple[list[list[str]], dict[Pair, float]]:
    """Texts, and the true similarity of each planted pair {(earlier, later): Jaccard}."""
    generate = random.Random(seed)
    texts: list[list[str]] = []
    pairs: dict[Pair, float] = {}
    for _ in range(num_documents):
        words = generate.choices(WORDS, k=generate.randint(40, 250))
        texts.append(words)
        if generate.random() < 0.5:
            copy = list(words)
            for _ in range(generate.randint(0, len(words) // 12)):
                copy[generate.randrange(len(copy))] = generate.choice(WORDS)
            pairs[len(texts) - 1, len(texts)] = jaccard(words, copy)
            texts.append(copy)
    return texts, pairs


def found_pairs(texts: list[list[str]]) -> tuple[U64, I64]:
    """The signatures of the texts, and the pairs of all bands."""
    batch = TextBatch(normalise([" ".join(words) for words in texts]))
    signed = signatures(batch, 5, word_sequence_hashes(batch)[0])
    pairs = [
        near_pairs(band_keys(signed, k), np.arange(len(texts)), lambda n: signed[n], 0.75)[0]
        for k in range(28)
    ]
    return signed, np.unique(np.concatenate(pairs, axis=1), axis=1)


def test_planted_near_duplicates_are_found_and_no_others() -> None:
    texts, truth = planted(1500)
    _, found = found_pairs(texts)
    found_set = set(map(tuple, found.T.tolist()))
    for least, recall in ((0.8, 0.985), (0.87, 0.995)):
        alike = {pair for pair, value in truth.items() if value >= least}
        assert len(alike) > 120
        assert len(alike & found_set) / len(alike) >= recall
    assert all(truth.get(pair, 0) > 0.55 for pair in found_set)
    assert np.mean([truth.get(pair, 0) >= 0.7 for pair in found_set]) > 0.97


@pytest.mark.parametrize(
    ("first", "last", "joint"),
    [(0x4E00, 0x5600, ""), (0x0E01, 0x0E2E, ""), (0x3041, 0x3096, ""), (0x0430, 0x044F, " ")],
)
def test_copies_with_changed_characters_are_found_in_every_script(
    first: int, last: int, joint: str
) -> None:
    generate = random.Random(0)
    letters = [chr(code) for code in range(first, last)]
    words = ["".join(generate.choices(letters, k=generate.randint(1, 5))) for _ in range(4000)]
    texts = [joint.join(generate.choices(words, k=200)) for _ in range(600)]
    copies, truth = [], {}
    for number, text in enumerate(texts[:300]):
        copy = list(text)
        for _ in range(
            int(len(text) * generate.choice([0, 0.005, 0.01, 0.02]) / (1 + 4 * bool(joint)))
        ):
            copy[generate.randrange(len(copy))] = generate.choice(letters)
        copies.append("".join(copy))
        pieces = [(t.split() if joint else list(t)) for t in (text, copies[-1])]
        truth[number, len(texts) + number] = jaccard(pieces[0], pieces[1])
    batch = TextBatch(normalise(texts + copies))
    signed = signatures(batch, 5, word_sequence_hashes(batch)[0])
    numbers = np.arange(len(texts) + len(copies))
    found = [
        near_pairs(band_keys(signed, k), numbers, lambda n: signed[n], 0.75)[0] for k in range(28)
    ]
    found_set = set(map(tuple, np.concatenate(found, axis=1).T.tolist()))
    alike = {pair for pair, value in truth.items() if value >= 0.8}
    assert len(alike) > 200
    assert len(alike & found_set) / len(alike) >= 0.99
    assert all(truth.get(pair, 0) > 0.55 for pair in found_set)


def test_the_estimate_is_close_to_the_true_similarity() -> None:
    texts, truth = planted(400)
    signed, _ = found_pairs(texts)
    left, right = np.array(list(truth)).T
    error = similarity(signed[left], signed[right]) - np.array(list(truth.values()))
    assert abs(error.mean()) < 0.01
    assert error.std() < 0.06  # the standard error of 112 hashes is at most 0.047


def test_signatures_do_not_depend_on_the_batch() -> None:
    texts, _ = planted(60)
    joined = [" ".join(words) for words in texts] + ["", "one", "two words", "!!!", "???"]
    together = TextBatch(normalise(joined))
    whole = signatures(together, 5, word_sequence_hashes(together)[0])
    for number, text in enumerate(joined):
        alone = TextBatch(normalise([text]))
        column = signatures(alone, 5, word_sequence_hashes(alone)[0])[0]
        np.testing.assert_array_equal(column, whole[number])
    short = [joined.index("one"), joined.index("two words")]
    assert similarity(whole[short[:1]], whole[short[1:]])[0] < 0.2


def test_exact_duplicates_ignore_case_and_punctuation() -> None:
    texts = ["The cat sat.", "the cat  sat", "The cat sat on", "cat the sat", "THE CAT, SAT!"]
    keys = word_sequence_hashes(TextBatch(normalise(texts)))
    pairs = exact_pairs(keys[0], keys[1], np.arange(len(texts)))
    assert pairs.T.tolist() == [[0, 1], [0, 4]]


@settings(max_examples=60)
@given(st.permutations(range(12)), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11))))
def test_clusters_do_not_depend_on_the_order_of_the_pairs(
    order: list[int], pairs: list[Pair]
) -> None:
    edges = np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)
    goes, stays = clusters(edges.T, 12)
    reached = {n: {n} for n in range(12)}
    for _ in range(12):
        for a, b in edges.tolist():
            reached[a] |= reached[b]
            reached[b] |= reached[a]
    expected = {n: min(found) for n, found in reached.items() if min(found) != n}
    assert dict(zip(goes.tolist(), stays.tolist(), strict=True)) == expected
    shuffled = edges[np.argsort(np.resize(order, len(edges)), kind="stable")][:, ::-1]
    again = clusters(shuffled.T, 12)
    np.testing.assert_array_equal(again[0], goes)
    np.testing.assert_array_equal(again[1], stays)
    fewest = fewest_pairs(shuffled.T)
    np.testing.assert_array_equal(fewest, np.stack([stays, goes]))
    labels = np.arange(12)
    for edge in shuffled:  # one at a time
        join(labels, edge[:, None])
    ((one_goes, one_stays),) = duplicates(labels, 12)
    np.testing.assert_array_equal(one_goes, goes)
    np.testing.assert_array_equal(one_stays, stays)


@settings(max_examples=40)
@given(st.randoms(use_true_random=False))
def test_pairs_do_not_depend_on_the_order_of_the_keys(generate: random.Random) -> None:
    keys = np.array([generate.randint(0, 3) for _ in range(90)], dtype=np.uint64)
    signed = np.array(
        [[generate.randint(0, 1) for _ in range(14)] for _ in range(90)], dtype=np.uint64
    )
    numbers = np.arange(90)
    expected, _ = near_pairs(keys, numbers, lambda n: signed[n], 0.9)
    order = np.argsort(np.array(generate.sample(range(4), 4))[keys], kind="stable")
    got, _ = near_pairs(keys[order], numbers[order], lambda n: signed[n], 0.9)
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=40)
@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_pairs_of_known_clusters_are_skipped_and_change_no_cluster(
    generate: random.Random, num_first: int
) -> None:
    kinds = [[generate.randint(0, 1) for _ in range(14)] for _ in range(6)]
    copied = [generate.randint(0, 5) for _ in range(200)]
    signed = np.array(kinds, dtype=np.uint64)[copied]
    keys = np.array([[generate.randint(0, 40) for _ in copied] for _ in range(5)], dtype=np.uint64)
    numbers = np.arange(len(copied))

    def found(bands: Iterable[U64], roots_of: Callable[[I64], I64]) -> tuple[I64, int]:
        each = [near_pairs(k, numbers, lambda n: signed[n], 0.9, roots_of) for k in bands]
        pairs = np.concatenate([np.empty((2, 0), np.int64), *(p for p, _ in each)], axis=1)
        return pairs, sum(compared["candidates"] for _, compared in each)

    at_once, compared = found(keys, lambda n: n)
    first, _ = found(keys[:num_first], lambda n: n)
    labels = numbers.copy()
    join(labels, first)
    known = sum(len(goes) for goes, _ in duplicates(labels, 50))
    rest, compared_then = found(keys[num_first:], lambda n: labels[n])
    assert known == 0 or compared_then < compared
    goes, stays = clusters(at_once, len(numbers))
    again = clusters(np.concatenate([first, rest], axis=1), len(numbers))
    np.testing.assert_array_equal(again, (goes, stays))


@pytest.mark.parametrize("size", [2, 32, 33, 500])
def test_a_set_of_equal_documents_is_joined_whatever_its_size(size: int) -> None:
    unlike = np.random.default_rng(0).integers(0, 1 << 63, (2, 14), dtype=np.uint64)
    signed = np.repeat(unlike, [size, 1], axis=0)  # all have the same key, but the last is unlike
    keys = np.zeros(size + 1, dtype=np.uint64)
    pairs, compared = near_pairs(keys, np.arange(size + 1), lambda n: signed[n], 0.75)
    goes, stays = clusters(pairs, size + 1)
    assert goes.tolist() == list(range(1, size))
    assert set(stays.tolist()) == {0}
    assert compared["uncompared"] == 0


def test_no_documents_have_no_pairs() -> None:
    empty = np.empty(0, dtype=np.uint64)
    pairs, _ = near_pairs(empty, np.empty(0, np.int64), lambda n: empty, 0.75)
    assert pairs.shape == (2, 0)
    assert exact_pairs(empty, empty, np.empty(0, np.int64)).shape == (2, 0)
    assert [len(part) for part in clusters(pairs, 0)] == [0, 0]


def test_lines_are_equal_when_their_words_are() -> None:
    batch = TextBatch(
        normalise(["Read our terms of use.\nHello\n\nread OUR terms, of use", "Hello"])
    )
    hashes, _, _, text = lines_of(batch, "line", 4)
    assert hashes[0] == hashes[1]
    assert text.tolist() == [0, 0]
    assert len(lines_of(batch, "line", 1)[0]) == 4
    assert len(lines_of(batch, "paragraph", 1)[0]) == 3

"""Pseudo-log-likelihoods, by both ways of masking, against one row at a time."""

import pytest

from pipeline.evaluation.config import WordScore
from pipeline.evaluation.json_lines import Records
from pipeline.evaluation.made_pairs import agreement_pairs, half_pairs, word_order_pairs
from pipeline.evaluation.minimal_pairs import MinimalPair, minimal_pairs_check
from pipeline.evaluation.words import common_words, encode
from tests.gloo import in_one_rank
from tests.pipeline.evaluation.tiny_models import (
    log_probability,
    random_module,
    tiny_model,
    tokenizer_of,
)

PAIRS = (
    MinimalPair("the cat sat on the mat", "the cat mat on the sat", "a"),
    MinimalPair("a rat ran", "a rat under", "b"),
)


@pytest.mark.parametrize("method", ["word_l2r", "original"])
@in_one_rank
def test_each_token_is_masked_once(method: WordScore) -> None:
    model = tiny_model("small", tokenizer_of(265))
    module = random_module(model)
    result = minimal_pairs_check(model, module, [Records("f", PAIRS)], method, 200)
    for item, pair in zip(result.items, PAIRS, strict=True):
        for key, text in (("good", pair.good), ("bad", pair.bad)):
            assert item[key] == pytest.approx(expected(model, module, text, method), rel=1e-5)
        assert item["right"] == (item["good"] > item["bad"])
    (measure,) = result.measures
    assert measure.value == sum(item["right"] for item in result.items) / 2


def expected(model, module, text: str, method: str) -> float:  # type: ignore[no-untyped-def]
    encoded = encode(model.tokenizer, text)
    row = model.row(encoded.ids)
    word_of = {n: word.tokens[0] for word in common_words(text, [encoded]) for n in word.tokens[0]}
    total = 0.0
    for n in range(len(encoded.ids)):
        word = word_of.get(n, (n,))  # a token of white space alone is in no word
        later = [m for m in word if m >= n] if method == "word_l2r" else [n]
        hidden = {m + 1: model.special.mask for m in later}
        total += log_probability(module, row, hidden, n + 1)
    return total


@in_one_rank
def test_groups_ties_and_what_cannot_be_scored() -> None:
    model = tiny_model("small", tokenizer_of(265), max_row_tokens=30)
    module = random_module(model)
    long = MinimalPair("cat " * 40, "dog " * 40)
    files = [Records("one", PAIRS), Records("two", (long, PAIRS[0]))]
    result = minimal_pairs_check(model, module, files, "word_l2r", 200)
    assert result.left_out == {"pairs longer than the model's rows": 1}
    assert [(m.name, m.group, m.count) for m in result.measures] == [
        ("pair_accuracy", "", 3),
        ("pair_accuracy", "one", 2),
        ("pair_accuracy", "two", 1),
        ("phenomenon_accuracy", "a", 2),
        ("phenomenon_accuracy", "b", 1),
    ]
    for parameter in module.parameters():
        parameter.data.zero_()
    same_length = MinimalPair("the cat", "the hat")
    tie = minimal_pairs_check(model, module, [Records("f", (same_length,))], "word_l2r", 200)
    assert tie.measures[0].value == 0.5
    nothing = minimal_pairs_check(model, module, [Records("f", (long,))], "word_l2r", 200)
    assert nothing.notes == ("small: no pair could be scored",)


def test_made_pairs_differ_in_what_they_are_about() -> None:
    made = agreement_pairs(500)
    assert {name: len(pairs) for name, pairs in made.items()} == {
        "subject_verb": 216,
        "subject_verb_across_noun": 432,
        "determiner_noun": 144,
    }
    for pairs in made.values():
        for pair in pairs:
            good, bad = pair.good.split(), pair.bad.split()
            assert len(good) == len(bad)
            assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
        assert len({pair.good for pair in pairs}) == len(pairs)
    assert agreement_pairs(9) == agreement_pairs(9)

    text = "half a sentence. The red cat sat on the mat. Das ist ein ganz anderer Satz. cut off"
    pairs = word_order_pairs([text, text], 10)
    assert len(pairs) == 2  # a repeated text gives no second pair, a cut sentence none
    for pair in pairs:
        assert sorted(pair.good.split()) == sorted(pair.bad.split())
        assert pair.good != pair.bad
        assert pair.good.split()[0] == pair.bad.split()[0]
        assert pair.good.split()[-1] == pair.bad.split()[-1]
    assert word_order_pairs([text], 1) == pairs[:1]
    (halves,) = half_pairs([" ".join(map(str, range(20))), "too short"], 5)
    assert f"{halves.first} {halves.second}" == " ".join(map(str, range(20)))

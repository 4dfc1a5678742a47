"""Bits per byte: the chain rule within words, the same bytes for every tokenizer."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from pipeline.evaluation.config import HeldoutConfig
from pipeline.evaluation.heldout import MaskedTexts, heldout_check, mask_texts
from pipeline.evaluation.intervals import ratio_interval, wilson
from pipeline.evaluation.results import CheckResult, Measure
from pipeline.evaluation.sample_sizes import Sample
from pipeline.evaluation.texts import Texts
from tests.gloo import in_one_rank
from tests.pipeline.evaluation.tiny_models import (
    SENTENCES,
    log_probability,
    random_module,
    tiny_model,
    tokenizer_of,
)

CONFIG = HeldoutConfig(mask_rate=0.3)


def texts_of(sources: Mapping[str, tuple[str, ...]]) -> Texts:
    """Each text a document."""
    samples = {name: Sample(len(texts), len(texts)) for name, texts in sources.items()}
    return Texts(sources, {}, {}, samples)


TEXTS = texts_of({"a": SENTENCES[:1], "b": SENTENCES[1:]})


def measures(result: CheckResult) -> dict[tuple[str, str], Measure]:
    return {one.key: one for one in result.measures}


@in_one_rank
def test_a_word_is_predicted_token_by_token() -> None:
    model = tiny_model("small", tokenizer_of(265))
    module = random_module(model)
    masked = mask_texts(TEXTS, [model], CONFIG)
    nats = num_bytes = tokens = 0.0
    for texts in masked.sources.values():
        for text in texts:
            row = model.row(text.encodings[0].ids)
            words = [[n + 1 for n in word.tokens[0]] for word in text.words]
            assert 2 <= len(words) <= 6
            for word in words:
                others = {n: model.special.mask for w in words if w != word for n in w}
                for count, place in enumerate(word):
                    hidden = others | dict.fromkeys(word[count:], model.special.mask)
                    nats -= log_probability(module, row, hidden, place)
                tokens += len(word)
            num_bytes += sum(w.end - w.start for w in text.words)
    assert tokens > sum(len(t.words) for ts in masked.sources.values() for t in ts)
    found = measures(heldout_check(model, 0, module, masked, batch_tokens=100))
    assert found["bits_per_byte", ""].value == pytest.approx(nats / math.log(2) / num_bytes, 1e-5)
    assert found["token_loss", ""].value == pytest.approx(nats / tokens, 1e-5)
    assert {"a", "b"} <= {group for _, group in found}
    documents = {group: one.documents for (_, group), one in found.items()}
    assert documents == {"": len(SENTENCES), "a": 1, "b": len(SENTENCES) - 1}
    again = measures(heldout_check(model, 0, module, masked, batch_tokens=5000))
    for key, one in found.items():
        assert again[key].value == pytest.approx(one.value, rel=1e-4)


@in_one_rank
def test_a_model_that_knows_nothing_gets_the_bits_of_its_tokens() -> None:
    """Uniform predictions: log2 of the vocabulary for each token, whatever the masks."""
    models = [tiny_model(str(size), tokenizer_of(size)) for size in (265, 304)]
    masked = mask_texts(TEXTS, models, CONFIG)
    for number, model in enumerate(models):
        module = random_module(model)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        found = measures(heldout_check(model, number, module, masked, batch_tokens=1000))
        per_word = found["tokens_per_word", ""].value
        words = [w for texts in masked.sources.values() for text in texts for w in text.words]
        num_bytes = sum(word.end - word.start for word in words)
        expected = per_word * len(words) * math.log2(model.vocab_size) / num_bytes
        assert found["bits_per_byte", ""].value == pytest.approx(expected, rel=1e-5)


def stretches(masked: MaskedTexts) -> list[str]:
    return [
        text.text[word.start : word.end]
        for texts in masked.sources.values()
        for text in texts
        for word in text.words
    ]


def test_all_models_are_asked_for_the_same_words() -> None:
    models = [tiny_model(str(size), tokenizer_of(size)) for size in (265, 304)]
    both = stretches(mask_texts(TEXTS, models, CONFIG))
    alone = [stretches(mask_texts(TEXTS, [model], CONFIG)) for model in models]
    assert both == alone[0] == alone[1]
    turned = texts_of({"b": SENTENCES[1:], "a": SENTENCES[:1]})
    assert sorted(stretches(mask_texts(turned, models, CONFIG))) == sorted(both)


def test_long_and_unknown_words_are_counted_and_not_masked() -> None:
    texts = texts_of({"a": ("the cat saw an extraordinarily-long-word-of-many-tokens today",)})
    config = HeldoutConfig(mask_rate=0.5, max_word_tokens=8)
    masked = mask_texts(texts, [tiny_model("a", tokenizer_of(265))], config)
    assert masked.left_out == {"words of more than heldout.max_word_tokens tokens": 1}
    assert not any("extraordinarily" in word for word in stretches(masked))


def test_a_tokenizer_that_loses_case_is_named() -> None:
    from tokenizers import normalizers

    tokenizer = tokenizer_of(270)
    tokenizer.normalizer = normalizers.Lowercase()
    check_of_lower_case(tokenizer)


@in_one_rank
def check_of_lower_case(tokenizer: object) -> None:
    model = tiny_model("lower", tokenizer)  # type: ignore[arg-type]
    texts = texts_of({"a": ("The Cat Sat On The Mat And The Dog",)})
    masked = mask_texts(texts, [model], CONFIG)
    found = heldout_check(model, 0, random_module(model), masked, 1000)
    assert measures(found)["text_kept", ""].value == 0
    assert "predicts less than the others" in found.notes[0]


def test_intervals() -> None:
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    generator = np.random.default_rng(0)
    values = generator.normal(3.0, 1.0, size=400)
    low, high = ratio_interval(values, np.ones(400))
    assert low < 3.0 < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)

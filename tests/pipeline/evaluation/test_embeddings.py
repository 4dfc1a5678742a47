"""Vectors of texts, AUC and IsoScore against their definitions."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.embeddings import (
    TextPair,
    auc,
    embed,
    embeddings_check,
    isoscore,
    read_text_pair,
)
from pipeline.evaluation.json_lines import BadRecordError, Records
from tests.gloo import in_one_rank
from tests.pipeline.evaluation.tiny_models import random_module, tiny_model, tokenizer_of


@in_one_rank
def test_batches_and_padding_do_not_change_vectors() -> None:
    model = tiny_model("small", tokenizer_of(265), max_row_tokens=24)
    module = random_module(model)
    texts = ["the cat", "a man saw a hat", "red", "the rat " * 30]
    found, num_cut = embed(model, module, texts, ("mean", "first"), 60)
    assert num_cut == 1
    for number, text in enumerate(texts):
        ids = model.tokenizer.encode(text, add_special_tokens=False).ids[:22]
        with torch.no_grad():
            hidden = module.hidden_states(torch.tensor([model.row(ids)]))[0].numpy()
        np.testing.assert_allclose(found["mean"][number], hidden.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(found["first"][number], hidden[0], atol=1e-5)


@in_one_rank
def test_measures_by_pooling() -> None:
    model = tiny_model("small", tokenizer_of(265))
    module = random_module(model)
    same = [TextPair(text, text) for text in ("the cat sat", "a red bed", "the dog ate the hat")]
    result = embeddings_check(model, module, [Records("f", tuple(same))], ("mean", "first"), 100)
    values = {one.key: one.value for one in result.measures}
    for kind in ("mean", "first"):
        assert values["pair_auc", kind] == 1.0
        assert values["nearest", kind] == 1.0
        assert values["paraphrase_cosine", kind] == pytest.approx(1.0)
    turned = [TextPair("the cat sat", "a red bed"), TextPair("the dog", "the dog", False)]
    result = embeddings_check(model, module, [Records("f", tuple(turned))], ("mean",), 100)
    values = {one.key: one.value for one in result.measures}
    assert values["pair_auc", "mean"] == 0.0


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    generator = np.random.default_rng(0)
    positive = generator.integers(0, 9, 40).astype(float)
    negative = generator.integers(0, 7, 55).astype(float)
    above = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
    assert auc(positive, negative) == pytest.approx(above)
    assert np.isnan(auc(positive, negative[:0]))


def test_isoscore_counts_the_dimensions_that_are_used() -> None:
    generator = np.random.default_rng(0)
    size = 16
    for used in (1, 4, 16):
        vectors = np.zeros((20_000, size))
        vectors[:, :used] = generator.normal(size=(20_000, used))
        rotation = np.linalg.qr(generator.normal(size=(size, size)))[0]
        expected = (used - 1) / (size - 1)
        assert isoscore(vectors @ rotation + 3.0) == pytest.approx(expected, abs=0.01)
    assert np.isnan(isoscore(np.ones((5, size))))


def test_labels_are_numbers_or_truth_values() -> None:
    texts = {"text_a": "x", "text_b": "y"}
    for label, expected in ((1, True), (0, False), (True, True), (False, False), ("0", False)):
        assert read_text_pair({**texts, "label": label}).is_paraphrase is expected
    assert read_text_pair(texts).is_paraphrase
    for wrong in (2, 0.5, "yes", None, [1]):
        with pytest.raises(BadRecordError, match="label"):
            read_text_pair({**texts, "label": wrong})
    with pytest.raises(BadRecordError, match="text_b"):
        read_text_pair({"text_a": "x"})

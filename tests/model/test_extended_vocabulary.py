"""The embedding of a new vocabulary: kept vectors, means of pieces, FOCUS, random ones."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from configs.load import ConfigError
from data_prep.dataset.tokenizer import load_tokenizer, num_ids
from data_prep.tokenization.config import TokenizerFromFileConfig
from data_prep.tokenization.existing import prepared_from_file
from data_prep.tokenization.extension import extended_tokenizer
from model.extended_vocabulary import (
    AuxiliaryVectors,
    extended_embedding,
    sparsemax,
    token_mixtures,
)
from model.token_cooccurrence import cooccurrence_vectors
from tests.tokenizer_kinds import KINDS, save

CORPUS = ["breathing morbid overheated kidney doctors therefore facesaver chairs"] * 9
H = 6
SUBWORDS = [kind for kind in KINDS if kind != "word_level"]


def matrix_of(tokenizer: Tokenizer) -> NDArray[np.float32]:
    shape = num_ids(tokenizer), H
    return np.random.default_rng(0).normal(0.1, 0.02, shape).astype(np.float32)


def projected(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """The projection on the simplex, its threshold found by bisection."""
    low, high = float(scores.min()) - 1, float(scores.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(scores - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(scores.astype(np.float64) - low, 0)


def tokenizers_of(kind: str, folder: Path) -> tuple[Tokenizer, Tokenizer]:
    path = save(kind, folder)
    old = prepared_from_file(TokenizerFromFileConfig(type="file", path=str(path)))
    new = extended_tokenizer(old, CORPUS, 20, str(path))
    return load_tokenizer(path), new.tokenizer


@pytest.mark.parametrize("kind", SUBWORDS)
def test_new_tokens_of_an_extended_tokenizer_are_means_of_their_pieces(
    kind: str, tmp_path: Path
) -> None:
    old, new = tokenizers_of(kind, tmp_path)
    matrix = matrix_of(old)
    found = extended_embedding(matrix, old, new, "mean", seed=1)
    assert found.shape == (num_ids(new), H)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[: len(matrix)], matrix)  # to the last bit
    names = {number: token for token, number in new.get_vocab().items()}
    for number in range(len(matrix), len(found)):
        text = names[number]
        if kind == "wordpiece":
            if text.startswith("##"):
                continue
            pieces = old.encode(text, add_special_tokens=False).ids
        else:
            pieces = [piece.id for piece in old.model.tokenize(text)]
        assert len(pieces) > 1
        np.testing.assert_allclose(found[number], matrix[pieces].mean(axis=0), rtol=1e-5)
    if kind == "wordpiece":  # a piece inside of a word is cut as inside of a word
        inside = next(t for t in new.get_vocab() if t.startswith("##") and len(t) == 4
                      and old.token_to_id(t) is None)  # fmt: skip
        parts = [old.get_vocab()["##" + letter] for letter in inside[2:]]
        expected = matrix[parts].mean(axis=0)
        np.testing.assert_allclose(found[new.get_vocab()[inside]], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "other"),
    [("modernbert", "xlm_roberta"), ("xlm_roberta", "wordpiece"), ("wordpiece", "modernbert")],
)
def test_a_different_tokenizer_keeps_the_vectors_of_equal_texts(
    kind: str, other: str, tmp_path: Path
) -> None:
    old, new = (load_tokenizer(save(name, tmp_path / name)) for name in (kind, other))
    matrix = matrix_of(old)
    (mask,) = (new.get_vocab()[t] for t in ("[MASK]", "<mask>") if new.token_to_id(t) is not None)
    mixtures = token_mixtures(old, new, "mean", 1, old_size=len(matrix), special={mask: 0})
    found = mixtures.vectors(matrix)
    assert np.isfinite(found).all()
    assert len(found) == num_ids(new)
    np.testing.assert_array_equal(found[mask], matrix[0])
    spaces = {"modernbert": "\u0120", "xlm_roberta": "\u2581", "wordpiece": ""}
    num_words = 0
    for word in ["the", "of", "oven", "hot", "was", "kitchen", "a", "e", "n", "o"]:
        before, after = old.token_to_id(spaces[kind] + word), new.token_to_id(spaces[other] + word)
        if before is not None and after is not None:
            np.testing.assert_array_equal(found[after], matrix[before])
            num_words += 1
    assert num_words
    assert mixtures.kept.sum() > 10
    assert "tokens kept" in mixtures.summary()


def test_focus_weighs_shared_tokens_by_the_sparsemax_of_similarities(tmp_path: Path) -> None:
    old, new = tokenizers_of("modernbert", tmp_path)
    matrix, size, first = matrix_of(old), num_ids(new), num_ids(old)
    vectors = np.random.default_rng(1).standard_normal((size, 16)).astype(np.float32)
    found = np.ones(size, bool)
    found[[5, first + 2]] = False
    auxiliary = AuxiliaryVectors(vectors, found)
    result = extended_embedding(matrix, old, new, "focus", 1, auxiliary=auxiliary)
    np.testing.assert_array_equal(result[:first], matrix)
    shared = np.flatnonzero(found[:first])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = projected(unit[shared] @ unit[first])
    assert 1 < np.count_nonzero(weights) < 50
    np.testing.assert_allclose(result[first], weights @ matrix[shared], rtol=1e-5)
    mean = extended_embedding(matrix, old, new, "mean", 1)
    np.testing.assert_array_equal(result[first + 2], mean[first + 2])  # no auxiliary vector
    with pytest.raises(ConfigError, match="needs auxiliary vectors"):
        extended_embedding(matrix, old, new, "focus", 1)
    nothing = AuxiliaryVectors(vectors, np.arange(size) >= first)
    with pytest.raises(ConfigError, match="no token of both vocabularies"):
        extended_embedding(matrix, old, new, "focus", 1, auxiliary=nothing)


@pytest.mark.parametrize("scale", [1.0, 0.001])  # few and almost all of them have a weight
def test_sparsemax_is_the_projection_on_the_simplex(scale: float) -> None:
    scores = np.random.default_rng(0).standard_normal(1000) * scale
    weights = sparsemax(scores)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights, projected(scores), atol=1e-12)


def test_random_vectors_depend_on_seed_and_id_only(tmp_path: Path) -> None:
    old, new = tokenizers_of("modernbert", tmp_path)
    matrix, first = matrix_of(old), num_ids(old)
    results = [extended_embedding(matrix, old, new, "random", seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0][first:], results[2][first:])
    padded = extended_embedding(matrix, old, new, "random", 1, new_size=num_ids(new) + 9)
    np.testing.assert_array_equal(padded[: len(results[0])], results[0])
    assert abs(results[0][first:].mean() - 0.1) < 0.01
    assert 0.015 < results[0][first:].std() < 0.025


def test_the_bias_is_mixed_as_the_vectors_are(tmp_path: Path) -> None:
    old, new = tokenizers_of("modernbert", tmp_path)
    first = num_ids(old)
    bias = np.arange(first, dtype=np.float32)
    mixtures = token_mixtures(old, new, "mean", 1)
    found = mixtures.vectors(bias)
    np.testing.assert_array_equal(found[:first], bias)
    at = slice(mixtures.starts[first], mixtures.starts[first + 1])
    assert found[first] == pytest.approx(bias[mixtures.old_ids[at]].mean(), rel=1e-3)
    drawn = token_mixtures(old, new, "random", 1).vectors(bias)
    np.testing.assert_allclose(drawn[first:], bias.mean())


def test_rows_of_a_padded_old_matrix_are_not_taken_for_new_tokens(tmp_path: Path) -> None:
    old, new = tokenizers_of("modernbert", tmp_path)
    matrix = np.concatenate([matrix_of(old), np.full((30, H), 9, np.float32)])
    found = extended_embedding(matrix, old, new, "mean", 1)
    assert found[num_ids(old) : num_ids(new)].max() < 1


def test_tokens_of_equal_neighbours_are_similar() -> None:
    generate = np.random.default_rng(0)
    rows = generate.integers(10, 40, (400, 32))  # ids 0 to 9 are special
    for twin, name in ((40, 12), (41, 15)):
        at = generate.random(rows.shape) < 0.02
        rows[at] = twin
        # what follows is decided by the word, and is the same for both of a pair
        for word in (twin, name):
            here = np.argwhere(rows[:, :-1] == word)
            rows[here[:, 0], here[:, 1] + 1] = 20 + name
    special = np.arange(10)
    whole = cooccurrence_vectors([rows], 42, special, width=8)
    parts = cooccurrence_vectors([rows[:7], rows[7:]], 42, special, width=8)
    np.testing.assert_array_equal(whole.matrix, parts.matrix)
    assert not whole.found[:10].any()
    assert whole.found[10:].all()
    unit = whole.matrix / np.maximum(np.linalg.norm(whole.matrix, axis=1, keepdims=True), 1e-9)
    similar = unit @ unit[[40, 41]].T
    similar[[40, 41], [0, 1]] = -1
    assert similar[:, 0].argmax() == 12
    assert similar[:, 1].argmax() == 15


def test_the_work_does_not_grow_with_the_square_of_the_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dictionary of a real vocabulary (30,000 to 250,000 tokens) takes 10 to 100 ms to get."""
    old, new = tokenizers_of("modernbert", tmp_path)
    calls = []

    def counted(tokenizer: Tokenizer) -> int:
        calls.append(tokenizer)
        return num_ids(tokenizer)

    monkeypatch.setattr("model.extended_vocabulary.num_ids", counted)
    token_mixtures(old, new, "mean", 0)
    assert len(calls) < 9

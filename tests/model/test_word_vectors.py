"""Word vectors from word2vec and GloVe files, mapped on both kinds of vocabulary."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.load import ConfigError
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.weight_options import PretrainedVectors
from model.word_vectors import byte_symbols, read_word_vectors
from tests.gloo import in_one_rank, run_ranks

WORDS = {"the": [1.0, 2.0, 3.0, 4.0], "été": [0.5, -1.0, 0.0, 2.0], "New": [9.0, 9.0, 9.0, 8.0]}
SIZES = {"num_layers": 1, "hidden_size": 4, "num_attention_heads": 2}
VOCABULARY = ["<s>", "Ġthe", "the", "ĠÃ©tÃ©", "Ġqqq", "The", "new", "ĠNew"]


def write(folder: Path, kind: str) -> PretrainedVectors:
    path = folder / kind
    if kind == "word2vec_binary":
        body = b"".join(
            word.encode() + b" " + np.array(vector, "<f4").tobytes() + b"\n"
            for word, vector in WORDS.items()
        )
        path.write_bytes(b"3 4\n" + body)
    else:
        lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in WORDS.items()]
        header = ["3 4"] if kind == "word2vec_text" else []
        path.write_text("\n".join(header + lines) + "\n")
    return PretrainedVectors(path=str(path), format=kind, rescale=False)


@pytest.mark.parametrize("kind", ["word2vec_binary", "word2vec_text", "glove_text"])
def test_vectors_are_mapped_on_a_byte_level_vocabulary(tmp_path: Path, kind: str) -> None:
    vectors = read_word_vectors(write(tmp_path, kind), VOCABULARY, 4, 0.02)
    assert vectors.found.tolist() == [False, True, True, True, False, True, False, True]
    for place, word in ((1, "the"), (2, "the"), (3, "été"), (5, "the"), (7, "New")):
        np.testing.assert_array_equal(vectors.matrix[place], WORDS[word])
    assert str(vectors) == "5 of 8 tokens have a vector (62.5%)"


def test_vectors_are_mapped_on_word_pieces(tmp_path: Path) -> None:
    config = write(tmp_path, "glove_text")
    vectors = read_word_vectors(config, ["[CLS]", "the", "##the", "été"], 4, 0.02)
    assert vectors.found.tolist() == [False, True, True, True]


def test_byte_symbols_are_those_of_gpt2() -> None:
    symbols = byte_symbols()
    assert len(set(symbols.values())) == 256
    assert (symbols[32], symbols[10], symbols[ord("a")], symbols[0xC3]) == ("Ġ", "Ċ", "a", "Ã")


def test_bad_files_are_named(tmp_path: Path) -> None:
    config = write(tmp_path, "word2vec_binary")
    with pytest.raises(ConfigError, match=r"has 4 dimensions, but model\.hidden_size is 8"):
        read_word_vectors(config, VOCABULARY, 8, 0.02)
    Path(config.path).write_bytes(Path(config.path).read_bytes()[:-8])
    with pytest.raises(ConfigError, match="ends at word 2 of the 3 it promises"):
        read_word_vectors(config, VOCABULARY, 4, 0.02)
    with pytest.raises(ConfigError, match="no such file"):
        read_word_vectors(PretrainedVectors(path="/nowhere"), VOCABULARY, 4, 0.02)
    with pytest.raises(ConfigError, match="none of its words is in the vocabulary"):
        read_word_vectors(write(tmp_path, "glove_text"), ["zzz"], 4, 0.02)


def word_matrix(settings: dict[str, Any], tp_size: int) -> torch.Tensor:
    config = ModelConfig.model_validate({**SIZES, **settings})
    compute = ComputeConfig(vocabulary_multiple=2)
    model = build_masked_lm(config, 8, make_grid(tp_size), 1, compute, VOCABULARY)
    weight: torch.Tensor = model.encoder.embeddings.word.weight
    return weight.detach().clone()


def test_the_model_starts_from_them_at_any_tensor_parallel_size(tmp_path: Path) -> None:
    settings = {
        "embedding_start": write(tmp_path, "glove_text").model_copy(update={"rescale": True})
    }
    [with_vectors] = run_ranks(word_matrix, 1, settings, 1)
    [random] = run_ranks(word_matrix, 1, {}, 1)
    found = torch.tensor([False, True, True, True, False, True, False, True])
    assert torch.equal(with_vectors[~found], random[~found])
    assert float(with_vectors[found].std(unbiased=False)) == pytest.approx(0.02, rel=1e-4)
    torch.testing.assert_close(with_vectors[1] / with_vectors[1, 0], torch.tensor(WORDS["the"]))
    assert torch.equal(torch.cat(run_ranks(word_matrix, 2, settings, 2)), with_vectors)


@in_one_rank
def test_a_missing_vocabulary_is_an_error() -> None:
    start = {"type": "vectors", "path": "x"}
    config = ModelConfig.model_validate({**SIZES, "embedding_start": start})
    with pytest.raises(ConfigError, match="needs the texts of all 8 tokens, got 0"):
        build_masked_lm(config, 8, make_grid(1), 1)

"""Word vectors from word2vec and GloVe files, mapped on both kinds of vocabulary."""

import gzip
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
from model.word_vectors import byte_symbols, projection, read_word_vectors
from tests.gloo import in_one_rank, run_ranks

WORDS = {"the": [1.0, 2.0, 3.0, 4.0], "été": [0.5, -1.0, 0.0, 2.0], "New": [9.0, 9.0, 9.0, 8.0]}
SIZES = {"num_layers": 1, "hidden_size": 4, "num_attention_heads": 2}
VOCABULARY = ["<s>", "Ġthe", "the", "ĠÃ©tÃ©", "Ġqqq", "The", "new", "ĠNew"]


def write(folder: Path, kind: Any, is_compressed: bool = False) -> PretrainedVectors:
    path = folder / kind
    if kind == "word2vec_binary":
        body = b"".join(
            word.encode() + b" " + np.array(vector, "<f4").tobytes() + b"\n"
            for word, vector in WORDS.items()
        )
        path.write_bytes(b"3 4\n" + body)
    else:
        lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in WORDS.items()]
        header = [] if kind == "glove_text" else ["3 4"]
        path.write_text("\n".join(header + lines) + "\n")
    if is_compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    return PretrainedVectors(path=str(path), format=kind, rescale=False)


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize(
    "kind", ["word2vec_binary", "word2vec_text", "glove_text", "fasttext_text"]
)
def test_vectors_are_mapped_on_a_byte_level_vocabulary(
    tmp_path: Path, kind: str, is_compressed: bool
) -> None:
    vectors = read_word_vectors(write(tmp_path, kind, is_compressed), VOCABULARY, 4, 0.02)
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
    with pytest.raises(ConfigError, match=r"model\.hidden_size is 8: set .*fit: project or pad"):
        read_word_vectors(config, VOCABULARY, 8, 0.02)
    Path(config.path).write_bytes(Path(config.path).read_bytes()[:-8])
    with pytest.raises(ConfigError, match="ends at word 3 of the 3 it promises"):
        read_word_vectors(config, VOCABULARY, 4, 0.02)
    with pytest.raises(ConfigError, match="no such file"):
        read_word_vectors(PretrainedVectors(path="/nowhere"), VOCABULARY, 4, 0.02)
    with pytest.raises(ConfigError, match="none of its words is in the vocabulary"):
        read_word_vectors(write(tmp_path, "glove_text"), ["zzz"], 4, 0.02)


BAD_LINES = {
    "glove_text": (
        ("a 1 2\nb 1\n", r":2: not a word and 2 numbers"),
        ("a 1 2\nb 1 x\n", r":2: not a word and 2 numbers: could not convert"),
        ("a 1 2\n\nb 1 2\n", r":2: not a word and 2 numbers"),
        ("a 1 2\nb 1 nan\n", r":2: the vector of 'b' has numbers that are not finite"),
        ("2 2\na 1 2\nb 1 2\n", r":1: two counts.*set model\.embedding_start\.format: word2vec"),
        ("a\n", r":1: not a word and its numbers"),
    ),
    "fasttext_text": (
        ("a 1 2\nb 1 2\n", r"does not start with word2vec's two counts; .*glove_text"),
        ("3 2\na 1 2\nb 1 2\n", r"ends after 2 of the 3 words"),
        ("1 2\na 1 2\nb 1 2\n", r":3: more lines than the 1"),
        ("2 2\na 1 2\nb 2\n", r":3: not a word and 2 numbers"),
    ),
    "word2vec_binary": (
        ("2 1\na 1234\nb 12345678", r"goes on after the 2 words"),
        ("2 1\na 1234\nb 12", r"ends at word 2 of the 2"),
        ("2 1\na \x00\x00\x7f\x7f\x00\x00", r"ends at word 2 of the 2"),
        ("2 0\n", "does not start with word2vec's two counts"),
    ),
}


@pytest.mark.parametrize(
    ("kind", "text", "message"), [(k, t, m) for k, cases in BAD_LINES.items() for t, m in cases]
)
def test_bad_lines_are_named(tmp_path: Path, kind: Any, text: str, message: str) -> None:
    path = tmp_path / "vectors"
    path.write_text(text)
    config = PretrainedVectors(path=str(path), format=kind, fit="pad")
    with pytest.raises(ConfigError, match=message):
        read_word_vectors(config, ["a", "b"], 2, 0.02)


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    config = write(tmp_path, "glove_text", is_compressed=True)
    Path(config.path).write_bytes(Path(config.path).read_bytes()[:-12])
    with pytest.raises(ConfigError, match="damaged gzip file"):
        read_word_vectors(config, VOCABULARY, 4, 0.02)


def test_words_with_spaces_are_read(tmp_path: Path) -> None:
    (tmp_path / "glove").write_text(". 1 2\n. . 3 4\nthe\u00a0end 5 6\nnew 7 8\n")
    config = PretrainedVectors(path=str(tmp_path / "glove"), format="glove_text", rescale=False)
    found = read_word_vectors(config, ["▁.", ". .", "the\u00a0end", "▁new"], 2, 0.02).matrix
    assert found.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize("width", [3, 9])
def test_projected_vectors_keep_their_angles_in_any_order_of_the_sums(
    tmp_path: Path, width: int
) -> None:
    config = write(tmp_path, "glove_text").model_copy(update={"fit": "project"})
    same = [read_word_vectors(config, VOCABULARY, width, 0.02).matrix for _ in range(2)]
    assert np.array_equal(same[0], same[1])
    other = read_word_vectors(config.model_copy(update={"seed": 1}), VOCABULARY, width, 0.02)
    assert not np.allclose(same[0], other.matrix)
    if width == 9:
        words = np.array([WORDS["the"], WORDS["été"], WORDS["New"]])
        found = same[0][[1, 3, 7]]
        np.testing.assert_allclose(found @ found.T, words @ words.T, rtol=1e-4)
    # Sums of the grids of fixed point are exact: backwards, they are the same.
    matrix = np.round(projection(300, width, 0) * 2.0**20) / 2.0**20
    fixed = np.round(np.random.default_rng(0).standard_normal((5, 300)) * 2**21) / 2.0**21
    assert np.array_equal(fixed @ matrix, fixed[:, ::-1] @ matrix[::-1])


def test_padded_vectors_are_followed_by_zeros(tmp_path: Path) -> None:
    config = write(tmp_path, "glove_text").model_copy(update={"fit": "pad"})
    padded = read_word_vectors(config, VOCABULARY, 6, 0.02).matrix
    assert padded[1].tolist() == [*WORDS["the"], 0, 0]
    with pytest.raises(ConfigError, match="pad cannot make them shorter, project can"):
        read_word_vectors(config, VOCABULARY, 3, 0.02)


def word_matrix(settings: dict[str, Any], tp_size: int) -> torch.Tensor:
    config = ModelConfig.model_validate({**SIZES, **settings})
    compute = ComputeConfig(vocabulary_multiple=2)
    model = build_masked_lm(config, 8, make_grid(tp_size), 1, compute, VOCABULARY)
    weight: torch.Tensor = model.encoder.embeddings.word.weight
    return weight.detach().clone()


def test_the_model_starts_from_them_at_any_tensor_parallel_size(tmp_path: Path) -> None:
    start = write(tmp_path, "glove_text").model_copy(update={"rescale": True})
    settings: dict[str, Any] = {"embedding_start": start}
    [with_vectors] = run_ranks(word_matrix, 1, settings, 1)
    [random] = run_ranks(word_matrix, 1, {}, 1)
    found = torch.tensor([False, True, True, True, False, True, False, True])
    assert torch.equal(with_vectors[~found], random[~found])
    assert float(with_vectors[found].std(unbiased=False)) == pytest.approx(0.02, rel=1e-4)
    torch.testing.assert_close(with_vectors[1] / with_vectors[1, 0], torch.tensor(WORDS["the"]))
    assert torch.equal(torch.cat(run_ranks(word_matrix, 2, settings, 2)), with_vectors)
    wider = {"hidden_size": 12, "embedding_start": start.model_copy(update={"fit": "project"})}
    [projected] = run_ranks(word_matrix, 1, wider, 1)
    assert torch.equal(torch.cat(run_ranks(word_matrix, 2, wider, 2)), projected)
    assert float(projected[found].std(unbiased=False)) == pytest.approx(0.02, rel=1e-4)


@in_one_rank
def test_a_missing_vocabulary_is_an_error() -> None:
    start = {"type": "vectors", "path": "x"}
    config = ModelConfig.model_validate({**SIZES, "embedding_start": start})
    with pytest.raises(ConfigError, match="needs the texts of all 8 tokens, got 0"):
        build_masked_lm(config, 8, make_grid(1), 1)


def test_a_byte_level_vocabulary_may_hold_hashes_as_text(tmp_path: Path) -> None:
    vocabulary = ["####", "Ġthe", "ĠÃ©tÃ©", "################"]  # GPT-2 and RoBERTa have these
    vectors = read_word_vectors(write(tmp_path, "glove_text"), vocabulary, 4, 0.02)
    assert vectors.found.tolist() == [False, True, True, False]


def test_of_repeated_words_the_first_counts_and_blank_lines_do_not(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(b"\xef\xbb\xbfTHE 9 9\r\nThe 5 6\r\nthe 1 2\r\nthe 3 4\r\n. . . 7 8\r\n\r\n\n")
    config = PretrainedVectors(path=str(path), format="glove_text", rescale=False)
    vectors = read_word_vectors(config, ["the", "The", "tHE", "THE"], 2, 0.02)
    assert vectors.matrix.tolist() == [[1, 2], [5, 6], [1, 2], [9, 9]]


def test_vectors_that_cannot_be_scaled_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    for content, message in (("", "holds no vectors"), ("the 0 0\n", "are equal")):
        path.write_text(content)
        config = PretrainedVectors(path=str(path), format="glove_text")
        with pytest.raises(ConfigError, match=message):
            read_word_vectors(config, ["the"], 2, 0.02)

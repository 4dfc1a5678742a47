"""Folders that cannot be imported are named in one error, before any tensor is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from configs.load import UserError
from pipeline.hugging_face import weights
from pipeline.hugging_face.weights import read_hf_folder
from pipeline.start.config import FromHuggingFace
from pipeline.start.start import read_start
from tests.pipeline.hugging_face.folders import change_config, tiny_folder, tiny_tokenizer

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
OTHER_FAMILIES: dict[str, Any] = {
    "T5Model": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4},
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 99},
    "DebertaV2ForMaskedLM": {**SIZES, "intermediate_size": 64},
    "DistilBertForMaskedLM": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64},
    "ElectraForMaskedLM": {**SIZES, "embedding_size": 32, "intermediate_size": 64},
}


@pytest.fixture(autouse=True)
def no_tensor_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(weights, "tensors_of", refused)


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_a_folder_of_a_different_family(name: str, tmp_path: Path) -> None:
    model = getattr(transformers, name)
    model(model.config_class(**OTHER_FAMILIES[name])).save_pretrained(tmp_path)
    for read in (read_hf_folder, start_from):
        with pytest.raises(UserError) as error:
            read(tmp_path)
        assert f"model_type '{model.config_class.model_type}' cannot be imported" in str(
            error.value
        )
        assert "known: roberta, bert, " in str(error.value)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match="cannot be imported; known"):
        read_hf_folder(tmp_path)


def start_from(folder: Path) -> None:
    read_start(FromHuggingFace(path=folder))


def test_weights_of_a_different_family_than_config_json(tmp_path: Path) -> None:
    change_config(tiny_folder(tmp_path), model_type="bert")
    with pytest.raises(UserError) as error:
        read_hf_folder(tmp_path)
    assert "the weights are of a different family" in str(error.value)
    assert "bert.embeddings.word_embeddings.weight: missing (expected [99, 32])" in str(error.value)


def test_everything_that_is_wrong_is_in_one_error(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, tiny_tokenizer(120))
    state = load_file(folder / "model.safetensors")
    del state["roberta.encoder.layer.0.output.dense.bias"]
    state["lm_head.dense.weight"] = torch.zeros(3, 4)
    state["roberta.extra"] = torch.zeros(2)
    save_file(state, folder / "model.safetensors")
    for read in (read_hf_folder, start_from):
        with pytest.raises(UserError) as error:
            read(folder)
        for expected in (
            "3 tensor(s) do not fit a roberta model",
            "roberta.encoder.layer.0.output.dense.bias: missing (expected [32])",
            "lm_head.dense.weight: shape [3, 4], expected [32, 32]",
            "roberta.extra: superfluous (shape [2])",
            "tokenizer.json: has 120 ids, but the weights of",
        ):
            assert expected in str(error.value)
    change_config(folder, hidden_act="relu")
    with pytest.raises(UserError) as error:
        read_hf_folder(folder)
    assert "hidden_act 'relu' is not supported" in str(error.value)
    assert "has 120 ids" in str(error.value)


def test_config_json_and_weights_of_different_vocabularies(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, tiny_tokenizer(110))
    change_config(folder, vocab_size=110)
    with pytest.raises(UserError) as error:
        start_from(folder)
    assert "word_embeddings.weight: shape [99, 32], expected [110, 32]" in str(error.value)
    assert "lm_head.bias: shape [99], expected [110]" in str(error.value)


@pytest.mark.parametrize("kind", ["vocab.txt", "vocab.json"])
def test_a_vocabulary_without_a_tokenizer_json(kind: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    names = [f"a{number}" for number in range(120)]
    text = "\n".join(names) + "\n"
    if kind == "vocab.json":
        text = json.dumps({name: number for number, name in enumerate(names)})
    (folder / kind).write_text(text)
    with pytest.raises(UserError, match=rf"{kind}: has 120 ids, but the weights of .* only 99"):
        read_hf_folder(folder)


def test_the_tokenizer_that_is_named_counts(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "hf", tiny_tokenizer(99))
    tiny_tokenizer(120).save(str(tmp_path / "other.json"))
    with pytest.raises(UserError, match=r"other\.json: has 120 ids"):
        read_hf_folder(folder, tokenizer=tmp_path / "other.json")


def test_quantised_weights_and_pickles_of_something_else(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["lm_head.dense.weight"] = torch.zeros(32, 32, dtype=torch.int8)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.dense\.weight: whole numbers, expected fp32"):
        read_hf_folder(folder)
    (folder / "model.safetensors").unlink()
    for content in ({"state_dict": state, "epoch": 3}, [1, 2], {"a": 1}):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(UserError, match="holds something else than tensors by name"):
            read_hf_folder(folder)

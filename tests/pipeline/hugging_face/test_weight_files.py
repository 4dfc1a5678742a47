"""Which files of a Hugging Face folder are read, and odd numbers in its config.json."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.load import UserError
from pipeline.hugging_face.weights import read_hf_folder
from tests.pipeline.hugging_face.folders import TINY, change_config, tiny_folder


def test_weights_of_an_index_must_be_beside_it(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "hf")
    weights = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"

    def read_with(*names: object) -> None:
        index.write_text(json.dumps({"weight_map": {str(n): name for n, name in enumerate(names)}}))
        read_hf_folder(folder)

    read_with("model.safetensors")
    weights.rename(tmp_path / "outside.safetensors")
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "a.bin", 3):
        with pytest.raises(UserError, match="is no name of a safetensors file beside it"):
            read_with(name)
    weights.symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(UserError, match="outside of the folder"):
        read_with("model.safetensors")
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(UserError, match="not a regular file"):
        read_with("model.safetensors")
    for content in ("[]", "{", '{"weight_map": []}'):
        index.write_text(content)
        with pytest.raises(UserError, match=r"index\.json"):
            read_hf_folder(folder)


def test_a_snapshot_of_the_hubs_cache_is_read(tmp_path: Path) -> None:
    snapshot = tiny_folder(tmp_path / "model" / "snapshots" / "rev")
    blobs = tmp_path / "model" / "blobs"
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    assert read_hf_folder(snapshot).vocab_size == TINY["vocab_size"]


def test_odd_numbers_in_a_config_are_named(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    change_config(folder, num_hidden_layers=10**4)
    with pytest.raises(UserError, match=r"says 10,000 layers, but there are only \d+ tenso"):
        read_hf_folder(folder)
    for key, value in (
        ("max_position_embeddings", "40"),
        ("pad_token_id", -2),
        ("vocab_size", 9.5),
    ):
        tiny_folder(tmp_path)
        change_config(folder, **{key: value})
        with pytest.raises(UserError, match=f"{key} .* is no number from"):
            read_hf_folder(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json: not a JSON mapping"):
        read_hf_folder(folder)


def test_a_decoder_of_its_own_can_be_left_out(tmp_path: Path) -> None:
    """With the whole head, as the error says: it then starts at random."""
    folder = tiny_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["lm_head.decoder.weight"] = torch.ones(99, 32)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.decoder\.weight: differs(.|\n)*\['lm_head\.'\]"):
        read_hf_folder(folder)
    found = read_hf_folder(folder, ("lm_head.",))
    assert not found.has_head
    assert not any(name.startswith("head.") for name in found.state)
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(UserError, match="only ModernBERT and EuroBERT have decoders of their own"):
        read_hf_folder(folder, ("lm_head.",))

"""Folders of BERT as programs of 2018 to 2021 wrote them give transformers' numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from configs.load import UserError
from model.parallel.grid import make_grid
from pipeline.hugging_face.weights import build_from_hf, read_hf_folder
from tests.gloo import run_ranks
from tests.pipeline.hugging_face.folders import change_config

SIZES = {
    "vocab_size": 29,  # amino acids, say
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
OLD_KEYS = {"output_past": True, "pruned_heads": {}, "torchscript": False, "use_bfloat16": False}
KINDS = ("one file", "two files", "encoder only", "half precision")


def old_folder(kind: str, folder: Path) -> Any:
    """Writes the folder; transformers' model of it."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES)
    config._attn_implementation = "eager"
    model = transformers.BertForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half())
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor.half() if kind == "half precision" else tensor
        for name, tensor in model.state_dict().items()
    }
    state["bert.embeddings.position_ids"] = torch.arange(24)[None]
    if kind == "encoder only":
        state = {k.removeprefix("bert."): t for k, t in state.items() if k.startswith("bert.")}
    folder.mkdir()
    given = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    if kind == "encoder only":
        given["architectures"] = ["BertModel"]
    (folder / "config.json").write_text(json.dumps({**given, **OLD_KEYS}))
    if kind != "two files":
        torch.save(state, folder / "pytorch_model.bin")
        return model
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    places = {name: names[number % 2] for number, name in enumerate(state)}
    for file in names:
        torch.save({n: t for n, t in state.items() if places[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return model


def outputs(folder: Path, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = build_from_hf(read_hf_folder(folder), make_grid(1)).eval()
    with torch.no_grad():
        return model.logits(tokens), model.hidden_states(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_folder_is_read(kind: str, tmp_path: Path) -> None:
    theirs = old_folder(kind, tmp_path / "hf")
    tokens = torch.randint(1, 29, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = theirs.bert(tokens).last_hidden_state
        logits = theirs(tokens).prediction_logits
    hf = read_hf_folder(tmp_path / "hf")
    assert hf.family.model_type == "bert"
    assert hf.has_head == (kind != "encoder only")
    ((our_logits, our_hidden),) = run_ranks(outputs, 1, tmp_path / "hf", tokens)
    torch.testing.assert_close(our_hidden, hidden, rtol=1e-5, atol=1e-5)
    if hf.has_head:
        torch.testing.assert_close(our_logits, logits, rtol=1e-5, atol=1e-5)


def test_a_folder_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    old_folder("encoder only", tmp_path / "hf")
    change_config(tmp_path / "hf", architectures=None)
    with pytest.raises(UserError, match="no model_type, and neither architectures nor the names"):
        read_hf_folder(tmp_path / "hf")

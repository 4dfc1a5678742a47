"""Reads a Hugging Face folder and builds our model from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from configs.load import UserError
from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.hugging_face.families import family_of_folder
from model.hugging_face.family import Family
from model.parallel.grid import Grid
from model.parameters import parameter_specs, shard_tensor


@dataclass(frozen=True)
class HfModel:
    """A Hugging Face folder, read and checked."""

    config: ModelConfig
    vocab_size: int
    family: Family
    state: dict[str, Tensor]
    """Our full tensors by canonical name; the head's are missing where the folder has none."""
    has_head: bool
    """Whether the folder holds a masked-language-model head."""


def read_hf_folder(folder: Path, leave_out: tuple[str, ...] = ()) -> HfModel:
    """The model in `folder` (config.json with model.safetensors or pytorch_model.bin).

    Tensors whose names start with one of `leave_out` are skipped. Raises UserError that names
    every missing, superfluous or misshapen tensor and every setting that our network does not
    compute; no model is built before that.
    """
    try:
        hf = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: not a Hugging Face folder: no config.json") from None
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: not valid JSON: {error}") from None
    tensors = _read_tensors(folder)
    origin = str(folder / "config.json")
    family = family_of_folder(hf, tensors, origin)
    config, vocab_size = family.model_config(hf, origin)
    has_head = family.has_masked_lm_head(tensors)
    try:
        state = family.from_hf(tensors, config, vocab_size, has_head, leave_out)
    except UserError as error:
        hint = "; --leave-out PREFIX skips superfluous ones" * ("superfluous" in str(error))
        raise UserError(f"{folder}: {error}{hint}") from None
    return HfModel(config, vocab_size, family, state, has_head)


def build_from_hf(hf: HfModel, grid: Grid, seed: int = 0) -> MaskedLanguageModel:
    """The fp32 model of `hf` at this grid; a head that the folder lacks starts from `seed`."""
    model = build_masked_lm(hf.config, hf.vocab_size, grid, seed)
    specs = parameter_specs(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in hf.state:
                full = hf.state[name].float()
                parameter.copy_(shard_tensor(specs[name], full, *grid.tp_shard))
    return model


def _read_tensors(folder: Path) -> Mapping[str, Tensor]:
    """Every tensor of the folder, by name."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        files = [folder / name for name in names]
    else:
        files = [folder / "model.safetensors"]
    if all(file.exists() for file in files):
        tensors: dict[str, Tensor] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        return tensors
    pickled = folder / "pytorch_model.bin"
    if not pickled.exists():
        raise UserError(
            f"{folder}: no weights: expected {' and '.join(file.name for file in files)}, or "
            "pytorch_model.bin"
        )
    try:
        # weights_only: a pickle could run code otherwise.
        state: Any = torch.load(pickled, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{pickled}: cannot be read: {error}") from None
    return dict(state)

"""Reads a Hugging Face folder and builds our model from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from configs.load import UserError
from data_prep.dataset.files import path_inside, read_json
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer
from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.hugging_face.families import family_of_folder
from model.hugging_face.family import Family
from model.parallel.grid import Grid
from model.parameters import parameter_specs, shard_tensor

PICKLE_NAME = "pytorch_model.bin"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


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
    special_ids: Mapping[str, int]
    """The ids of special tokens that config.json gives, by its keys."""
    files: tuple[Path, ...]
    """The files with the weights."""


def read_hf_folder(folder: Path, leave_out: tuple[str, ...] = ()) -> HfModel:
    """The model in `folder` (config.json with model.safetensors or pytorch_model.bin).

    Tensors whose names start with one of `leave_out` are skipped. Raises UserError that names
    every missing, superfluous or misshapen tensor and every setting that our network does not
    compute, and for files that are outside of the folder; no model is built before that.
    """
    try:
        hf = read_json(folder / "config.json")
    except OSError as error:
        raise UserError(f"{folder}: not a Hugging Face folder: no config.json ({error})") from None
    files, tensors = _read_tensors(folder)
    origin = str(folder / "config.json")
    family = family_of_folder(hf, tensors, origin)
    config, vocab_size = family.model_config(_with_own_padding(hf, folder), origin)
    if config.num_layers > len(tensors):
        raise UserError(
            f"{folder}: config.json says {config.num_layers:,} layers, but there are only "
            f"{len(tensors):,} tensors"
        )
    has_head = family.has_masked_lm_head(tensors)
    try:
        state = family.from_hf(tensors, config, vocab_size, has_head, leave_out)
    except UserError as error:
        hint = "; --leave-out PREFIX skips superfluous ones" * ("superfluous" in str(error))
        raise UserError(f"{folder}: {error}{hint}") from None
    special_ids = {key: hf[key] for key in SPECIAL_IDS if isinstance(hf.get(key), int)}
    special_ids["pad_token_id"] = config.pad_token_id
    return HfModel(config, vocab_size, family, state, has_head, special_ids, files)


def _with_own_padding(hf: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """config.json with the padding token that its tokenizer has here, if its own has a second role.

    transformers knows padding by a mask, our network by its id (EuroBERT pads with its end token).
    """
    file, pad = folder / "tokenizer.json", hf.get("pad_token_id")
    others = [hf.get(key) for key in ("bos_token_id", "eos_token_id", "mask_token_id")]
    if pad is None or pad not in others or not file.is_file():
        return hf
    special = find_special_tokens(load_tokenizer(file), file, vocab_size=hf.get("vocab_size"))
    return {**hf, "pad_token_id": special.pad}


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


def _read_tensors(folder: Path) -> tuple[tuple[Path, ...], Mapping[str, Tensor]]:
    """The files with weights, and every tensor in them by name."""
    files = tuple(file_inside(folder, name) for name in _weight_names(folder))
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".bin":
                # weights_only: a pickle could run code otherwise.
                state: Any = torch.load(file, map_location="cpu", weights_only=True)
                tensors.update(state)
                continue
            with safe_open(file, framework="pt") as opened:
                tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        except Exception as error:  # each library has its own for damaged files
            raise UserError(f"{file}: cannot be read: {error}") from None
    return files, tensors


def _weight_names(folder: Path) -> list[str]:
    """The names of the files with weights: those of the index, one file, or an older pickle."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{index}: no weight_map with the files of the tensors")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(f"{index}: {name!r} is no name of a safetensors file beside it")
    if all((folder / name).exists() for name in names):
        return names
    if (folder / PICKLE_NAME).exists():
        return [PICKLE_NAME]
    raise UserError(f"{folder}: no weights: expected {' and '.join(names)}, or {PICKLE_NAME}")


def file_inside(folder: Path, name: str) -> Path:
    """The regular file `name` in `folder`; raises UserError if it is none or leads elsewhere.

    In a cache of the Hugging Face hub, the files of a snapshot are links to the folder of blobs of
    the same model.
    """
    root = folder.absolute()
    is_cached = root.parent.name == "snapshots" and (root.parent.parent / "blobs").is_dir()
    cache = root.parent.parent if is_cached else root
    path = path_inside(cache, str((root / name).relative_to(cache)))
    if not path.is_file():
        raise UserError(f"{folder / name}: not a regular file")
    return folder / name

"""Reads a Hugging Face folder and builds our model from it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import UserError
from data_prep.dataset.files import read_json
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids
from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.hugging_face.families import family_of_folder
from model.hugging_face.family import Family
from model.parallel.grid import Grid
from model.parameters import parameter_specs, shard_tensor
from pipeline.hugging_face.vocabulary import has_vocabulary, read_vocabulary
from pipeline.hugging_face.weight_files import (
    headers_of,
    number_format_errors,
    tensors_of,
    weight_files,
)

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


def read_hf_folder(
    folder: Path, leave_out: tuple[str, ...] = (), tokenizer: Path | None = None
) -> HfModel:
    """The model in `folder` (config.json with model.safetensors or pytorch_model.bin).

    Tensors whose names start with one of `leave_out` are skipped; `tokenizer` is the model's, if
    not that of the folder. Raises one UserError, before any tensor is read, that names every
    missing, superfluous or misshapen tensor, every setting that our network does not compute, and
    a tokenizer with more ids than the weights; and for files that are outside of the folder.
    """
    try:
        hf = read_json(folder / "config.json")
    except OSError as error:
        raise UserError(f"{folder}: not a Hugging Face folder: no config.json ({error})") from None
    origin = str(folder / "config.json")
    if hf.get("model_type") is not None:
        family_of_folder(hf, (), origin)  # before the weights, which may be missing too
    files = weight_files(folder)
    headers = headers_of(files)
    family = family_of_folder(hf, headers, origin)
    kept = [name for name in headers if not name.startswith(leave_out)]
    # Asked twice: a task's head, which may be left out, has layers of the same names.
    has_head = family.has_masked_lm_head(headers) and family.has_masked_lm_head(kept)
    config, vocab_size = _checked(
        *(
            family,
            _with_own_padding(hf, family, tokenizer or folder / "tokenizer.json"),
            headers,
            has_head,
            leave_out,
        ),
        *(folder, tokenizer),
    )
    try:
        state = family.from_hf(tensors_of(files), config, vocab_size, has_head, leave_out)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    special_ids = {key: hf[key] for key in SPECIAL_IDS if isinstance(hf.get(key), int)}
    special_ids["pad_token_id"] = config.pad_token_id
    return HfModel(config, vocab_size, family, state, has_head, special_ids, files)


def _checked(
    family: Family,
    hf: Mapping[str, Any],
    headers: Mapping[str, Tensor],
    has_head: bool,
    leave_out: tuple[str, ...],
    folder: Path,
    tokenizer: Path | None,
) -> tuple[ModelConfig, int]:
    """(our config, vocabulary size); raises one UserError with all that is wrong in the folder."""
    errors, found = list(_tokenizer_errors(hf.get("vocab_size"), folder, tokenizer)), None
    try:
        found = family.model_config(hf, str(folder / "config.json"))
    except UserError as error:
        errors.insert(0, str(error))
    if found is not None:
        errors = [*_tensor_errors(family, *found, headers, has_head, leave_out, folder), *errors]
    if errors or found is None:
        raise UserError("\n".join(errors))
    return found


def _tensor_errors(
    family: Family,
    config: ModelConfig,
    vocab_size: int,
    headers: Mapping[str, Tensor],
    has_head: bool,
    leave_out: tuple[str, ...],
    folder: Path,
) -> Iterator[str]:
    layers = config.num_layers
    if not family.writes_shared_layers_apart:
        layers = config.layer_group(layers - 1) + 1
    if layers > len(headers):
        yield (
            f"{folder}: config.json says {layers:,} layers, but there are only "
            f"{len(headers):,} tensors"
        )
        return
    kept = {name: one for name, one in headers.items() if not name.startswith(leave_out)}
    if wrong := list(number_format_errors(kept)):
        yield f"{folder}: {len(wrong)} tensor(s) are no weights:\n  " + "\n  ".join(wrong)
        return
    try:
        family.check_tensors(headers, config, vocab_size, has_head, leave_out)
    except UserError as error:
        hint = "; --leave-out PREFIX skips superfluous ones" * ("superfluous" in str(error))
        yield f"{folder}: {error}{hint}"


def _tokenizer_errors(vocab_size: Any, folder: Path, tokenizer: Path | None) -> Iterator[str]:
    """A tokenizer may have fewer ids than the weights, whose vocabulary is then padded."""
    if type(vocab_size) is not int or (tokenizer is None and not has_vocabulary(folder)):
        return
    vocabulary = read_vocabulary(folder, tokenizer)
    size = max(vocabulary.ids.values(), default=-1) + 1
    if size > vocab_size:
        yield (
            f"{vocabulary.origin}: has {size:,} ids, but the weights of {folder} only "
            f"{vocab_size:,} (vocab_size in config.json): it is not the tokenizer of this model"
        )


def _with_own_padding(hf: Mapping[str, Any], family: Family, file: Path) -> Mapping[str, Any]:
    """config.json with the padding token of the tokenizer `file`, if its own has a second role.

    transformers knows padding by a mask, our network by its id (EuroBERT pads with its end token).
    Where the positions depend on the id, as in RoBERTa, it stays.
    """
    if family.positions_depend_on_padding:
        return hf
    pad, vocab_size = hf.get("pad_token_id"), hf.get("vocab_size")
    others = [hf.get(key) for key in ("bos_token_id", "eos_token_id", "mask_token_id")]
    if pad is None or pad not in others or type(vocab_size) is not int or not file.is_file():
        return hf
    tokenizer = load_tokenizer(file)
    special = find_special_tokens(tokenizer, file, vocab_size=max(vocab_size, num_ids(tokenizer)))
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

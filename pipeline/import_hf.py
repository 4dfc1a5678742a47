"""Weights of a Hugging Face folder (RoBERTa, BERT, pre-LN RoBERTa) as the start of a run.

``python -m pipeline.import_hf CONFIG.yaml --from FOLDER`` writes them as the checkpoint of step 0
of the run, which then trains at any grid. All sizes and tensors are compared before anything is
built. ``--leave-out PREFIX`` passes over tensors of other heads.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from configs import command
from configs.load import UserError, load
from data_prep.shards import Manifest, read_manifest
from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.hf_config import config_from_hf
from model.hf_names import Layout, from_hf
from model.parallel import Grid, single_rank_grid
from model.parameters import parameter_specs, shard_tensor
from pipeline import run_folder
from pipeline.checkpoint import (
    MOMENTS,
    STATE_KEYS,
    CheckpointManifest,
    ParameterRecord,
    Segment,
    tensor_key,
)
from pipeline.checkpoint_writer import Saver
from pipeline.config import TrainConfig
from pipeline.versions import versions

_HEAD_PREFIX = "head."


@dataclass(frozen=True)
class HfModel:
    """A Hugging Face folder, read and checked."""

    config: ModelConfig
    vocab_size: int
    layout: Layout
    state: dict[str, Tensor]
    """Our full tensors by canonical name; the head's are missing where the folder has none."""
    has_head: bool
    """Whether the folder holds a masked-language-model head."""


def main() -> None:
    """``python -m pipeline.import_hf CONFIG.yaml --from FOLDER key.sub=value ...``."""
    parser = command.parser("Start a run from the weights of a Hugging Face folder.")
    parser.add_argument("--from", dest="folder", metavar="FOLDER", required=True, type=Path)
    parser.add_argument("--leave-out", metavar="PREFIX", action="append", default=[])
    arguments = parser.parse_intermixed_args()
    config = load(arguments.config, TrainConfig, arguments.overrides)
    data = read_manifest(config.data.path)
    hf = read_hf_folder(arguments.folder, tuple(arguments.leave_out))
    with single_rank_grid() as grid:
        path = start_run(config, data, hf, grid)
    head = "" if hf.has_head else "; it has no masked-language-model head, which starts at random"
    print(f"{path}: step 0 of the run, from {arguments.folder} ({hf.layout} layout){head}")


def read_hf_folder(folder: Path, leave_out: tuple[str, ...] = ()) -> HfModel:
    """The model in `folder` (config.json with model.safetensors or pytorch_model.bin).

    Tensors whose names begin with one of `leave_out` are passed over.
    Raises UserError that names every missing, superfluous or misshapen tensor and every setting
    that our network does not compute; no model is built for that.
    """
    try:
        hf = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: not a Hugging Face folder: no config.json") from None
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: not valid JSON: {error}") from None
    tensors = _read_tensors(folder)
    config, vocab_size, layout = config_from_hf(hf, tensors, str(folder / "config.json"))
    has_head = any(name.startswith(("lm_head.", "cls.predictions.")) for name in tensors)
    try:
        state = from_hf(
            tensors, config, vocab_size, layout, with_head=has_head, leave_out=leave_out
        )
    except UserError as error:
        hint = "; --leave-out PREFIX passes over superfluous ones" * ("superfluous" in str(error))
        raise UserError(f"{folder}: {error}{hint}") from None
    return HfModel(config, vocab_size, layout, state, has_head)


def build_from_hf(hf: HfModel, grid: Grid, seed: int = 0) -> MaskedLanguageModel:
    """The fp32 model of `hf` at this grid; a head that the folder lacks starts from `seed`."""
    model = build_masked_lm(hf.config, hf.vocab_size, grid, seed)
    specs = parameter_specs(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in hf.state:
                full = hf.state[name].float()
                parameter.copy_(shard_tensor(specs[name], full, grid.tp_rank, grid.tp_size))
    return model


def start_run(config: TrainConfig, data: Manifest, hf: HfModel, grid: Grid) -> Path:
    """Writes `hf` as step 0 of the run that `config` describes; the checkpoint's folder.

    Raises UserError if the run has checkpoints already, or if model or vocabulary differ.
    """
    folder = run_folder.checkpoints_folder(config)
    if any(folder.glob("step-*")):
        raise UserError(f"{folder}: the run has checkpoints already; choose another output folder")
    _check_same_model(config.model, data.vocab_size, hf)
    run_folder.claim(config, data.fingerprint)
    model = build_from_hf(hf, grid, config.seed)
    specs = parameter_specs(model)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        full_size = specs[name].full_shape
        weight = hf.state.get(name)
        if weight is None:
            weight = parameter.detach()[tuple(slice(size) for size in full_size)]
        tensors[tensor_key("weight", name)] = weight.float().clone()
        for moment in MOMENTS:
            tensors[tensor_key(moment, name)] = torch.zeros(full_size)
    manifest = CheckpointManifest(
        step=0,
        optimizer_step=0,
        consumed_rows=0,
        segments=(Segment(phase=0, start_row=0, weights=config.data.weights),),
        seed=config.seed,
        tp_size=grid.tp_size,
        dp_size=grid.dp_size,
        zero_stage=config.parallel.zero_stage,
        config=config.model_dump(mode="json"),
        vocab_size=data.vocab_size,
        data_fingerprint=data.fingerprint,
        tokenizer_sha256=data.tokenizer.sha256,
        versions=versions(),
        parameters={
            name: ParameterRecord(shape=spec.full_shape, partition_dim=spec.partition_dim)
            for name, spec in specs.items()
        },
        state_keys=STATE_KEYS,
    )
    saver = Saver(folder, config.checkpoint, grid)
    saver.save(manifest, lambda: tensors)
    saver.finish()
    return folder / "step-00000000"


def _check_same_model(config: ModelConfig, vocab_size: int, hf: HfModel) -> None:
    """Raises UserError that lists what of the architecture differs; training choices may."""
    free = {
        "hidden_dropout",
        "attention_dropout",
        "initializer_range",
        "vocabulary_multiple",
        "sequence_parallel",
        "attention_backend",
        "packed_rows",
        "visibility",
        "frozen",
        "activation_checkpointing",
        "pooler",
        "begin_token_id",
    }
    ours, theirs = config.model_dump(), hf.config.model_dump()
    errors = [
        f"model.{key} is {ours[key]}, the folder's is {theirs[key]}"
        for key in ours
        if key not in free and ours[key] != theirs[key]
    ]
    if vocab_size != hf.vocab_size:
        errors.append(
            f"the data set's vocabulary has {vocab_size} ids, the folder's {hf.vocab_size}: "
            "prepare the data with the folder's tokenizer"
        )
    if errors:
        raise UserError("the folder's model is not that of the config:\n  " + "\n  ".join(errors))


def _read_tensors(folder: Path) -> Mapping[str, Tensor]:
    """Every tensor of the folder, not yet read from disk where the format allows it."""
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


if __name__ == "__main__":
    command.run(main)

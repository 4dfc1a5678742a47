"""Weights of a Hugging Face folder (RoBERTa, BERT, pre-LN RoBERTa) as the start of a run.

``python -m pipeline.import_hf CONFIG.yaml --from FOLDER`` writes them as the checkpoint of step 0
of the run, which then trains at any grid. All sizes and tensors are compared before anything is
built. ``--leave-out PREFIX`` passes over tensors of other heads.
"""

from pathlib import Path

import torch
from torch import Tensor

from configs import command
from configs.load import UserError, load
from data_prep.dataset.manifest import Manifest, read_manifest
from model.config import ModelConfig
from model.parallel.grid import Grid, single_rank_grid
from model.parameters import parameter_specs
from pipeline.checkpoint.manifest import (
    MOMENTS,
    STATE_KEYS,
    CheckpointManifest,
    ParameterRecord,
    tensor_key,
)
from pipeline.checkpoint.writer import Saver
from pipeline.data.position import Segment
from pipeline.hugging_face.weights import HfModel, build_from_hf, read_hf_folder
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from pipeline.run.versions import versions

_HEAD_PREFIX = "head."


def main() -> None:
    """``python -m pipeline.import_hf CONFIG.yaml --from FOLDER key.sub=value ...``."""
    parser = command.parser("Start a run from the weights of a Hugging Face folder.")
    parser.add_argument("--from", dest="folder", metavar="FOLDER", required=True, type=Path)
    parser.add_argument("--leave-out", metavar="PREFIX", action="append", default=[])
    arguments = parser.parse_args()
    config = load(arguments.config, TrainConfig, arguments.overrides)
    data = read_manifest(config.data.path)
    hf = read_hf_folder(arguments.folder, tuple(arguments.leave_out))
    with single_rank_grid() as grid:
        path = start_run(config, data, hf, grid)
    head = "" if hf.has_head else "; it has no masked-language-model head, which starts at random"
    print(
        f"{path}: step 0 of the run, from {arguments.folder} ({hf.family.model_type} layout){head}"
    )


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


if __name__ == "__main__":
    command.run(main)

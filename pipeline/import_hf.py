"""Weights of a Hugging Face folder as the start of a run.

``python -m pipeline.import_hf CONFIG.yaml --from FOLDER`` writes them as the checkpoint of step 0
of the run, which then trains at any grid. All sizes and tensors are compared before a model is
built. ``--leave-out PREFIX`` skips the tensors of heads that the run does not have.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from configs import command
from configs.load import UserError, load
from model.config import ModelConfig, architecture_differences
from model.parallel.grid import Grid, single_rank_grid
from model.parameters import ParameterSpec, parameter_specs
from pipeline.checkpoint.manifest import (
    build_manifest,
    checkpoint_folder,
    list_checkpoints,
    tensor_key,
)
from pipeline.checkpoint.writer import Saver
from pipeline.data.position import Segment
from pipeline.hugging_face.weights import HfModel, build_from_hf, read_hf_folder
from pipeline.optim.optimizer import WEIGHT_KEY, OptimizerSettings
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from pipeline.run.origin import describe_origin
from pipeline.run.plan import RunPlan, plan_run

logger = logging.getLogger(__name__)


def main() -> None:
    """Writes step 0 of the run."""
    parser = command.parser("Start a run from the weights of a Hugging Face folder.")
    parser.add_argument(
        "--from",
        dest="folder",
        metavar="FOLDER",
        required=True,
        type=Path,
        help="Hugging Face folder with config.json and weights",
    )
    parser.add_argument(
        "--leave-out",
        metavar="PREFIX",
        action="append",
        default=[],
        help="skip tensors whose names start with this; may be repeated",
    )
    arguments = parser.parse_args()
    config = load(arguments.config, TrainConfig, arguments.overrides)
    plan = plan_run(config, world_size=config.parallel.tensor)
    hf = read_hf_folder(arguments.folder, tuple(arguments.leave_out))
    with single_rank_grid() as grid:
        path = start_run(plan, hf, grid)
    head = "" if hf.has_head else "; it has no masked-language-model head, which starts at random"
    logger.info(
        "%s: step 0 of the run, from %s (%s layout)%s",
        *(path, arguments.folder, hf.family.model_type, head),
    )


def start_run(plan: RunPlan, hf: HfModel, grid: Grid) -> Path:
    """Writes `hf` as step 0 of the run of `plan`, on one rank; the checkpoint's folder.

    Raises UserError if the run has checkpoints already, or if model or vocabulary differ.
    """
    config = plan.config
    folder = run_folder.checkpoints_folder(config)
    if list_checkpoints(folder):
        raise UserError(f"{folder}: the run has checkpoints already; choose a new output folder")
    check_same_model(config.model, plan.vocab_size, hf)
    run_folder.claim(config, plan.data_fingerprint)
    model = build_from_hf(hf, grid, config.seed)
    specs = parameter_specs(model)
    origin = describe_origin(
        config,
        tp_size=grid.tp_size,
        dp_size=grid.dp_size,
        vocab_size=plan.vocab_size,
        data_fingerprint=plan.data_fingerprint,
        tokenizer_sha256=plan.tokenizer_sha256,
    )
    segments = (Segment(phase=0, start_row=0, weights=config.data.weights),)
    manifest = build_manifest(
        origin, specs, step=0, optimizer_step=0, consumed_rows=0, segments=segments
    )
    tensors = first_state(model, specs, hf, config.optimizer)
    saver = Saver(folder, config.checkpoint, grid, plan.tokenizer)
    saver.save(manifest, lambda: tensors)
    saver.finish()
    return checkpoint_folder(folder, 0)


def first_state(
    model: nn.Module, specs: Mapping[str, ParameterSpec], hf: HfModel, optimizer: OptimizerSettings
) -> dict[str, Tensor]:
    """The tensors of step 0: the folder's weights in fp32, `model`'s where it has none; zeros."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        full_size = specs[name].full_shape
        weight = hf.state.get(name)
        if weight is None:
            weight = parameter.detach()[tuple(slice(size) for size in full_size)]
        tensors[tensor_key(WEIGHT_KEY, name)] = weight.float().clone()
        for moment in optimizer.MOMENTS:
            tensors[tensor_key(moment, name)] = torch.zeros(full_size)
    return tensors


def check_same_model(config: ModelConfig, vocab_size: int, hf: HfModel) -> None:
    """Raises UserError that lists the differences in architecture; training choices may differ."""
    errors = [
        f"model.{found.path} is {found.now}, the folder's is {found.before}"
        for found in architecture_differences(hf.config, config)
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

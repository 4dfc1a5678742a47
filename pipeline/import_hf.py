"""Weights of a Hugging Face folder as the start of a run.

``python -m pipeline.import_hf CONFIG.yaml --from FOLDER`` writes them as the checkpoint of step 0
of the run, which then trains at any grid. All sizes, tensors and the vocabularies are compared
before a model is built. ``--leave-out PREFIX`` skips the tensors of heads that the run lacks.
``--write-config NEW.yaml`` writes CONFIG.yaml with the architecture of the folder.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from configs import command, folder_lock
from configs.load import ConfigError, UserError, load, read_tree, shortest_tree, validate
from configs.writable import check_file
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.tokenizer import load_tokenizer
from model.config import ModelConfig, TrainingChoice, architecture_differences
from model.parallel.grid import Grid, single_rank_grid
from model.parameters import ParameterSpec, parameter_specs
from pipeline.checkpoint.build import build_manifest
from pipeline.checkpoint.fragments import Fragment
from pipeline.checkpoint.manifest import (
    checkpoint_folder,
    list_checkpoints,
)
from pipeline.checkpoint.writer import Saver
from pipeline.data.position import Segment
from pipeline.hugging_face.vocabulary import (
    FolderVocabulary,
    read_vocabulary,
    vocabulary_errors,
)
from pipeline.hugging_face.weights import HfModel, build_from_hf, read_hf_folder
from pipeline.optim.optimizer import WEIGHT_KEY, OptimizerSettings
from pipeline.run import run_folder
from pipeline.run.config import TrainConfig
from pipeline.run.origin import describe_origin
from pipeline.run.output_folder import check_output
from pipeline.run.plan import RunPlan, plan_run
from pipeline.start.start import record_of_folder

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
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        type=Path,
        help="tokenizer.json of the folder's model (default: the one in the folder)",
    )
    parser.add_argument(
        "--write-config",
        metavar="NEW.yaml",
        type=Path,
        help="only write the config with the folder's architecture to this new file",
    )
    arguments = parser.parse_args()
    if arguments.write_config is not None:
        check_file(arguments.write_config, "--write-config")
    hf = read_hf_folder(arguments.folder, tuple(arguments.leave_out), arguments.tokenizer)
    if arguments.write_config is not None:
        tree = read_tree(arguments.config, arguments.overrides)
        write_config({**tree, "model": model_tree(tree.get("model"), hf)}, arguments.write_config)
        logger.info("%s: written; start the run with it", arguments.write_config)
        return
    config = load(arguments.config, TrainConfig, arguments.overrides)
    check_output(config.output)
    if config.objective.type == "replaced_tokens":
        raise ConfigError(
            "objective replaced_tokens: a Hugging Face folder has the weights of one network only: "
            "remove --from and set start: {type: hugging_face, path: FOLDER} in the config, which "
            "starts the other parts at random"
        )
    plan = plan_run(config, world_size=config.parallel.tensor)
    vocabulary = read_vocabulary(arguments.folder, arguments.tokenizer)
    lock = folder_lock.hold(config.output)
    try:
        with single_rank_grid() as grid:
            path = start_run(plan, hf, vocabulary, grid)
    finally:
        lock.release()
    head = "" if hf.has_head else "; it has no masked-language-model head, which starts at random"
    logger.info(
        "%s: step 0 of the run, from %s (%s layout)%s",
        *(path, arguments.folder, hf.family.model_type, head),
    )


def model_tree(given: Any, hf: HfModel) -> dict[str, Any]:
    """The `model` section of a config for the folder's weights: what is not RoBERTa's default.

    Keeps the training choices (dropout, packed rows, ...) of the section `given`, if there is one.
    """
    tree = shortest_tree(hf.config)
    for name, field in ModelConfig.model_fields.items():
        is_choice = any(isinstance(mark, TrainingChoice) for mark in field.metadata)
        if is_choice and isinstance(given, dict) and name in given:
            tree[name] = given[name]
    return tree


def write_config(tree: dict[str, Any], path: Path) -> None:
    """Writes a config to a new file, after it was checked; raises ConfigError if it is invalid."""
    validate(tree, TrainConfig, origin=str(path))
    if path.exists():
        raise UserError(f"{path}: exists already; choose a new file")
    write_atomic(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def start_run(plan: RunPlan, hf: HfModel, vocabulary: FolderVocabulary, grid: Grid) -> Path:
    """Writes `hf` as step 0 of the run of `plan`, on one rank; the checkpoint's folder.

    `vocabulary` is the one of the folder.
    Raises UserError if the run has checkpoints already, or if model or vocabulary differ.
    """
    config = plan.config
    if config.start.type != "scratch":
        raise UserError(f"start.type {config.start.type}: this run takes its weights from there")
    folder = run_folder.checkpoints_folder(config)
    if list_checkpoints(folder):
        raise UserError(f"{folder}: the run has checkpoints already; choose a new output folder")
    check_same_model(plan, hf, vocabulary)
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
        special_tokens=plan.special_tokens,
        start=record_of_folder(hf.files[0].parent, hf.family.model_type),
    )
    segments = (Segment(phase=0, start_row=0, weights=plan.phases[0].mixture_weights),)
    manifest = build_manifest(
        origin, specs, step=0, optimizer_step=0, consumed_rows=0, segments=segments
    )
    fragments = first_state(model, specs, hf, config.optimizer)
    saver = Saver(folder, config.checkpoint, grid, plan.tokenizer)
    saver.save(manifest, lambda: fragments)
    saver.finish()
    return checkpoint_folder(folder, 0)


def first_state(
    model: nn.Module, specs: Mapping[str, ParameterSpec], hf: HfModel, optimizer: OptimizerSettings
) -> dict[str, Fragment]:
    """The state of step 0: the folder's weights in fp32, `model`'s where it has none; zeros."""
    fragments = {}
    for name, parameter in model.named_parameters():
        full_size = specs[name].full_shape
        weight = hf.state.get(name)
        if weight is None:
            weight = parameter.detach()[tuple(slice(size) for size in full_size)]
        tensors = {WEIGHT_KEY: weight.float().clone()}
        for moment in optimizer.moments_of(specs[name]):
            tensors[moment] = torch.zeros(full_size)
        fragments[name] = Fragment(0, tensors)
    return fragments


def check_same_model(plan: RunPlan, hf: HfModel, vocabulary: FolderVocabulary) -> None:
    """Raises UserError that lists the differences in architecture and in the vocabularies.

    Training choices may differ.
    """
    different = architecture_differences(hf.config, plan.config.model)
    errors = [f"model.{one.path} is {one.now}, the folder's is {one.before}" for one in different]
    if different:
        errors.append("(--write-config NEW.yaml writes the config that the folder needs)")
    vocabularies = []
    if plan.vocab_size != hf.vocab_size:
        hint = ""
        if plan.vocab_size < hf.vocab_size:
            hint = f" (if the folder's is padded, set tokenizer.vocab_size to {hf.vocab_size})"
        vocabularies.append(
            f"the data set's vocabulary has {plan.vocab_size} ids, the folder's {hf.vocab_size}"
            + hint
        )
    else:
        rows, special = load_tokenizer(plan.tokenizer), plan.phases[0].manifest.special_tokens
        vocabularies += vocabulary_errors(vocabulary, rows, special, hf.special_ids)
    if vocabularies:
        vocabularies.append(f"(prepare the data with the folder's tokenizer, {vocabulary.origin})")
    if errors or vocabularies:
        lines = "\n  ".join((*errors, *vocabularies))
        raise UserError(f"the folder's model is not that of the config:\n  {lines}")


if __name__ == "__main__":
    command.run(main)

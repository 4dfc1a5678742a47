"""What is checked of a phase before anything is allocated: model, rows and batch sizes."""

from itertools import pairwise

from pydantic_core import to_jsonable_python

from configs.load import ConfigError
from data_prep.dataset.manifest import Manifest
from model.config import ModelConfig
from model.generator import check_generator, has_summed_vectors
from model.grid_check import check_grid
from model.hugging_face.electra import DISCRIMINATOR_CLASS, discriminator_changes
from model.hugging_face.families import family_of_model
from model.objectives import ObjectiveConfig
from model.objectives.mask_rate import lowest_rate
from pipeline.run.config import TrainConfig
from pipeline.run.phases import BatchConfig, PhaseConfig

EDGE_TOKENS = 2
"""The first and the last token of a row, which are never masked."""


def check_models(config: TrainConfig, tp_size: int) -> None:
    """Raises ConfigError if the model of a phase cannot be computed on this grid or exported."""
    check_grid(config.model, config.compute, tp_size)
    check_objectives(config, tp_size)
    check_exportable(config)
    for number, (before, phase) in enumerate(pairwise(config.phases)):
        if phase.model == before.model:
            continue
        try:
            check_grid(phase.model, config.compute, tp_size)
        except ConfigError as error:
            lines = "\n".join(f"then.{number}.{line}" for line in str(error).splitlines())
            raise ConfigError(lines) from None


def check_objectives(config: TrainConfig, tp_size: int) -> None:
    """Raises ConfigError for a phase whose objective does not go with its model, or needs other
    networks than the phase before."""
    for number, phase in enumerate(config.phases):
        where = f"then.{number - 1}." if number else ""
        first, now = config.objective, phase.objective
        networks = [o.generator if o.type == "replaced_tokens" else None for o in (first, now)]
        if networks[0] != networks[1]:
            raise ConfigError(
                f"{where}objective: {_network_of(now)}, but the first phase {_network_of(first)}: "
                "replaced_tokens trains parts that no other objective has, so that all phases "
                "need it with the same objective.generator; a run with another objective can "
                "continue it (start: {type: run})"
            )
        if now.type == "replaced_tokens":
            check_generator(phase.model, config.compute, now, tp_size)
            if config.start.type == "hugging_face" and has_summed_vectors(now):
                raise ConfigError(
                    "start.type hugging_face does not go with objective.generator.embeddings "
                    "disentangled, whose word vectors are a sum: use shared or separate"
                )


def _network_of(objective: ObjectiveConfig) -> str:
    if objective.type != "replaced_tokens":
        return f"is {objective.type}"
    generator = to_jsonable_python(objective.generator)
    settings = ", ".join(f"{key}: {value}" for key, value in generator.items())
    return f"is replaced_tokens with generator: {{{settings}}}"


def check_exportable(config: TrainConfig) -> None:
    """Raises ConfigError for a phase whose model no class of transformers computes, unless `export`
    says that none is wanted: better before the training than after it."""
    if config.export == "none":
        return
    if config.objective.type == "replaced_tokens":
        _check_discriminators(config)
        return
    checked: list[ModelConfig] = []
    for number, phase in enumerate(config.phases):
        if phase.model in checked:
            continue
        checked.append(phase.model)
        try:
            family_of_model(phase.model)
        except ConfigError as error:
            raise ConfigError(
                f"{f'then.{number - 1}.' if number else ''}model: cannot be exported: {error}\n"
                "Change the settings of one of these lines, or set export: none to train the model "
                "without an export"
            ) from None


def _check_discriminators(config: TrainConfig) -> None:
    """Raises ConfigError for discriminators that ELECTRA's class does not compute."""
    for phase in config.phases:
        try:
            changes = discriminator_changes(phase.model)
        except ConfigError as error:
            raise ConfigError(f"model: no {DISCRIMINATOR_CLASS}: {error}") from None
        if changes:
            raise ConfigError(
                f"model: after replaced_tokens it is exported as {DISCRIMINATOR_CLASS}, which "
                f"needs {', '.join(map(str, changes))}\nChange these settings, or set export: none "
                "to train the model without an export; fine-tuning and a run that continues it "
                "(start: {type: run}) read its checkpoints"
            )


def check_rows(
    phase: PhaseConfig, manifest: Manifest, where: str, *, keeps_vocabulary: bool = False
) -> None:
    """Raises ConfigError if the rows of a data set do not fit the model of their phase.

    `where` is the dotted path before the keys of the phase, empty for the first one.
    `keeps_vocabulary` is true for the run of a pretrained model with its own vocabulary, of which
    the ids of special tokens are part.
    """
    path, model, row_tokens = phase.data.path, phase.model, manifest.row_tokens
    if row_tokens > model.max_row_tokens:
        raise ConfigError(
            f"model.max_row_tokens {model.max_row_tokens} is less than the rows of "
            f"{row_tokens} tokens in {path} ({where}data.path)"
        )
    _check_mask_rate(phase, row_tokens, where)
    _check_special_tokens(phase, manifest, where, keeps_vocabulary)


def _check_mask_rate(phase: PhaseConfig, row_tokens: int, where: str) -> None:
    """Raises ConfigError for a mask rate that, rounded to whole tokens, masks nothing in a row."""
    objective = phase.objective
    masking = objective.masking if objective.type == "replaced_tokens" else objective
    rate = getattr(masking, "mask_rate", None)
    if rate is None or lowest_rate(rate) * (row_tokens - EDGE_TOKENS) >= 0.5:
        return
    key = "objective.masking" if objective.type == "replaced_tokens" else "objective"
    raise ConfigError(
        f"{where}{key}.mask_rate {lowest_rate(rate):g} masks no token of a row of {row_tokens} "
        f"tokens in {phase.data.path} ({where}data.path): use at least {1 / row_tokens:.2g}"
    )


def _check_special_tokens(
    phase: PhaseConfig, manifest: Manifest, where: str, keeps_vocabulary: bool
) -> None:
    path, model, special = phase.data.path, phase.model, manifest.special_tokens
    ids = {"pad_token_id": special.pad}
    if model.packed_rows.type != "across" or model.visibility.type != "all":
        ids["begin_token_id"] = special.bos
        if special.bos == special.eos:
            raise ConfigError(
                f"model.packed_rows inside and model.visibility find documents by the token before "
                f"them, which in {path} ({where}data.path) is also the token after them"
            )
    elif model.begin_token_id >= manifest.vocab_size:  # of the tokenizer of a start, for example
        ids["begin_token_id"] = special.bos
    advice = "set "
    if keeps_vocabulary:
        advice = "prepare the rows with the tokenizer of the start, or set start.new_tokens and "
    errors = [
        f"model.{key} is {getattr(model, key)}, but {wanted} in the rows of {path} "
        f"({where}data.path): {advice}model.{key} to {wanted}"
        for key, wanted in ids.items()
        if getattr(model, key) != wanted
    ]
    positions = model.positions
    if positions.type == "learned" and positions.offset not in (0, special.pad + 1) and errors:
        offset = special.pad + 1 if special.pad <= 1 else 0
        errors.append(
            f"model.positions.offset is {positions.offset}: Hugging Face's RoBERTa has "
            f"{special.pad + 1} with this padding id, its BERT 0; set model.positions to "
            f"{{type: learned, offset: {offset}}} for an export"
        )
    if errors:
        raise ConfigError("\n".join(errors))


class BatchError(ConfigError):
    """A global batch that a number of ranks does not divide."""


def check_batch(batch: BatchConfig, dp_size: int, where: str = "") -> None:
    """Raises BatchError for a global batch size, of the warm-up too, that does not divide.

    The message names the nearest sizes that do; `where` is the dotted path before "batch".
    """
    rows_per_pass = batch.micro_rows * dp_size
    sizes = {f"{where}batch.global_rows": batch.global_rows}
    for number, stage in enumerate(batch.warmup):
        sizes[f"{where}batch.warmup.{number}.global_rows"] = stage.global_rows
    for name, size in sizes.items():
        accumulation, rest = divmod(size, rows_per_pass)
        if not rest:
            continue
        nearest = [n * rows_per_pass for n in (accumulation, accumulation + 1) if n]
        micro = [m for m in range(1, size // dp_size + 1) if size % (m * dp_size) == 0]
        hint = ""
        if micro:
            closest = min(micro, key=lambda rows: abs(rows - batch.micro_rows))
            hint = f", or {where}batch.micro_rows to {closest}"
        raise BatchError(
            f"{name} {size} is not a multiple of {where}batch.micro_rows {batch.micro_rows} x "
            f"{dp_size} data-parallel ranks; set {name} to {' or '.join(map(str, nearest))}{hint}"
        )

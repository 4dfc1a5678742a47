"""The plan of a run: its phases, data sets, steps and grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from configs.load import ConfigError
from data_prep.dataset.manifest import Manifest, SpecialTokens
from data_prep.dataset.tokenizer import same_tokenizer
from model.config import ModelConfig
from model.flops import training_flops
from model.grid_check import check_grid
from model.hugging_face.families import family_of_model
from pipeline.checkpoint.manifest import Origin
from pipeline.checkpoint.tokenizer import check_tokenizer
from pipeline.data.order import mixture_shares, train_sources
from pipeline.data.position import PhaseSteps
from pipeline.data.shard_cache import open_data_set
from pipeline.run.config import TrainConfig
from pipeline.run.origin import describe_origin
from pipeline.run.phases import BatchConfig, PhaseConfig
from pipeline.run.steps import RunSteps


@dataclass(frozen=True)
class PhasePlan:
    """One phase on a number of data-parallel ranks."""

    config: PhaseConfig
    manifest: Manifest
    steps: PhaseSteps
    dp_size: int

    def accumulation(self, global_rows: int) -> int:
        """Gradient accumulation: global rows = accumulation x dp_size x micro rows."""
        return global_rows // (self.dp_size * self.config.batch.micro_rows)

    def training_flops(self, model: ModelConfig, global_rows: int, masked_tokens: int) -> int:
        """Operations of the matrix products of an optimizer step on `model`."""
        manifest = self.manifest
        return training_flops(
            model, manifest.vocab_size, global_rows, manifest.row_tokens, masked_tokens
        )


@dataclass(frozen=True)
class RunPlan:
    """A whole run on a number of ranks."""

    config: TrainConfig
    phases: tuple[PhasePlan, ...]
    tp_size: int
    dp_size: int

    @cached_property
    def steps(self) -> RunSteps:
        """The steps of all phases."""
        return RunSteps(tuple(phase.steps for phase in self.phases))

    @property
    def max_accumulation(self) -> int:
        """The most micro-batches that a rank takes in any step."""
        return max(
            phase.accumulation(step_rows)
            for phase in self.phases
            for _, _, step_rows in phase.steps.segments
        )

    @property
    def vocab_size(self) -> int:
        """Vocabulary of the data, without padding; the same in all phases."""
        return self.phases[0].manifest.vocab_size

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of the tokenizer that made the data of all phases."""
        return self.phases[0].manifest.tokenizer.sha256

    @property
    def special_tokens(self) -> SpecialTokens:
        """Ids of the special tokens in the data of all phases."""
        return self.phases[0].manifest.special_tokens

    @cached_property
    def tokenizer(self) -> Path:
        """The file of that tokenizer; raises UserError if it is missing or has a different hash."""
        phase = self.phases[0]
        path = phase.config.data.path / phase.manifest.tokenizer.path
        check_tokenizer(path, self.tokenizer_sha256, str(phase.config.data.path))
        return path

    @property
    def data_fingerprint(self) -> str:
        """Fingerprints of the phases' data sets, as one text."""
        return "+".join(phase.manifest.fingerprint for phase in self.phases)

    @cached_property
    def origin(self) -> Origin:
        """What the checkpoints of this run say about it."""
        return describe_origin(
            self.config,
            tp_size=self.tp_size,
            dp_size=self.dp_size,
            vocab_size=self.vocab_size,
            data_fingerprint=self.data_fingerprint,
            tokenizer_sha256=self.tokenizer_sha256,
            special_tokens=self.special_tokens,
        )

    def summary_lines(self, step: int) -> list[str]:
        """What the run is about to do after `step`: a line for the run and one for each phase."""
        config = self.config
        start = f"resumes from step {step:,}" if step else "starts"
        lines = [
            f"{config.name} {start}: {self.steps.total_steps:,} steps, tensor parallel "
            f"{self.tp_size} x data parallel {self.dp_size}, ZeRO {config.parallel.zero_stage}, "
            f"{config.precision}"
        ]
        for phase in self.phases:
            rows = phase.config.batch.global_rows
            lines.append(
                f"  {phase.steps.total_steps:,} steps of {rows:,} rows "
                f"({phase.accumulation(rows)} x {self.dp_size} x {phase.config.batch.micro_rows}) "
                f"of {phase.manifest.row_tokens} tokens from {phase.config.data.path}"
            )
        return lines


def plan_run(config: TrainConfig, world_size: int) -> RunPlan:
    """The plan of `config` on `world_size` ranks, after every check that needs no weights.

    Raises ConfigError (UserError for data that cannot be read), before anything is allocated, for
    ranks that do not divide, heads or vocabulary that do not split over the tensor-parallel ranks,
    models that cannot be exported, rows longer than the positions, mixture weights that do not fit
    the sources, and phases whose data have different tokenizers.
    """
    tp_size = config.parallel.tensor
    dp_size = data_parallel_size(tp_size, world_size)
    check_grid(config.model, config.compute, tp_size)
    check_exportable(config)
    phases = []
    for number, phase in enumerate(config.phases):
        where = f"then.{number - 1}." if number else ""
        manifest = open_data_set(phase.data)
        _check_rows(config, phase.data.path, manifest, where)
        mixture_shares(train_sources(manifest), phase.data.weights)
        check_batch(phase.batch, dp_size, where)
        phases.append(PhasePlan(phase, manifest, phase.steps, dp_size))
    _check_tokenizers(phases)
    _check_heldout_rows(config, phases)
    return RunPlan(config, tuple(phases), tp_size, dp_size)


def check_exportable(config: TrainConfig) -> None:
    """Raises ConfigError for a model that no class of transformers computes, unless `export` says
    that none is wanted: better before the training than after it."""
    if config.export == "none":
        return
    try:
        family_of_model(config.model)
    except ConfigError as error:
        raise ConfigError(
            f"model: cannot be exported: {error}\nChange the settings of one of these lines, or set "
            "export: none to train the model without an export"
        ) from None


def _check_tokenizers(phases: Sequence[PhasePlan]) -> None:
    """Raises ConfigError if phases have different tokenizers, compared by what the files say."""
    files = {
        phase.manifest.tokenizer.sha256: phase.config.data.path / phase.manifest.tokenizer.path
        for phase in phases
    }
    first, *others = files.values()
    if any(
        (phase.manifest.special_tokens, phase.manifest.vocab_size)
        != (phases[0].manifest.special_tokens, phases[0].manifest.vocab_size)
        for phase in phases
    ):
        paths = ", ".join(str(phase.config.data.path) for phase in phases)
        raise ConfigError(f"the rows of the phases have different special tokens: {paths}")
    if not all(same_tokenizer(first, other) for other in others):
        paths = ", ".join(str(path.parent) for path in files.values())
        raise ConfigError(f"the rows of the phases were made with different tokenizers: {paths}")


def _check_heldout_rows(config: TrainConfig, phases: Sequence[PhasePlan]) -> None:
    """Raises ConfigError if training waits for a better held-out loss that nothing measures."""
    evaluation = config.evaluation
    needed = {"plateau": phases} if evaluation.plateau else {}
    needed |= {"early_stopping": phases[-1:]} if evaluation.early_stopping else {}
    for key, waiting in needed.items():
        for phase in waiting:
            if not any(size.rows for size in phase.manifest.splits["heldout"].values()):
                raise ConfigError(
                    f"evaluation.{key}: {phase.config.data.path} has no held-out rows; prepare the "
                    f"data with some (heldout_share), or remove evaluation.{key}"
                )


def data_parallel_size(tp_size: int, world_size: int) -> int:
    """The number of data-parallel ranks of a launch of `world_size` ranks.

    Raises ConfigError if `tp_size`, ``parallel.tensor`` in the config, does not divide the ranks.
    """
    if world_size % tp_size:
        raise ConfigError(
            f"parallel.tensor {tp_size} does not divide the {world_size} ranks of this launch; "
            f"start a multiple of {tp_size} ranks or change parallel.tensor"
        )
    return world_size // tp_size


def _check_rows(config: TrainConfig, path: Path, manifest: Manifest, where: str) -> None:
    if manifest.row_tokens > config.model.max_row_tokens:
        raise ConfigError(
            f"model.max_row_tokens {config.model.max_row_tokens} is less than the rows of "
            f"{manifest.row_tokens} tokens in {path} ({where}data.path)"
        )
    special, model = manifest.special_tokens, config.model
    ids = {"pad_token_id": special.pad}
    if model.packed_rows.type != "across" or model.visibility.type != "all":
        ids["begin_token_id"] = special.bos
        if special.bos == special.eos:
            raise ConfigError(
                f"model.packed_rows inside and model.visibility find documents by the token before "
                f"them, which in {path} ({where}data.path) is also the token after them"
            )
    errors = [
        f"model.{key} is {getattr(model, key)}, but {wanted} in the rows of {path} "
        f"({where}data.path): set model.{key} to {wanted}"
        for key, wanted in ids.items()
        if getattr(model, key) != wanted
    ]
    if errors and model.positions.type == "learned" and model.pad_token_id != special.pad:
        offset = special.pad + 1 if special.pad <= 1 else 0
        errors.append(
            f"model.positions.offset is {model.positions.offset}: Hugging Face's RoBERTa has "
            f"{special.pad + 1} with this padding id, its BERT 0; set model.positions to "
            f"{{type: learned, offset: {offset}}} for an export"
        )
    if errors:
        raise ConfigError("\n".join(errors))


def check_batch(batch: BatchConfig, dp_size: int, where: str = "") -> None:
    """Raises ConfigError for a global batch size, of the warm-up too, that does not divide.

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
        raise ConfigError(
            f"{name} {size} is not a multiple of {where}batch.micro_rows {batch.micro_rows} x "
            f"{dp_size} data-parallel ranks; set {name} to {' or '.join(map(str, nearest))}{hint}"
        )

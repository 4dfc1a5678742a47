"""The plan of a run: its phases, data sets, steps and grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from configs.differences import differences
from configs.load import ConfigError
from data_prep.dataset.manifest import Manifest, SpecialTokens
from data_prep.dataset.tokenizer import same_tokenizer
from model.adversarial_options import passes_per_step
from model.config import ModelConfig
from model.flops import training_flops
from model.generator import generator_of
from model.word_vectors import check_vectors
from pipeline.checkpoint.build import Origin
from pipeline.checkpoint.start_record import StartRecord
from pipeline.checkpoint.tokenizer import check_tokenizer
from pipeline.data.order import check_mixture, mixture_weights, train_sources
from pipeline.data.position import PhaseSteps
from pipeline.data.shard_cache import open_data_set
from pipeline.data.words import check_words
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import ParallelConfig, TrainConfig
from pipeline.run.later_phases import changes_in_words, in_words, named_by_phase
from pipeline.run.origin import describe_origin
from pipeline.run.phase_checks import check_batch, check_models, check_rows
from pipeline.run.phase_length import rows_after_schedule
from pipeline.run.phases import PhaseConfig
from pipeline.run.start import check_start_rows, plan_start
from pipeline.run.steps import RunSteps
from pipeline.start.record import own_checkpoint
from pipeline.start.start import Start


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

    @property
    def mixture_weights(self) -> dict[str, float] | None:
        """The weight of every source in the stream; None: by rows."""
        return mixture_weights(self.config.data, train_sources(self.manifest))

    def training_flops(
        self, model: ModelConfig, global_rows: int, masked_tokens: int, is_causal: bool = False
    ) -> int:
        """Operations of the matrix products of an optimizer step on `model`, the generator's of
        replaced-token detection and the passes of an adversary included."""
        sizes = (self.manifest.vocab_size, global_rows, self.manifest.row_tokens)
        objective = self.config.objective
        if objective.type == "replaced_tokens":
            generator = generator_of(model, objective)
            detection = training_flops(model, *sizes, masked_tokens=0)
            return detection + training_flops(generator, *sizes, masked_tokens, reads_all=False)
        reads_all = is_causal or self.config.adversarial.type != "none"
        plain = training_flops(model, *sizes, masked_tokens, is_causal, reads_all)
        return round(plain * passes_per_step(self.config.adversarial))


@dataclass(frozen=True)
class RunPlan:
    """A whole run on a number of ranks."""

    config: TrainConfig
    phases: tuple[PhasePlan, ...]
    tp_size: int
    dp_size: int
    start: Start | None = None
    """The weights that it starts from; None: random ones, or those of its own checkpoints."""
    start_record: StartRecord | None = None
    """What the checkpoints say of the start; None: random weights."""

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
            start=self.start_record,
        )

    def summary_lines(self, step: int) -> list[str]:
        """What the run is about to do after `step`: a line for the run and one for each phase."""
        config = self.config
        start = f"resumes from step {step:,}" if step else "starts"
        if self.start is not None and not step:
            start += f" from {self.start.description}"
        lines = [
            f"{config.name} {start}: {self.steps.total_steps:,} steps, tensor parallel "
            f"{self.tp_size} x data parallel {self.dp_size}, ZeRO {config.parallel.zero_stage}, "
            f"{config.precision}"
        ]
        if self.start is not None and not step:
            changes = in_words(differences(self.start.model, config.model, "model"))
            lines += [f"  changed from the start: {changes}"] if changes else []
        for number, phase in enumerate(self.phases):
            rows = phase.config.batch.global_rows
            lines.append(
                f"  {phase.steps.total_steps:,} steps of {rows:,} rows "
                f"({phase.accumulation(rows)} x {self.dp_size} x {phase.config.batch.micro_rows}) "
                f"of {phase.manifest.row_tokens} tokens from {phase.config.data.path}"
            )
            window = phase.config.model.attention_pattern
            if window.type != "full" and window.neighbours >= phase.manifest.row_tokens:
                lines.append(
                    f"    model.attention_pattern.neighbours {window.neighbours} reaches beyond "
                    "these rows: every token sees its whole row"
                )
            if early := rows_after_schedule(phase.config):
                lines.append(f"    {early}")
            if number:
                before = self.phases[number - 1].config
                changes = changes_in_words(before, phase.config)
                lines.append(f"    changed from the phase before: {changes or 'nothing'}")
        return lines


def plan_run(config: TrainConfig, world_size: int, assumed: AssumedRows | None = None) -> RunPlan:
    """The plan of `config` on `world_size` ranks, after every check that needs no weights.

    With `assumed` rows, for a run from random weights, no data set is read, and the checks that
    need its tokenizer or its held-out rows are left out.

    Raises ConfigError (UserError for data that cannot be read), before anything is allocated, for
    ranks that do not divide, heads or vocabulary that do not split over the tensor-parallel ranks,
    models that cannot be exported, rows longer than the positions, objectives on words that the
    tokenizer does not show, mixture weights that do not fit the sources, phases whose data have
    different tokenizers, word vectors whose first entries cannot be taken, and a start that is not
    there or does not fit.
    """
    tp_size = config.parallel.tensor
    dp_size = data_parallel_size(config.parallel, world_size)
    check_models(config, tp_size)
    phases: list[PhasePlan] = []
    for number, phase in enumerate(config.phases):
        where = f"then.{number - 1}." if number else ""
        with named_by_phase(where):
            manifest = assumed.manifest(phase) if assumed else open_data_set(phase.data)
            check_mixture(phase.data, manifest)
        check_start_rows(config, phase, manifest.row_tokens, where)
        keeps_vocabulary = config.start.type != "scratch" and config.start.new_tokens is None
        check_rows(phase, manifest, where, keeps_vocabulary=keeps_vocabulary)
        if not assumed:
            check_words(phase.objective, phase.data, manifest, where)
        check_batch(phase.batch, dp_size, where)
        phases.append(PhasePlan(phase, manifest, phase.steps, dp_size))
    if not assumed:
        _check_tokenizers(phases)
        _check_heldout_rows(config, phases)
    plan = RunPlan(config, tuple(phases), tp_size, dp_size)
    if config.start.type == "scratch":  # but step 0 may have been imported
        own = own_checkpoint(config.output)
        if own is None and config.model.embedding_start.type == "vectors":
            check_vectors(config.model.embedding_start, config.model.embedding_width)
        return replace(plan, start_record=own.manifest.start if own else None)
    start, record = plan_start(config, phases[0].manifest, plan.tokenizer)
    return replace(plan, start=start, start_record=record)


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


def data_parallel_size(parallel: ParallelConfig, world_size: int) -> int:
    """The number of data-parallel ranks of a launch of `world_size` ranks.

    Raises ConfigError if the sizes in `parallel` do not divide the ranks.
    """
    tp_size, gather_ranks = parallel.tensor, parallel.zero_gather_ranks
    if world_size % tp_size:
        raise ConfigError(
            f"parallel.tensor {tp_size} does not divide the {world_size} ranks of this launch; "
            f"start a multiple of {tp_size} ranks or change parallel.tensor"
        )
    dp_size = world_size // tp_size
    if gather_ranks is not None and dp_size % gather_ranks:
        allowed = [str(size) for size in range(2, dp_size) if dp_size % size == 0]
        others = f", or set it to {' or '.join(allowed)}" if allowed else ""
        raise ConfigError(
            f"parallel.zero_gather_ranks {gather_ranks} does not divide {dp_size}, the number of "
            f"data-parallel ranks: set it to null{others}"
        )
    return dp_size

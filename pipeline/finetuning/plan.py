"""The plan of a fine-tuning run: all that is known before a model is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from configs.load import ConfigError, UserError, fingerprint
from data_prep.dataset.tokenizer import same_tokenizer
from model.config import MLM_HEAD, ModelConfig
from model.grid_check import check_grid
from model.hugging_face.families import task_errors
from pipeline.checkpoint.build import Origin
from pipeline.data.order import check_mixture
from pipeline.data.shard_cache import check_sizes, open_data_set
from pipeline.fault_tolerance.loss_spikes import StabilityConfig
from pipeline.finetuning.account import Splits, account_lines
from pipeline.finetuning.class_weights import class_weights
from pipeline.finetuning.config import FinetuneConfig, MlmConfig
from pipeline.finetuning.examples import ExampleFile, RowEncoder
from pipeline.finetuning.length import counted_task, with_steps
from pipeline.finetuning.own_start import start_of_run
from pipeline.finetuning.read_files import FileReader, ReadFiles
from pipeline.finetuning.start_heads import TakenHead, find_heads, head_lines
from pipeline.finetuning.task_order import TaskOrder
from pipeline.finetuning.tasks.task import LabelledTask
from pipeline.run.origin import describe_origin
from pipeline.run.phases import BatchConfig, PhaseConfig
from pipeline.run.plan import PhasePlan, data_parallel_size
from pipeline.run.steps import RunSteps, phase_steps
from pipeline.start.start import Start


@dataclass(frozen=True)
class FinetunePlan:
    """A fine-tuning run on a number of ranks."""

    config: FinetuneConfig
    start: Start
    model: ModelConfig
    train: dict[str, ExampleFile]
    """By task."""
    dev: dict[str, ExampleFile]
    """By task, of those that have one."""
    mlm: PhasePlan | None
    tp_size: int
    dp_size: int

    @property
    def heads(self) -> list[str]:
        """The names of all heads that are trained."""
        return [*self.config.tasks, *([MLM_HEAD] if self.mlm else [])]

    @property
    def data_fingerprint(self) -> str:
        """Hash of all files that the run is trained on, its tokenizer included."""
        files = {name: file.sha256 for name, file in self.train.items()}
        rows = self.mlm.manifest.fingerprint if self.mlm else None
        return fingerprint([files, rows, self.start.tokenizer_sha256])

    @cached_property
    def dev_fingerprint(self) -> str:
        """Hash of the dev files, on equal ones of which scores can be compared."""
        return fingerprint({name: file.sha256 for name, file in self.dev.items()})

    @cached_property
    def origin(self) -> Origin:
        """What the checkpoints of this run say about it."""
        return describe_origin(
            self.config,
            tp_size=self.tp_size,
            dp_size=self.dp_size,
            vocab_size=self.start.vocab_size,
            data_fingerprint=self.data_fingerprint,
            tokenizer_sha256=self.start.tokenizer_sha256,
            special_tokens=self.start.special,
            network=self.model.model_dump(mode="json"),
            start=self.start.record,
        )

    @property
    def splits(self) -> Splits:
        """The files of all tasks, by split."""
        return {"train": self.train, "dev": self.dev}

    @cached_property
    def task_order(self) -> TaskOrder:
        """Which tasks each step trains on."""
        sizes = {name: len(file.examples) for name, file in self.train.items()}
        config = self.config
        return TaskOrder(config.task_sampling, sizes, config.num_steps, config.seed)

    @cached_property
    def taken_heads(self) -> dict[str, TakenHead]:
        """By task, the head that it takes from the run that it starts from."""
        return find_heads(self.config, self.start) if self.start.checkpoint else {}

    @cached_property
    def class_weights(self) -> dict[str, tuple[float, ...]]:
        """By task, of those that have them, the factor on the loss of each class."""
        found = {
            name: class_weights(self.config.tasks[name], file) for name, file in self.train.items()
        }
        return {name: weights for name, weights in found.items() if weights is not None}

    @cached_property
    def steps(self) -> RunSteps:
        """The optimizer steps of the run, all of equal size."""
        return RunSteps((phase_steps(self.config.end_row, self.config.rows_per_step),))

    @cached_property
    def mean_step_rows(self) -> float:
        """Rows of a step, on the average over the run."""
        config, order = self.config, self.task_order
        rows = sum(
            order.num_batches(name) * task.examples_per_step * task.rows_per_example
            for name, task in config.tasks.items()
        )
        return rows / config.num_steps + (config.mlm.rows_per_step if config.mlm else 0)

    @property
    def stability(self) -> StabilityConfig:
        """When the run rolls back: losses of different tasks are not compared with each other."""
        changes = {} if self.config.task_sampling.type == "all" else {"spike_deviations": 0.0}
        return self.config.stability.model_copy(update=changes)

    def summary_lines(self, step: int) -> list[str]:
        """What the run is about to do after `step`: a line for the run and one for each task."""
        config = self.config
        start = f"resumes from step {step:,}" if step else f"starts from {self.start.description}"
        lines = [
            f"{config.name} {start}: {config.num_steps:,} steps of {self._step_in_words()}, "
            f"tensor parallel {self.tp_size} x data parallel {self.dp_size}, ZeRO "
            f"{config.parallel.zero_stage}, {config.precision}"
        ]
        if config.epochs is not None and len(config.tasks) > 1:
            name = counted_task(config, self.task_order.num_examples)
            lines.append(f"  {config.epochs:g} epochs are those of {name}")
        for name, file in self.train.items():
            task = config.tasks[name]
            batches = self.task_order.num_batches(name)
            epochs = batches * task.examples_per_step / len(file.examples)
            dev = f"{len(self.dev[name].examples):,} to evaluate on" if name in self.dev else "none"
            lines.append(
                f"  {name} ({task.type}): {epochs:.1f} epochs of {len(file.examples):,} examples "
                f"of {file.num_lines:,} records; {dev}"
            )
            if name in self.class_weights:
                assert isinstance(task, LabelledTask)
                pairs = zip(task.labels, self.class_weights[name], strict=True)
                shown = ", ".join(f"{label} {weight:.3g}" for label, weight in pairs)
                lines.append(f"    class weights: {shown}")
        lines += [f"  {line}" for line in account_lines(self.splits)]
        if not step:
            lines += head_lines(config, self.start, self.taken_heads)
        heads = {name: task.head().type for name, task in config.tasks.items()}
        for error, names in task_errors(self.model, heads).items():
            lines.append(f"  {', '.join(names)}: cannot be exported: {error}")
        if self.mlm is not None and config.mlm is not None:
            lines.append(
                f"  {MLM_HEAD}: {config.mlm.rows_per_step:,} rows a step from its row shards"
            )
        return lines

    def _step_in_words(self) -> str:
        config = self.config
        if config.task_sampling.type == "all":
            return f"{config.rows_per_step:,} rows"
        mlm = f" and {config.mlm.rows_per_step:,} rows of {MLM_HEAD}" if config.mlm else ""
        return f"one task each{mlm}"


def plan_finetuning(
    config: FinetuneConfig, world_size: int, is_first: bool, files: ReadFiles | None = None
) -> FinetunePlan:
    """The plan of `config` on `world_size` ranks; rank 0 (`is_first`) also checks the
    sizes of shards and a start that was moved.

    `files` remembers what was read, for other plans on the same files. The config of the plan has
    the steps that its epochs come to.

    Raises UserError, before anything is allocated, for ranks that do not divide, a start that does
    not fit, and data files with bad lines, all of which are named.
    """
    tp_size = config.parallel.tensor
    dp_size = data_parallel_size(config.parallel, world_size)
    start = start_of_run(config, check_moved=is_first)
    model = config.model.of(start.model)
    check_grid(model, config.compute, tp_size)
    longest = config.max_row_tokens or model.max_row_tokens
    if longest > model.max_row_tokens:
        raise ConfigError(
            f"max_row_tokens {longest} is more than the {model.max_row_tokens} of the model"
        )
    encoder = RowEncoder(start.tokenizer, start.special, longest)
    reader = FileReader(encoder, start.tokenizer_sha256, {} if files is None else files)
    train = {name: reader.read(task, task.train) for name, task in config.tasks.items()}
    dev = {name: reader.read(task, task.dev) for name, task in config.tasks.items() if task.dev}
    _check_segments([*train.values(), *dev.values()], model, start)
    config = with_steps(config, {name: len(file.examples) for name, file in train.items()})
    if not dev:
        for key in ("early_stopping", "plateau"):
            if getattr(config.evaluation, key) is not None:
                raise ConfigError(f"evaluation.{key}: no task has a dev file: set tasks.*.dev")
    mlm = _plan_mlm(config.mlm, config, start, model, dp_size, is_first) if config.mlm else None
    plan = FinetunePlan(config, start, model, train, dev, mlm, tp_size, dp_size)
    _ = plan.class_weights, plan.taken_heads  # their errors come before training
    return plan


def _check_segments(files: Sequence[ExampleFile], model: ModelConfig, start: Start) -> None:
    """Raises UserError for segment ids that a model with several segments does not have."""
    if model.type_vocab_size < 2:  # a model without segments is given none
        return
    for file in files:
        for example in file.examples:
            highest = max((int(row.max()) for row in example.segments if len(row)), default=0)
            if highest >= model.type_vocab_size:
                raise UserError(
                    f"{file.path}: line {example.line}: {start.tokenizer} gives a token the "
                    f"segment id {highest}, but the model has {model.type_vocab_size} segments"
                )


def _plan_mlm(
    mlm: MlmConfig,
    config: FinetuneConfig,
    start: Start,
    model: ModelConfig,
    dp_size: int,
    is_first: bool,
) -> PhasePlan:
    manifest = open_data_set(mlm.data)
    if manifest.tokenizer.sha256 != start.tokenizer_sha256 and not same_tokenizer(
        mlm.data.path / manifest.tokenizer.path, start.tokenizer
    ):
        raise UserError(f"{mlm.data.path}: its rows were made with a different tokenizer")
    if manifest.special_tokens != start.special:
        raise UserError(f"{mlm.data.path}: its rows have different special tokens than the start")
    if manifest.row_tokens > model.max_row_tokens:
        raise ConfigError(
            f"mlm.data.path: rows of {manifest.row_tokens} tokens are longer than the model's "
            f"{model.max_row_tokens}"
        )
    check_mixture(mlm.data, manifest)
    if is_first:
        check_sizes(mlm.data, manifest)
    rows = mlm.rows_per_step
    phase = PhaseConfig(
        data=mlm.data,
        total_rows=config.num_steps * rows,
        batch=BatchConfig(global_rows=rows, micro_rows=min(rows, config.micro_rows)),
        model=model,
        objective=mlm.objective,
    )
    return PhasePlan(phase, manifest, phase.steps, dp_size)

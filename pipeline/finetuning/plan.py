"""The plan of a fine-tuning run: all that is known before a model is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from configs.load import ConfigError, UserError, fingerprint
from data_prep.dataset.tokenizer import same_tokenizer
from model.config import MLM_HEAD, ModelConfig
from model.grid_check import check_grid
from model.hugging_face.families import task_errors
from pipeline.checkpoint.manifest import Origin
from pipeline.data.order import check_mixture
from pipeline.data.shard_cache import open_data_set, verify_data_set
from pipeline.finetuning.account import Splits, account_lines
from pipeline.finetuning.config import FinetuneConfig, MlmConfig
from pipeline.finetuning.examples import ExampleFile, RowEncoder
from pipeline.finetuning.own_start import start_of_run
from pipeline.run.origin import describe_origin
from pipeline.run.phases import BatchConfig, PhaseConfig
from pipeline.run.plan import PhasePlan, data_parallel_size
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

    def summary_lines(self, step: int) -> list[str]:
        """What the run is about to do after `step`: a line for the run and one for each task."""
        config = self.config
        start = f"resumes from step {step:,}" if step else f"starts from {self.start.description}"
        lines = [
            f"{config.name} {start}: {config.steps:,} steps of {config.rows_per_step:,} rows, "
            f"tensor parallel {self.tp_size} x data parallel {self.dp_size}, ZeRO "
            f"{config.parallel.zero_stage}, {config.precision}"
        ]
        for name, file in self.train.items():
            task = config.tasks[name]
            epochs = config.steps * task.examples_per_step / len(file.examples)
            dev = f"{len(self.dev[name].examples):,} to evaluate on" if name in self.dev else "none"
            lines.append(
                f"  {name} ({task.type}): {epochs:.1f} epochs of {len(file.examples):,} examples "
                f"of {file.num_lines:,} records; {dev}"
            )
        lines += [f"  {line}" for line in account_lines(self.splits)]
        heads = {name: task.head().type for name, task in config.tasks.items()}
        for error, names in task_errors(self.model, heads).items():
            lines.append(f"  {', '.join(names)}: cannot be exported: {error}")
        if self.mlm is not None and config.mlm is not None:
            lines.append(
                f"  {MLM_HEAD}: {config.mlm.rows_per_step:,} rows a step from its row shards"
            )
        return lines


def plan_finetuning(config: FinetuneConfig, world_size: int, is_first: bool) -> FinetunePlan:
    """The plan of `config` on `world_size` ranks; rank 0 (`is_first`) also checks hashes.

    Raises UserError, before anything is allocated, for ranks that do not divide, a start that does
    not fit, and data files with bad lines, all of which are named.
    """
    tp_size = config.parallel.tensor
    dp_size = data_parallel_size(tp_size, world_size)
    start = start_of_run(config, check_hashes=is_first)
    model = config.model.of(start.model)
    check_grid(model, config.compute, tp_size)
    longest = config.max_row_tokens or model.max_row_tokens
    if longest > model.max_row_tokens:
        raise ConfigError(
            f"max_row_tokens {longest} is more than the {model.max_row_tokens} of the model"
        )
    encoder = RowEncoder(start.tokenizer, start.special, longest)
    train = {name: task.read(task.train, encoder) for name, task in config.tasks.items()}
    dev = {name: task.read(task.dev, encoder) for name, task in config.tasks.items() if task.dev}
    _check_segments([*train.values(), *dev.values()], model, start)
    if not dev:
        for key in ("early_stopping", "plateau"):
            if getattr(config.evaluation, key) is not None:
                raise ConfigError(f"evaluation.{key}: no task has a dev file: set tasks.*.dev")
    mlm = _plan_mlm(config.mlm, config, start, model, dp_size, is_first) if config.mlm else None
    return FinetunePlan(config, start, model, train, dev, mlm, tp_size, dp_size)


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
        verify_data_set(mlm.data, manifest)
    rows = mlm.rows_per_step
    phase = PhaseConfig(
        data=mlm.data,
        total_rows=config.steps * rows,
        batch=BatchConfig(global_rows=rows, micro_rows=min(rows, config.micro_rows)),
        model=model,
        objective=mlm.objective,
    )
    return PhasePlan(phase, manifest, phase.steps, dp_size)

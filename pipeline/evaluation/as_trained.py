"""What training measures, of one checkpoint: held-out loss with its masks, or dev metrics.

One process computes it in fp32, with the same rows, masks and files.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from configs.load import UserError
from data_prep.dataset.manifest import Manifest
from data_prep.dataset.tokenizer import same_tokenizer
from model.objectives import MaskingObjective
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.data.shard_cache import open_data_set
from pipeline.evaluation.sample_sizes import HOLD_OUT_MORE, Sample, few_documents, few_items
from pipeline.finetuning.config import FinetuneConfig
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.phase_checks import check_rows
from pipeline.run.phases import PhaseConfig
from pipeline.run.steps import RunSteps
from pipeline.run.trained_model import TrainedModel, check_config, read_trained

if TYPE_CHECKING:
    from pipeline.data.heldout import HeldoutRows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingMetrics:
    """What training measures of a checkpoint, and how much it is computed on."""

    values: dict[str, float]
    """By the names of training."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """Of the dev files of each task."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Held-out ones, by source."""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    """The documents of these rows."""
    notes: tuple[str, ...] = ()
    """What a reader has to know."""

    def size_of(self, name: str) -> tuple[int | None, int | None]:
        """(examples or rows, documents) that the metric `name` is over."""
        kind, _, group = name.partition("/")
        if kind.startswith("dev_"):
            return self.examples.get(group), None
        names = [group] if group else list(self.rows)
        rows = sum(self.rows.get(one, 0) for one in names)
        documents = sum(self.samples[one].documents for one in names if one in self.samples)
        return rows or None, documents or None


def evaluate_checkpoint(
    config: RunConfig, checkpoint: Checkpoint, objective: MaskingObjective | None = None
) -> dict[str, float]:
    """The metrics of `checkpoint` under the names that training records them with; see
    `measure_checkpoint`."""
    return measure_checkpoint(config, checkpoint, objective).values


def measure_checkpoint(
    config: RunConfig, checkpoint: Checkpoint, objective: MaskingObjective | None = None
) -> TrainingMetrics:
    """The metrics of `checkpoint`, with what they are over.

    `objective` masks held-out rows instead of that of the run's phase; pretraining only. Raises
    UserError for a config that disagrees with the checkpoint, for rows of a different tokenizer,
    and if there is nothing to evaluate on.
    """
    # Late: reading a bad config needs no torch.
    if isinstance(config, FinetuneConfig):
        assert objective is None, "the objective of a fine-tuning run is in its config"
        return _dev_metrics(config, checkpoint)
    assert isinstance(config, TrainConfig)
    trained = read_trained(config, checkpoint, lambda: _beside_rows(config))
    return _heldout_metrics(config, trained, objective)


def phase_of(config: TrainConfig, checkpoint: Checkpoint) -> tuple[int, PhaseConfig]:
    """(number, config) of the phase that `checkpoint` was saved in, by its last row."""
    steps = RunSteps(tuple(phase.steps for phase in config.phases))
    number = steps.phase_of_last_row(checkpoint.manifest.consumed_rows)
    return number, config.phases[min(number, len(config.phases) - 1)]


def _heldout_metrics(
    config: TrainConfig, trained: TrainedModel[TrainConfig], objective: MaskingObjective | None
) -> TrainingMetrics:
    from model.parallel.grid import single_rank_grid
    from pipeline.data.heldout import load_heldout
    from pipeline.data.loader import special_ids
    from pipeline.engine.evaluation import PlainModel, heldout_scores_of_heads
    from pipeline.pretraining.heldout_metrics import heldout_metrics, summary_line
    from pipeline.pretraining.model import build_pretraining_model
    from pipeline.pretraining.step import MaskedMicroBatch

    number, _ = phase_of(trained.config, trained.checkpoint)
    phase = config.phases[min(number, len(config.phases) - 1)]
    manifest = open_data_set(phase.data)
    check_rows(phase, manifest, f"then.{number - 1}." if number else "")
    _check_tokenizer(trained, phase.data.path / manifest.tokenizer.path, manifest.tokenizer.sha256)
    masking = objective or phase.objective
    heldout = load_heldout(phase.data, manifest, masking, config.evaluation.rows_per_source)
    if not heldout.sources:
        raise UserError(f"{phase.data.path}: the data set has no held-out rows")
    with single_rank_grid() as grid:
        computed = trained.config.model_copy(update={"compute": config.compute.in_fp32()})
        special = special_ids(manifest)
        module = build_pretraining_model(computed, trained.model, special, grid, None)
        model = PlainModel.of(module, grid, trained.checkpoint)
        micro_batch = partial(MaskedMicroBatch, is_causal=heldout.is_causal)
        scores = heldout_scores_of_heads(model, heldout, phase.batch.micro_rows, micro_batch)
    values = heldout_metrics(heldout, scores)
    logger.info(summary_line(heldout, values))
    where = phase.data.path
    return _with_rows(values, heldout, manifest, where, "evaluation.rows_per_source")


def _with_rows(
    values: dict[str, float], heldout: "HeldoutRows", manifest: Manifest, data: Path, key: str
) -> TrainingMetrics:
    """`values` with the held-out rows of `data` that they are over, of which the config's `key`
    says how many are read."""
    sizes = manifest.splits["heldout"]
    rows = {name: len(found.tokens) for name, found in heldout.sources.items()}
    samples = {
        name: Sample.of_share(sizes[name].documents, count / sizes[name].rows)
        for name, count in rows.items()
    }
    what = f"held-out rows of {data}"
    notes = few_documents(what, samples, f"a larger {key}", HOLD_OUT_MORE)
    return TrainingMetrics(values, rows=rows, samples=samples, notes=tuple(notes))


def _dev_metrics(config: FinetuneConfig, checkpoint: Checkpoint) -> TrainingMetrics:
    from model.parallel.grid import single_rank_grid
    from pipeline.engine.evaluation import PlainModel
    from pipeline.finetuning.batches import FinetuneBatches
    from pipeline.finetuning.engine import build_finetune_model
    from pipeline.finetuning.evaluation import evaluate, load_mlm_heldout
    from pipeline.finetuning.plan import plan_finetuning

    check_config(config, checkpoint)
    parallel = config.parallel.model_copy(update={"tensor": 1})
    alone = config.model_copy(update={"parallel": parallel, "compute": config.compute.in_fp32()})
    plan = plan_finetuning(alone, world_size=1, is_first=False)
    heldout = load_mlm_heldout(plan)
    if not plan.dev and (heldout is None or not heldout.sources):
        raise UserError(f"{config.output}: no task has a dev file: set tasks.NAME.dev")
    with single_rank_grid() as grid:
        model = PlainModel.of(build_finetune_model(plan, grid, None), grid, checkpoint)
        values = evaluate(plan, model, FinetuneBatches(plan, grid.dp_rank), heldout)
    examples = {name: file.num_lines for name, file in plan.dev.items()}
    notes = few_items(f"dev files of {config.output}", "examples", examples)
    if heldout is None or plan.mlm is None or config.mlm is None:
        return TrainingMetrics(values, examples, notes=tuple(notes))
    manifest, where = plan.mlm.manifest, config.mlm.data.path
    found = _with_rows(values, heldout, manifest, where, "mlm.heldout_rows_per_source")
    return replace(found, examples=examples, notes=(*notes, *found.notes))


def _check_tokenizer(trained: TrainedModel[TrainConfig], path: Path, sha256: str) -> None:
    """Raises UserError if rows were made with a different tokenizer than the model's."""
    if sha256 != trained.checkpoint.manifest.tokenizer_sha256 and not same_tokenizer(
        trained.tokenizer, path
    ):
        raise UserError(f"{path.parent}: its rows were made with a different tokenizer")


def _beside_rows(config: TrainConfig) -> Path:
    """The tokenizer of the data set, which older checkpoints do not carry."""
    return config.data.path / open_data_set(config.data).tokenizer.path

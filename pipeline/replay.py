"""Computes one optimizer step again: ``python -m pipeline.replay CONFIG.yaml --step N``.

One process computes the step's rows with the weights of the newest checkpoint before the step, in
fp32 and without dropout. For each row it prints the source, the masked text, the loss and the norm
of the gradient. A config or a data set that disagrees with the checkpoint is refused.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from configs import command
from configs.load import UserError
from data_prep.dataset.tokenizer import load_tokenizer
from model.heads import MaskedLanguageModel
from model.objectives import MaskedRows
from model.parallel.grid import single_rank_grid
from model.parameters import parameter_specs
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint, list_checkpoints
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.data.loader import RowStream, special_ids
from pipeline.data.order import RowAddress
from pipeline.data.position import StepRange
from pipeline.pretraining.batches import build_stream
from pipeline.pretraining.model import build_pretraining_model
from pipeline.pretraining.resume import plan_segments
from pipeline.pretraining.step import MaskedMicroBatch
from pipeline.run.config import TrainConfig
from pipeline.run.mid_run import changed_data, forbidden_changes
from pipeline.run.plan import RunPlan, plan_run
from pipeline.run.run_folder import check_claim, checkpoints_folder
from pipeline.run.train_config import load_train
from pipeline.run.trained_model import TrainedModel, read_trained
from pipeline.tracking.event_log import LOG_NAME, read_events

DEFAULT_ROWS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplayedRow:
    """One row of the step."""

    source: str
    passes: int
    """Epoch of the source: how often all of its rows were read before."""
    row: int
    """Number of the row in its source."""
    loss: float
    """Mean over the row's labels, in nats; the weighted sum over the heads that are trained."""
    gradient_norm: float
    """Norm of the gradient of `loss` over all parameters."""
    text: str
    """Decoded input of the model, with masks."""
    answers: list[str]
    """The tokens to predict."""


def main() -> None:
    """``python -m pipeline.replay CONFIG.yaml key.sub=value ... --step N``."""
    parser = command.parser("Show the rows, losses and gradients of one optimizer step.")
    parser.add_argument("--step", type=int, required=True, help="the optimizer step, from 1")
    parser.add_argument(
        "--rows", type=int, default=DEFAULT_ROWS, help="rows to show at most (default: 16)"
    )
    arguments = parser.parse_args()
    config = load_train(arguments.config, arguments.overrides)
    plan = plan_run(config, world_size=config.parallel.tensor)
    checkpoint = checkpoint_before(config, arguments.step)
    trained = read_trained(config, checkpoint, lambda: plan.tokenizer)
    phase, taken = rows_of_step(plan, config, arguments.step)
    print(
        f"step {arguments.step}: {taken.global_rows:,} rows from position {taken.start_row:,} of "
        f"phase {phase}; weights of step {checkpoint.manifest.step}; largest loss first"
    )
    rows = replay(plan, trained, phase, taken, arguments.rows)
    for row in sorted(rows, key=lambda row: row.loss, reverse=True):
        print(
            f"\n{row.source} row {row.row:,} pass {row.passes}  loss {row.loss:.4f}  "
            f"gradient norm {row.gradient_norm:.4f}\n  {row.text}\n  answers: {row.answers}"
        )


def checkpoint_before(config: TrainConfig, step: int) -> Checkpoint:
    """The newest complete checkpoint whose step is less than `step`."""
    folder = checkpoints_folder(config)
    checkpoint, problems = find_checkpoint(folder, before_step=step)
    for problem in problems:
        logger.warning("%s; skipped", problem)
    if checkpoint is None:
        known = ", ".join(path.name for path in list_checkpoints(folder))
        raise UserError(
            f"{folder}: no complete checkpoint before step {step}; it holds {known or 'none'}"
        )
    return checkpoint


def rows_of_step(plan: RunPlan, config: TrainConfig, step: int) -> tuple[int, StepRange]:
    """(phase, rows) of optimizer step `step`, from the run's event log."""
    last_step = 0
    for event, _ in read_events(config.output / LOG_NAME):
        if event["kind"] != "metrics":
            continue
        if event["step"] == step:
            end = int(event["values"]["rows"])
            global_rows = round(event["values"]["tokens"] / _row_tokens_at(plan, end - 1))
            phase, start_row = plan.steps.locate(end - global_rows)
            return phase, StepRange(start_row, global_rows)
        last_step = event["step"]
    raise UserError(
        f"{config.output / LOG_NAME}: no step {step}; the last recorded step is {last_step}"
    )


def replay(
    plan: RunPlan,
    trained: TrainedModel[TrainConfig],
    phase: int,
    taken: StepRange,
    num_rows: int,
) -> list[ReplayedRow]:
    """The first `num_rows` rows of a step, each computed separately.

    Raises UserError for rows that are not those that the checkpoint's run was trained on.
    """
    check_same_rows(plan, trained)
    stream = build_stream(plan, phase, _mixtures(plan, phase))
    positions = np.arange(taken.start_row, taken.start_row + min(num_rows, taken.global_rows))
    address = stream.order.rows_at(positions)
    masked = stream.masked_rows(stream.reader(), positions)
    manifest = trained.checkpoint.manifest
    config = plan.config.model_copy(update={"compute": plan.config.compute.in_fp32()})
    with single_rank_grid() as grid:
        model = build_pretraining_model(
            config, trained.model, special_ids(stream.manifest), grid, None
        ).eval()
        check_checkpoint(manifest, parameter_specs(model), plan.tokenizer_sha256)
        load_weights(model, TensorReader(trained.checkpoint), grid)
        model.enter_phase(plan.phases[phase].config.model)  # perhaps that after the checkpoint's
        tokenizer = load_tokenizer(trained.tokenizer)
        return [
            _replay_row(model, stream, tokenizer, masked, address, number)
            for number in range(len(positions))
        ]


def check_same_rows(plan: RunPlan, trained: TrainedModel[TrainConfig]) -> None:
    """Raises UserError if the run of `plan` would not resume from the checkpoint on its rows."""
    manifest, config = trained.checkpoint.manifest, trained.config
    position, before, now = manifest.consumed_rows, manifest.data_fingerprint, plan.data_fingerprint
    lines = [
        *forbidden_changes(config, plan.config, position),
        *changed_data(config, before, now, position),
    ]
    if lines:
        raise UserError(
            f"{trained.checkpoint.path} is of a run on different rows:\n  " + "\n  ".join(lines)
        )
    check_claim(plan.config, plan.data_fingerprint)  # what was changed after the checkpoint


def _mixtures(plan: RunPlan, phase: int) -> list[tuple[int, Mapping[str, float] | None]]:
    """(first position, mixture weights) of a phase: those that the newest checkpoint records.

    It knows changes that were made after the checkpoint whose weights are taken.
    """
    newest, _ = find_checkpoint(checkpoints_folder(plan.config))
    segments = plan_segments(plan, newest)
    return [(segment.start_row, segment.weights) for segment in segments if segment.phase == phase]


def _replay_row(
    model: MaskedLanguageModel,
    stream: RowStream,
    tokenizer: Tokenizer,
    masked: MaskedRows,
    address: RowAddress,
    number: int,
) -> ReplayedRow:
    device = next(model.parameters()).device
    row = slice(number, number + 1)
    keys = masked.sample_keys
    batch = MaskedMicroBatch(
        torch.from_numpy(masked.tokens[row]),
        torch.from_numpy(masked.positions[row]),
        torch.from_numpy(masked.labels[row]),
        is_causal=stream.objective.config.IS_CAUSAL,
        sample_keys=None if keys is None else torch.from_numpy(keys[row]),
    )
    model.zero_grad()
    results = batch.forward(model, device)
    weights = stream.objective.config.head_weights
    means = [
        weights[head] * loss_sum / count.clamp(min=1)
        for head, (loss_sum, count, _) in results.items()
    ]
    loss: Tensor = torch.stack(means).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    mask = str(tokenizer.id_to_token(stream.manifest.special_tokens.mask))
    shown = tokenizer.decode(masked.tokens[number].tolist(), skip_special_tokens=False)
    answers = [int(label) for label in masked.labels[number] if label >= 0]
    return ReplayedRow(
        source=stream.order.sources[int(address.source[number])].name,
        passes=int(address.passes[number]),
        row=int(address.row[number]),
        loss=float(loss),
        gradient_norm=float(torch.stack(squares).sum().sqrt()),
        text=shown.replace(mask, f" {mask}"),
        answers=[tokenizer.decode([answer]) for answer in answers],
    )


def _row_tokens_at(plan: RunPlan, position: int) -> int:
    phase, _ = plan.steps.locate(position)
    return plan.phases[phase].manifest.row_tokens


if __name__ == "__main__":
    command.run(main)

"""Every key of a run's config is classified by when it may change."""

import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.finetuning.config import FinetuneConfig
from pipeline.run.config import RunConfig, TrainConfig

NEVER: dict[type[RunConfig], set[str]] = {
    TrainConfig: {
        *("seed", "model", "objective", "batch.global_rows", "data.shuffle_unit"),
        *("start.type", "start.step", "start.moments", "start.leave_out"),
        *("start.grow", "start.new_tokens", "adversarial"),
    },
    FinetuneConfig: {
        *("seed", "model", "start.type", "start.step", "start.leave_out", "max_row_tokens"),
        *("tasks.*.type", "tasks.*.examples_per_step", "tasks.*.weight", "tasks.*.labels"),
        *("tasks.*.stride_tokens", "tasks.*.max_answer_tokens", "tasks.*.num_choices"),
        *("tasks.*.format", "tasks.*.fields", "tasks.*.skip", "tasks.*.label_names"),
        *("tasks.*.labels_as", "tasks.*.label_separator", "tasks.*.tagging", "tasks.*.metric"),
        *("tasks.*.class_weights", "tasks.*.threshold", "tasks.*.no_answer_threshold"),
        *("tasks.*.num_best", "task_sampling", "start.heads"),
        *("mlm.objective", "mlm.rows_per_step", "mlm.weight", "adversarial"),
        *("mlm.data.weights", "mlm.data.sampling_exponent", "mlm.data.shuffle_unit"),
    },
}
"""Part of the identity of a run."""
BY_POSITION: dict[type[RunConfig], set[str]] = {
    TrainConfig: {
        *("total_rows", "batch.warmup", "then.*.total_rows", "then.*.batch.global_rows"),
        *("then.*.batch.warmup", "then.*.data.shuffle_unit", "then.*.model", "then.*.objective"),
        "then.*.adversarial",
    },
    FinetuneConfig: {"steps", "epochs", "epochs_of"},
}
"""May change in a phase that has not started, and where the steps that were taken stay the same."""
ANY_RUN = {
    *("name", "output", "precision", "loss_scale", "gradient_clipping", "hang_timeout_s"),
    *("log_every_steps", "optimizer", "compute", "parallel", "checkpoint", "tracking"),
    *("schedule", "stability"),
}
DATA = {"path", "url", "cache_gb", "verify", "workers", "prefetch_steps"}
MAY_CHANGE: dict[type[RunConfig], set[str]] = {
    TrainConfig: {
        *ANY_RUN,
        *("evaluation", "data.weights", "data.sampling_exponent", "then.*.data.sampling_exponent"),
        *("batch.micro_rows", "export"),
        *("start.path", "start.tokenizer"),
        *("then.*.schedule", "then.*.data.weights", "then.*.batch.micro_rows"),
        *("then.*.optimizer", "then.*.gradient_clipping"),
        *(f"{where}data.{key}" for where in ("", "then.*.") for key in DATA),
    },
    FinetuneConfig: {
        *ANY_RUN,
        *("micro_rows", "evaluate_every_steps", "evaluation", "start.path", "start.tokenizer"),
        *("tasks.*.train", "tasks.*.dev", "mlm.heldout_rows_per_source"),
        *("evaluate_every_epochs", "layerwise_lr_decay", "sweep"),
        *(f"mlm.data.{key}" for key in DATA),
    },
}
"""May change at every start. Files and rows that move are compared by their content."""


def leaves(annotation: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all keys in a schema; ``*`` for a number or a name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from leaves(field.annotation, f"{path}.{name}" if path else name)
        return
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    models = [argument for argument in arguments if _holds_model(argument)]
    if not models:
        yield path
    for argument in models:
        yield from leaves(argument, f"{path}.*" if origin in (tuple, dict) else path)


def _holds_model(annotation: Any) -> bool:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return issubclass(annotation, BaseModel)
    return any(_holds_model(argument) for argument in typing.get_args(annotation))


def kinds_of(key: str, schema: type[RunConfig]) -> list[str]:
    tables = {"never": NEVER, "by position": BY_POSITION, "may change": MAY_CHANGE}
    return [
        kind
        for kind, table in tables.items()
        for pattern in table[schema]
        if key == pattern or key.startswith(f"{pattern}.")
    ]


@pytest.mark.parametrize("schema", [TrainConfig, FinetuneConfig])
def test_every_key_is_of_one_kind(schema: type[RunConfig]) -> None:
    """A new key fails here until it is decided whether it may change in mid-run."""
    keys = set(leaves(schema))
    assert len(keys) > 60
    undecided = {key: kinds_of(key, schema) for key in keys if len(kinds_of(key, schema)) != 1}
    assert undecided == {}
    for table in (NEVER, BY_POSITION, MAY_CHANGE):
        for pattern in table[schema]:
            assert any(key == pattern or key.startswith(f"{pattern}.") for key in keys), pattern

"""How many steps a run takes whose length is given in epochs, once its files are read."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from configs.load import ConfigError
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.task_order import TaskOrder
from pipeline.finetuning.task_sampling import SampledTask

EXCLUSIVE = (("steps", "epochs"), ("evaluate_every_steps", "evaluate_every_epochs"))


def given_twice(tree: Mapping[str, Any]) -> list[str]:
    """A line for each length that a config file gives in steps and in epochs.

    Checked on what the user wrote: a config whose files were read holds both.
    """
    return [
        f"{steps} {tree[steps]} and {epochs} {tree[epochs]}: give one of them (null takes one back)"
        for steps, epochs in EXCLUSIVE
        if tree.get(steps) is not None and tree.get(epochs) is not None
    ]


def with_steps(config: FinetuneConfig, num_examples: Mapping[str, int]) -> FinetuneConfig:
    """`config` with the steps that its epochs come to; `num_examples` are those of each task.

    Raises ConfigError for a warm-up that is longer than the schedule.
    """
    changes: dict[str, int] = {}
    if config.epochs is not None:
        changes["steps"] = steps_of(config, num_examples, config.epochs)
    if config.evaluate_every_epochs is not None:
        steps = steps_of(config, num_examples, config.evaluate_every_epochs)
        changes["evaluate_every_steps"] = steps
    resolved = config.model_copy(update=changes)
    for error in resolved.length_errors():
        raise ConfigError(error)
    return resolved


def counted_task(config: FinetuneConfig, num_examples: Mapping[str, int]) -> str:
    """The task whose epochs are meant: `epochs_of`, or the one with the most batches."""
    if config.epochs_of is not None:
        return config.epochs_of
    batches = {
        name: num_examples[name] / task.examples_per_step for name, task in config.tasks.items()
    }
    return max(batches, key=batches.__getitem__)


def steps_of(config: FinetuneConfig, num_examples: Mapping[str, int], epochs: float) -> int:
    """The first step after which the task of `counted_task` was seen `epochs` times."""
    name = counted_task(config, num_examples)
    size = config.tasks[name].examples_per_step
    batches = max(1, ceil(round(epochs * num_examples[name] / size, 9)))
    sampling = config.task_sampling
    if not isinstance(sampling, SampledTask):
        return batches
    # Draws of the first steps do not depend on how many follow: look at more until it is enough.
    num_steps = 2 * batches
    while True:
        order = TaskOrder(sampling, num_examples, num_steps, config.seed)
        if order.num_batches(name) >= batches:
            return order.step_of_batch(name, batches) + 1
        num_steps *= 2

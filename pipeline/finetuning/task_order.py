"""Which tasks a step trains on, and which of their examples: a pure function of seed and step.

N steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.data.order import permutation, uniform
from pipeline.finetuning.task_sampling import EveryTask, SampledTask

LAST_EXPONENT_SHARE = 0.2
"""What is left of the exponent at the last step of annealed sampling."""

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class TaskOrder:
    """The tasks of every step of a run."""

    sampling: EveryTask | SampledTask
    num_examples: Mapping[str, int]
    """Training examples of each task."""
    num_steps: int
    """Steps of the run."""
    seed: int

    def tasks(self, step: int) -> tuple[str, ...]:
        """The tasks that step number `step`, from 0, trains on, in the config's order."""
        names = tuple(self.num_examples)
        if isinstance(self.sampling, EveryTask):
            return names
        return (names[self._drawn[step]],)

    def batches_before(self, step: int, task: str) -> int:
        """In how many steps before number `step` a task of that step was trained on."""
        if isinstance(self.sampling, EveryTask):
            return step
        assert self.tasks(step) == (task,)
        return int(self._earlier[step])

    def examples(self, step: int, task: str, size: int) -> list[int]:
        """The numbers of the `size` examples of a task in a step that trains on it: every epoch
        has an order of its own."""
        length, first = self.num_examples[task], self.batches_before(step, task) * size
        chosen = []
        for place in range(first, first + size):
            epoch, index = divmod(place, length)
            chosen.append(int(_epoch_order(length, self.seed, task, epoch)[index]))
        return chosen

    def num_batches(self, task: str) -> int:
        """In how many steps of the run a task is trained on."""
        if isinstance(self.sampling, EveryTask):
            return self.num_steps
        number = list(self.num_examples).index(task)
        return int((self._drawn == number).sum())

    def step_of_batch(self, task: str, number: int) -> int:
        """The step that trains on a task for the time `number`, counted from 1."""
        if isinstance(self.sampling, EveryTask):
            return number - 1
        places = np.flatnonzero(self._drawn == list(self.num_examples).index(task))
        return int(places[number - 1])

    @cached_property
    def _drawn(self) -> Int64:
        """[N] the number of the task of each step."""
        assert isinstance(self.sampling, SampledTask)
        ends = np.cumsum(self._probabilities(self.sampling), axis=1)  # [N or 1, tasks]
        draws = uniform(self.num_steps, self.seed, "task of a step")
        numbers = (draws[:, None] >= ends[:, :-1]).sum(
            axis=1
        )  # the last end is 1, but for rounding
        return np.asarray(numbers, dtype=np.int64)

    def _probabilities(self, sampling: SampledTask) -> NDArray[np.float64]:
        """[N, tasks]; [1, tasks] where they are the same in all steps."""
        sizes = np.array(list(self.num_examples.values()), dtype=np.float64)
        if sampling.limit is not None:
            sizes = np.minimum(sizes, sampling.limit)
        exponents = np.array([sampling.exponent])
        if sampling.annealed:
            progress = np.arange(self.num_steps) / max(1, self.num_steps - 1)
            exponents = sampling.exponent * (1 - (1 - LAST_EXPONENT_SHARE) * progress)
        weights = sizes[None, :] ** exponents[:, None]
        shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return shares

    @cached_property
    def _earlier(self) -> Int64:
        """[N] how many earlier steps trained on the same task."""
        result = np.empty(self.num_steps, dtype=np.int64)
        for number in range(len(self.num_examples)):
            places = np.flatnonzero(self._drawn == number)
            result[places] = np.arange(len(places))
        return result


@lru_cache(maxsize=64)
def _epoch_order(length: int, seed: int, task: str, epoch: int) -> Int64:
    return permutation(length, seed, "finetune", task, epoch)

"""Numbers read out of the results: scores and losses over seeds, and what they decide."""

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.learning_studies import pretraining
from benchmarks.learning_studies.results import Results, Values


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 3) -> str:
    """Median (lowest to highest) of `values`."""
    if not values:
        return "-"
    low, middle, high = (f"{f(values) * scale:.{digits}f}" for f in (min, median, max))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def test_scores(results: Results, name: str, start: str) -> list[float]:
    """Test scores of all seeds with the learning rate that the dev split chose."""
    lr = pretraining.best_lr(results, name, start)
    found = (results.get(f"{name}-{start}-{lr:g}-{seed}") for seed in pretraining.SEEDS)
    return [float(values["test"]) for values in found if values is not None]


def losses(results: Mapping[str, Values], names: str) -> list[float]:
    """The losses of the seeds of one variant: of several, the one with the lowest median."""
    found = [
        [float(v["loss"]) for key, v in results.items() if key.rpartition("-seed")[0] == name]
        for name in names.split()
    ]
    return min((values for values in found if values), key=median, default=[])


def verdict(first: Sequence[float], second: Sequence[float]) -> str:
    """Which is better, if no seed of one is as good as a seed of the other."""
    if len(first) < 2 or len(second) < 2:
        return "too few runs"
    if max(first) < min(second):
        return "first"
    return "second" if max(second) < min(first) else "not decided"

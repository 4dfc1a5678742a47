"""Which metrics share a chart, under which title and names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Metrics that one chart shows."""

    section: str
    title: str
    metrics: tuple[tuple[str, str], ...]
    """(metric, name of its line)."""
    unit: str = ""
    is_log: bool = False
    from_zero: bool = False
    scale: float = 1.0
    """What values are multiplied by."""


LOSS, TASKS, OPTIMIZATION, SPEED, OTHER = (
    *("Loss and accuracy", "Tasks", "Optimization", "Speed and memory"),
    "Other metrics",
)
SECTIONS = (LOSS, TASKS, OPTIMIZATION, SPEED, OTHER)

_NATS = "nats per token"
_FIXED = (
    Group(LOSS, "Loss", (("loss", "training"), ("heldout_loss", "held out"),
                         ("heldout_unigram_loss", "held out, unigram model"))),
    Group(LOSS, "Accuracy", (("accuracy", "training"), ("heldout_accuracy", "held out")),
          "%", scale=100),
    Group(LOSS, "Losses of both networks", (
        ("generator_loss", "generator"), ("discriminator_loss", "discriminator"),
        ("heldout_generator_loss", "generator, held out"),
        ("heldout_discriminator_loss", "discriminator, held out"))),
    Group(LOSS, "Accuracy of the discriminator", (
        ("discriminator_accuracy", "training"), ("kept_share", "share not replaced"),
        ("heldout_discriminator_accuracy", "held out"),
        ("heldout_kept_share", "share not replaced, held out")), "%", scale=100),
    Group(LOSS, "Parts of the loss", (("mlm_loss", "masked tokens"),
                                      ("adversarial_loss", "adversarial"))),
    Group(OPTIMIZATION, "Learning rate", (("learning_rate", "learning rate"),), from_zero=True),
    Group(OPTIMIZATION, "Gradient norm", (("gradient_norm", "norm"),), is_log=True),
    Group(OPTIMIZATION, "Loss scale", (("loss_scale", "loss scale"),), is_log=True),
    Group(SPEED, "Throughput", (("tokens_per_s", "all ranks"),), "tokens/s", from_zero=True),
    Group(SPEED, "Model FLOPs utilization", (("model_flops_utilization", "MFU"),),
          "% of the measured peak", from_zero=True, scale=100),
    Group(SPEED, "Time of a step", (
        ("step_s", "step"), ("forward_s", "forward, median rank"),
        ("slowest_forward_s", "forward, slowest rank")), "s", from_zero=True),
    Group(SPEED, "Wait for data", (("data_wait_s", "slowest rank"),), "s per step",
          from_zero=True),
    Group(SPEED, "Memory of the largest rank", (
        ("host_memory_gb", "host"), ("device_memory_gb", "accelerator")), "GB", from_zero=True),
)  # fmt: skip
_PATTERNS = (
    (re.compile(r"heldout_loss/(.+)"), LOSS, "Held-out loss by source", "", 1.0),
    (re.compile(r"heldout_accuracy/(.+)"), LOSS, "Held-out accuracy by source", "%", 100.0),
    (re.compile(r"loss/(.+)"), TASKS, "Training loss by task", "", 1.0),
    (re.compile(r"adversarial_loss/(.+)"), TASKS, "Adversarial loss by task", "", 1.0),
    (re.compile(r"heldout_perplexity/(.+)"), OTHER, "Held-out perplexity by source", "", 1.0),
    (re.compile(r"heldout_unigram_loss/(.+)"), OTHER, "Unigram loss by source", "", 1.0),
)
_DEV = re.compile(r"dev_([^/]+)/(.+)")
_TITLES = {
    "rows_per_s": "Rows per second",
    "tokens_per_s_per_rank": "Tokens per second and rank",
    "heldout_perplexity": "Held-out perplexity",
    "masked_tokens": "Masked tokens of a step",
    "tokens": "Tokens of a step",
    "rows": "Rows so far",
    "slowest_rank": "Slowest rank",
}
BETTER_IF_LOWER = re.compile(r"(^|_)(loss|perplexity|error)(/|$)")


def groups(names: Iterable[str]) -> list[Group]:
    """The charts for the metrics `names`, each metric in one, in the order of `SECTIONS`."""
    left = dict.fromkeys(names)
    found = []
    for group in _FIXED:
        metrics = tuple(metric for metric in group.metrics if metric[0] in left)
        if metrics:
            found.append(_with(group, metrics))
    for pattern, section, title, unit, scale in _PATTERNS:
        matches = [(name, m[1]) for name in left if (m := pattern.fullmatch(name))]
        if matches:
            found.append(Group(section, title, tuple(matches), unit, scale=scale))
    found += _dev_groups(left)
    used = {name for group in found for name, _ in group.metrics}
    found += [
        Group(OTHER, _TITLES.get(name, name), ((name, name),)) for name in left if name not in used
    ]
    return sorted(found, key=lambda group: SECTIONS.index(group.section))


def is_better_if_lower(name: str) -> bool:
    """Whether lower values of a metric are better."""
    return BETTER_IF_LOWER.search(name) is not None


def is_score(name: str) -> bool:
    """Whether a metric says how good the model is: on held-out rows, or on a dev file."""
    return name.startswith(("heldout_", "dev_")) and "unigram" not in name


def _dev_groups(names: Iterable[str]) -> list[Group]:
    """A chart for each metric of the dev files, a line for each task."""
    by_metric: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if match := _DEV.fullmatch(name):
            by_metric.setdefault(match[1], []).append((name, match[2]))
    return [
        Group(TASKS, f"Dev files: {metric.replace('_', ' ')}", tuple(lines))
        for metric, lines in by_metric.items()
    ]


def _with(group: Group, metrics: tuple[tuple[str, str], ...]) -> Group:
    return Group(
        *(group.section, group.title, metrics, group.unit),
        *(group.is_log, group.from_zero, group.scale),
    )

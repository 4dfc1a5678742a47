"""The children of a sweep: their names, folders and configs, checked before the first starts."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.load import ConfigError, fingerprint
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.sweep.config import SweepConfig
from pipeline.tracking.tracked_run import tracking_uri

CHILDREN_NAME = "children"
MAX_SHOWN = 5
"""Settings whose errors are listed."""
MAX_NAME = 100
"""Characters of a folder's name."""


@dataclass(frozen=True)
class Child:
    """One run of a sweep."""

    name: str
    """The name of its folder."""
    setting: Mapping[str, Any]
    """Its values of the swept settings."""
    seed: int
    config: FinetuneConfig


def sweep_of(config: FinetuneConfig) -> SweepConfig:
    """The sweep of a config that has one."""
    assert config.sweep is not None
    return config.sweep


def first_seeds(config: FinetuneConfig) -> list[Child]:
    """Each setting with the first seed."""
    return _children(config, range(1))


def all_children(config: FinetuneConfig) -> list[Child]:
    """Each setting with every seed.

    Raises ConfigError with the errors of all children whose config is not valid.
    """
    return _children(config, range(sweep_of(config).seeds))


def _children(config: FinetuneConfig, seeds: range) -> list[Child]:
    found, errors = [], []
    for setting in sweep_of(config).settings:
        try:
            found += [child_of(config, setting, config.seed + seed) for seed in seeds]
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        more = len(errors) - MAX_SHOWN
        rest = [f"and {more} more settings with errors"] if more > 0 else []
        raise ConfigError("\n".join([*errors[:MAX_SHOWN], *rest]))
    return found


def child_of(config: FinetuneConfig, setting: Mapping[str, Any], seed: int) -> Child:
    """The child with these values of the swept settings; raises ConfigError that names it."""
    name = child_name({**setting, "seed": seed})
    tree = config.model_dump(mode="json", exclude={"sweep"})
    for key, value in setting.items():
        _set(tree, key, value)
    tree |= {
        "seed": seed,
        "name": f"{config.name}/{name}",
        "output": str(config.output / CHILDREN_NAME / name),
    }
    tree["tracking"]["uri"] = tracking_uri(config)
    checkpoint = tree["checkpoint"]
    checkpoint["keep_best"] = max(1, checkpoint["keep_best"])
    if "keep_last" not in config.checkpoint.model_fields_set:
        checkpoint["keep_last"] = 1
    return Child(name, setting, seed, FinetuneConfig.from_stored(tree, f"sweep: {name}"))


def child_name(values: Mapping[str, Any]) -> str:
    """The values in words that a folder may be called; other values give another name."""
    texts = {key: text_of(value) for key, value in values.items()}
    text = "_".join(f"{key}={value}" for key, value in texts.items())
    plain = re.sub(r"[^\w.=+-]", "-", text, flags=re.ASCII)
    if plain == text and len(plain) <= MAX_NAME:
        return plain
    return f"{plain[:MAX_NAME]}-{fingerprint(texts)[:8]}"


def text_of(value: Any) -> str:
    """A value of a setting in words."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a swept setting in the tree of a config."""
    if key == "lr":
        key = "optimizer.lr"
    if key == "batch":
        for task in tree["tasks"].values():
            task["examples_per_step"] = value
        return
    if key in ("epochs", "steps"):
        tree |= {"epochs": None, "steps": None}
    *parents, last = key.split(".")
    node: Any = tree
    for depth, parent in enumerate(parents):
        if not isinstance(node, dict) or not isinstance(node.get(parent), dict | type(None)):
            where = ".".join(parents[: depth + 1])
            raise ConfigError(f"sweep.{key}: {where} is no mapping of keys")
        node[parent] = node.get(parent) or {}
        node = node[parent]
    node[last] = value

"""The settings that keep a family from computing a model, each with the nearest that it computes.

A config is written as the family's config.json and read again: what returns is the nearest model
that the family computes, and every setting that returns with a different value is an obstacle. A
setting that a family does not know of returns as its default.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from configs.load import ConfigError, shortest_tree
from model.config import ModelConfig, TrainingChoice

Nearest = Callable[[ModelConfig], ModelConfig]
"""The model that a family's config.json of a given model describes."""
_NOT_COMPUTED = ("embedding_start",)
"""Settings that only decide where the weights start."""


@dataclass(frozen=True)
class Change:
    """A setting of the model that a family does not compute."""

    key: str
    """Dotted key in the config of a run."""
    now: Any
    wanted: Any
    """The nearest value that the family computes."""

    def __str__(self) -> str:
        return f"{self.key}: {_text(self.wanted)} (now {_text(self.now)})"


def changes_for(config: ModelConfig, nearest: Nearest, ignores_sharing: bool) -> list[Change]:
    """The changes that make `config` a model of the family whose nearest model `nearest` gives;
    none if it is one.

    `ignores_sharing`: it has no layers that share their weights, and holds such models all the
    same. Raises ConfigError where the sizes of `config` allow no model of the family.
    """
    found = _obstacles(config, nearest, ignores_sharing)
    more = found
    while more:  # a change may give a meaning to a setting that had none: RMSNorm has no bias
        more = _obstacles(with_changes(config, found), nearest, ignores_sharing)
        changed = {change.key for change in found}
        assert not any(change.key in changed for change in more), more
        found += more
    return found


def _obstacles(config: ModelConfig, nearest: Nearest, ignores_sharing: bool) -> list[Change]:
    back = nearest(config)
    before, after = _comparable(config), _comparable(back)
    found = [
        change
        for name in before
        for change in _changes(f"model.{name}", before[name], after[name], getattr(back, name))
    ]
    if ignores_sharing:
        needed = [one for one in found if not one.key.startswith("model.parameter_sharing")]
        if not needed or _is_valid(config, needed):
            return needed
    if not _is_valid(config, found):
        raise ConfigError("the family has no model of these sizes")
    return found


def with_changes(config: ModelConfig, changes: Iterable[Change]) -> ModelConfig:
    """`config` with the changes made; raises pydantic's ValidationError where they disagree."""
    tree = config.model_dump(mode="json")
    for change in changes:
        _, *keys, last = change.key.split(".")
        node = tree
        for key in keys:
            node = node[key]
        node[last] = change.wanted
    return ModelConfig.model_validate(tree)


def _is_valid(config: ModelConfig, changes: Iterable[Change]) -> bool:
    try:
        with_changes(config, changes)
    except ValidationError:
        return False
    return True


def _changes(key: str, now: Any, wanted: Any, config: Any) -> Iterator[Change]:
    """`config` is the field that `wanted` is the mapping of, if it is one."""
    if now == wanted:
        return
    if not (isinstance(now, dict) and isinstance(wanted, dict)):
        yield Change(key, now, wanted)
    elif now.get("type") == wanted.get("type"):
        assert now.keys() == wanted.keys()
        for name, value in wanted.items():
            yield from _changes(f"{key}.{name}", now[name], value, None)
    elif len(now) == len(wanted) == 1:
        yield Change(f"{key}.type", now["type"], wanted["type"])
    else:
        assert isinstance(config, BaseModel)
        yield Change(key, now["type"], shortest_tree(config))


def _comparable(config: ModelConfig) -> dict[str, Any]:
    """The architecture as a mapping, in which equal networks have equal settings."""
    tree = config.model_dump(mode="json")
    for name, field in ModelConfig.model_fields.items():
        if name in _NOT_COMPUTED or any(isinstance(m, TrainingChoice) for m in field.metadata):
            del tree[name]
    positions, attention, sharing = (
        tree[key] for key in ("positions", "attention_pattern", "parameter_sharing")
    )
    if attention["type"] == "alternating":
        if config.num_layers == 1:
            tree["attention_pattern"] = {"type": "full"}
        attention["global_every"] = min(attention["global_every"], config.num_layers)
    if "local_base" in positions and positions["local_base"] == positions["base"]:
        positions["local_base"] = None
    if sharing["type"] == "groups":
        sharing.pop("pooler")  # of heads for whole rows, which check it
        if sharing["num_groups"] == config.num_layers:
            tree["parameter_sharing"] = {"type": "none"}
    bias = tree["bias"]
    bias["mlp_up"] = bias["mlp_up"] or not bias["mlp"]
    bias["norm"] = bias["norm"] or config.norm.type == "rms_norm"
    if not config.head_layers:
        bias["head"], tree["head_activation"] = True, "gelu"
    return tree


def _text(value: Any) -> str:
    """A value as it is written in a config."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)

"""The `sweep` section of a fine-tuning config: which values of which settings are tried."""

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from configs.load import Config


class SweepConfig(Config):
    """Every combination of the values, each with every seed, as runs of their own: the children.

    RoBERTa's grid (Liu et al. 2019, Table 10): `lr: [1e-5, 2e-5, 3e-5]`, `batch: [16, 32]`,
    `epochs: [10]`, `seeds: 5`, with `schedule: {warmup_share: 0.06}`. Any other key of this file is
    swept under its dotted name, such as `model.hidden_dropout: [0, 0.1]`.
    """

    lr: tuple[PositiveFloat, ...] = ()
    """Values of `optimizer.lr`."""

    batch: tuple[PositiveInt, ...] = ()
    """Values of `examples_per_step`, in all tasks."""

    epochs: tuple[PositiveFloat, ...] = ()
    """Values of `epochs`."""

    seeds: PositiveInt = 1
    """Seeds of each setting: `seed`, `seed` + 1 and so on."""

    seeds_of: Literal["every_setting", "best_setting"] = "every_setting"
    """best_setting: all settings are tried with the first seed, and only the best one with the
    others. Cheaper, but the choice rests on one seed."""

    keep: Literal["best", "all"] = "best"
    """Whose checkpoints stay: those of the best child, or of all. best also deletes all but the
    best checkpoint of that child."""

    keys: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values of other keys, by dotted name; may be written directly into `sweep`."""

    @model_validator(mode="before")
    @classmethod
    def _collect_keys(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        own = {name: value for name, value in tree.items() if name in cls.model_fields}
        others = {name: value for name, value in tree.items() if name not in own}
        keys = own.pop("keys", {})
        if not isinstance(keys, dict):
            return {**own, "keys": keys}
        flat = dict(_flattened({**keys, **others}))
        return {**own, "keys": flat}

    @field_validator("keys", mode="before")
    @classmethod
    def _one_is_a_list(cls, keys: Any) -> Any:
        if not isinstance(keys, dict):
            return keys
        return {name: v if isinstance(v, list | tuple) else [v] for name, v in keys.items()}

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        for short, key in (("lr", "optimizer.lr"), ("batch", "batch"), ("epochs", "epochs")):
            if getattr(self, short) and key in self.keys:
                raise ValueError(f"{short} and {key} are the same: give one")
        if "seed" in self.keys:
            raise ValueError("seed: use seeds, the number of seeds")
        for fixed in ("output", "name", "sweep", "tracking"):
            if any(key.split(".")[0] == fixed for key in self.keys):
                raise ValueError(f"{fixed} cannot be swept: it is that of the sweep")
        if not self.axes and self.seeds == 1:
            raise ValueError("nothing to try: give values of a key, or seeds")
        for name, values in self.axes.items():
            if not values:
                raise ValueError(f"{name}: no values")
            texts = [json.dumps(value, sort_keys=True) for value in values]
            if twice := {text for text in texts if texts.count(text) > 1}:
                raise ValueError(f"{name}: {', '.join(sorted(twice))} is there twice")
        return self

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The values by the name of their setting, in the order of the table."""
        own = {name: getattr(self, name) for name in ("lr", "batch", "epochs")}
        return {**{name: values for name, values in own.items() if values}, **self.keys}

    @property
    def settings(self) -> list[dict[str, Any]]:
        """All combinations of the values."""
        return [
            dict(zip(self.axes, values, strict=True)) for values in product(*self.axes.values())
        ]


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Lists by dotted key: overrides on the command line make mappings of dotted keys."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

"""The list of families, and the family of a folder or of a model."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from configs.load import ConfigError
from model.config import ModelConfig
from model.head_types import HeadType
from model.hugging_face.albert import ALBERT
from model.hugging_face.bert import BERT
from model.hugging_face.camembert import CAMEMBERT
from model.hugging_face.eurobert import EUROBERT
from model.hugging_face.family import Family
from model.hugging_face.gte import GTE
from model.hugging_face.modernbert import MODERNBERT
from model.hugging_face.nearest import Change
from model.hugging_face.nomic_bert import NOMIC_BERT
from model.hugging_face.roberta import ROBERTA
from model.hugging_face.roberta_prelayernorm import ROBERTA_PRELAYERNORM
from model.hugging_face.xlm_roberta import XLM_ROBERTA

FAMILIES: tuple[Family, ...] = (
    ROBERTA,
    BERT,
    ROBERTA_PRELAYERNORM,
    XLM_ROBERTA,
    CAMEMBERT,
    MODERNBERT,
    EUROBERT,
    NOMIC_BERT,
    GTE,
    ALBERT,
)
"""Every family that can be exported and imported. A model is exported as that of the folder that
its training started from, or as the first that fits."""

OWN_CODE = {
    "new": (
        "of GTE's own code (trust_remote_code); transformers 5 has these models as gte: take the "
        "folder's version for transformers 5, or set model_type to 'gte' in config.json"
    ),
}
"""By `model_type` of published code that preceded transformers' class: what to do with it."""
MAX_NEAREST = 3
"""Families that an error names for a model that none computes."""


def family_of_folder(hf: Mapping[str, Any], tensor_names: Iterable[str], origin: str) -> Family:
    """The family of a folder with the config.json `hf`; `origin` names it in the ConfigError."""
    names = list(tensor_names)
    if hf.get("model_type") is None:
        for family in FAMILIES:
            if any(family.has_class(str(name)) for name in hf.get("architectures") or ()):
                return family
    for family in FAMILIES:
        if family.matches(hf, names):
            return family
    if hf.get("model_type") is None:
        raise ConfigError(
            f"{origin}: no model_type, and neither architectures nor the names of the tensors say "
            "which it is: add it; known: " + ", ".join(family.model_type for family in FAMILIES)
        )
    advice = OWN_CODE.get(str(hf.get("model_type")))
    raise ConfigError(
        f"{origin}: model_type {hf.get('model_type')!r} cannot be imported"
        + (f": it is {advice}" if advice else "")
        + "; known: "
        + ", ".join(family.model_type for family in FAMILIES)
    )


def head_transform_of(config: ModelConfig) -> Literal["none", "prediction", "dense"]:
    """What the classes of the model's family have before the output layer of a task."""
    for family in FAMILIES:
        if family.can_hold(config):
            return family.head_transform
    return "none"


def family_of_model(config: ModelConfig, preferred: str | None = None) -> Family:
    """The family that computes what `config` describes: the one with the model_type `preferred`,
    or the first.

    Raises ConfigError that names, for the nearest families, every setting to change.
    """
    for family in sorted(FAMILIES, key=lambda one: one.model_type != preferred):
        if family.can_hold(config):
            return family
    lines = [
        f"  {family.model_type}: {', '.join(map(str, changes))}"
        for family, changes in nearest_families(config)
    ]
    raise ConfigError(
        "no Hugging Face class computes this model; the nearest, and the settings that make it "
        "theirs:\n" + "\n".join(lines)
    )


def task_errors(config: ModelConfig, heads: Mapping[str, HeadType]) -> dict[str, list[str]]:
    """The names of the `heads` that no class of transformers computes on `config`, by the reason;
    empty if all have a class."""
    errors: dict[str, list[str]] = {}
    for name, head in heads.items():
        try:
            family_of_model(config).check_task(config, head)
        except ConfigError as error:
            errors.setdefault(str(error), []).append(name)
    return errors


def nearest_families(config: ModelConfig) -> list[tuple[Family, list[Change]]]:
    """The families that need the fewest changes of `config`, with these; the nearest first.

    Of families that compute the same network, the first of the list stands for all.
    """
    found: list[tuple[Family, list[Change]]] = []
    for family in FAMILIES:
        try:
            changes = family.changes(config)
        except ConfigError:  # sizes that the family does not have
            continue
        if changes not in [others for _, others in found]:
            found.append((family, changes))
    found.sort(key=lambda pair: len(pair[1]))
    return found[:MAX_NEAREST]

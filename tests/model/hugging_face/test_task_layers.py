"""Heads whose layers before the output are not those of the class are refused by name."""

import pytest

from configs.load import ConfigError
from model.config import ModelConfig
from model.hugging_face.families import FAMILIES, task_errors
from model.hugging_face.family import WHOLE_ROW_HEADS, Family
from tests.model.hugging_face.test_parity import MODELS, SAME_NETWORK, SIZES


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_only_the_layers_of_the_class_are_exported(family: Family) -> None:
    model = {**SIZES, **(MODELS | SAME_NETWORK)[family.model_type], "pooler": {"type": "first"}}
    if "embedding_size" in model:  # goes with no other head_transform
        return
    for transform in ("none", "prediction", "dense"):
        config = ModelConfig(**model, head_transform={"type": transform})
        for head in family.heads:
            is_same = transform == family.head_transform or (
                head not in WHOLE_ROW_HEADS
                and {transform, family.head_transform} <= {"none", "dense"}
            )
            if is_same:
                family.check_task(config, head)
                continue
            with pytest.raises(ConfigError, match=f"set type: {family.head_transform}"):
                family.check_task(config, head)


def test_the_heads_are_named_by_their_reason() -> None:
    config = ModelConfig(**SIZES, head_transform={"type": "prediction"}, pooler={"type": "first"})
    errors = task_errors(config, {"a": "token_classification", "b": "token_classification"})
    assert list(errors.values()) == [["a", "b"]]
    (reason,) = errors
    assert "RobertaForTokenClassification has no layers before the output" in reason

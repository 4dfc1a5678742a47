"""The configs of docs/phases.md are valid, and say what the page says of them."""

import json
import re
from typing import Any

import jsonschema
import yaml

from configs.differences import differences
from configs.load import load, validate
from docs.generate import ROOT
from model.hugging_face.families import family_of_model
from pipeline.run.config import TrainConfig

PAGE = (ROOT / "docs" / "phases.md").read_text()
MODERN, FALLING = (
    yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
)


def test_the_recipe_of_modernbert() -> None:
    config = validate(MODERN, TrainConfig, "docs/phases.md")
    _, long, decay = config.phases
    models = [phase.model for phase in config.phases]
    assert [family_of_model(model).model_type for model in models] == ["modernbert"] * 3
    assert [model.positions.base_of(None) for model in models] == [1e4, 1.6e5, 1.6e5]  # type: ignore[union-attr]
    assert {model.positions.base_of(64) for model in models} == {1e4}  # type: ignore[union-attr]
    tokens = [
        phase.total_rows * width / 1e9
        for phase, width in zip(config.phases, (1024, 8192, 8192), strict=True)
    ]
    assert [round(count) for count in tokens] == [1719, 250, 50]
    recipe = load(ROOT / "configs" / "modern-base.yaml", TrainConfig)
    changed = [
        d.path
        for pair in zip(recipe.phases, config.phases, strict=True)
        for d in differences(*pair)
    ]
    assert changed == ["batch.warmup", "name", "output"]
    assert (long.schedule.type, long.schedule.warmup_rows) == ("constant", 0)
    rate = decay.schedule.learning_rate
    rows = decay.steps.total_rows
    assert rate(3e-4, rows // 4, rows) / 3e-4 - 0.5 < 1e-6
    assert rate(3e-4, rows, rows) == 0


def test_the_falling_mask_rate() -> None:
    rest: dict[str, Any] = {key: MODERN[key] for key in MODERN if key not in FALLING}
    config = validate({**rest, **FALLING}, TrainConfig, "docs/phases.md")
    objectives = [phase.objective.model_dump() for phase in config.phases]
    assert [objective["mask_rate"] for objective in objectives] == [0.3, 0.15, 0.05]
    assert str(config.then[1].data.path) == str(config.then[0].data.path)


def test_editors_accept_them() -> None:
    schema = json.loads((ROOT / "docs" / "schema" / "train.schema.json").read_text())
    for tree in (MODERN, {"extends": "other.yaml", **FALLING}):
        jsonschema.Draft202012Validator(schema).validate(tree)

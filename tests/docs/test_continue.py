"""The configs of docs/continue.md are valid."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from docs.generate import ROOT

PAGE = (ROOT / "docs" / "continue.md").read_text()
BLOCKS: list[dict[str, Any]] = [
    yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
]


@pytest.mark.parametrize("tree", BLOCKS, ids=lambda tree: "-".join(tree)[:30])
def test_a_config_of_the_page_is_valid(tree: dict[str, Any]) -> None:
    kind = "data" if "tokenizer" in tree else "train"
    schema = json.loads((ROOT / "docs" / "schema" / f"{kind}.schema.json").read_text())
    whole = tree if "name" in tree else {"extends": "other.yaml", **tree}
    jsonschema.Draft202012Validator(schema).validate(whole)


def test_the_page_has_an_example_of_each_use() -> None:
    starts = [tree["start"] for tree in BLOCKS if "start" in tree]
    assert [start["type"] for start in starts] == ["hugging_face", "run", "run"]
    assert starts[1]["moments"]
    assert starts[2]["grow"] == "tiling"

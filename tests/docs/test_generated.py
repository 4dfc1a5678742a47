"""The generated references are current, and their JSON schemas accept the shipped configs."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from docs import generate, pictures, schemas

CONFIGS = sorted((generate.ROOT / "configs").glob("*.yaml"))


def schema_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The schema of the kind of file that `tree` is."""
    kind = "data" if "sources" in tree else "finetune" if "tasks" in tree else "train"
    path = generate.ROOT / "docs" / "schema" / f"{kind}.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


@pytest.mark.parametrize("path", generate.outputs(), ids=lambda path: path.name)
def test_generated_files_are_current(path: Path) -> None:
    assert path.read_text() == generate.outputs()[path], "run 'make docs'"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_json_schemas_accept_every_shipped_config(path: Path) -> None:
    tree = yaml.safe_load(path.read_text())
    jsonschema.Draft202012Validator(schema_of(tree)).validate(tree)


def test_the_json_schemas_refuse_unknown_keys_and_missing_ones() -> None:
    tree = yaml.safe_load((generate.ROOT / "configs" / "demo.yaml").read_text())
    validator = jsonschema.Draft202012Validator(schema_of(tree))
    assert not validator.is_valid({**tree, "total_row": 1})
    assert not validator.is_valid({key: value for key, value in tree.items() if key != "data"})


def test_every_field_has_a_description() -> None:
    missing = [
        f"{name}.{field}"
        for file in schemas.FILES
        for name, definition in {
            file.title: schemas.json_schema(file),
            **schemas.json_schema(file).get("$defs", {}),
        }.items()
        for field, node in definition.get("properties", {}).items()
        if not node.get("description") and "const" not in node
    ]
    assert not missing


def test_the_picture_of_the_row_order_is_current() -> None:
    assert pictures.PATH.read_text() == pictures.picture(), "run 'make docs'"

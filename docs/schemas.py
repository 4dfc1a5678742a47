"""The schemas of the config files as JSON schemas, with the docstrings of their fields.

Everything comes from the schemas: names, types, limits and defaults from pydantic, explanations
from the docstrings of classes and fields.
"""

import ast
import inspect
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import to_jsonable_python

from data_prep.config import DataConfig
from pipeline.evaluation.config import EvaluationConfig
from pipeline.finetuning.config import FinetuneConfig
from pipeline.run.config import TrainConfig


@dataclass(frozen=True)
class ConfigFile:
    """A kind of config file and the command that reads it."""

    name: str
    title: str
    command: str
    schema: type[BaseModel]


FILES = (
    ConfigFile("data", "Data preparation", "python -m data_prep.run CONFIG.yaml", DataConfig),
    ConfigFile("train", "Pretraining", "deepspeed pipeline/train.py CONFIG.yaml", TrainConfig),
    ConfigFile(
        "finetune", "Fine-tuning", "deepspeed pipeline/finetune.py CONFIG.yaml", FinetuneConfig
    ),
    ConfigFile(
        "evaluate",
        "Evaluation",
        "python -m pipeline.evaluate MODEL... CONFIG.yaml",
        EvaluationConfig,
    ),
)


_SINGLE = ("string", "integer", "number")


@cache
def field_docstrings(cls: type) -> dict[str, str]:
    """The docstring under each field that `cls` itself declares, by field name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match text:
                case ast.Expr(value=ast.Constant(value=str() as docstring)):
                    found[field.target.id] = " ".join(docstring.split())
    return found


def description(cls: type[BaseModel], field: str) -> str | None:
    """The docstring of a field, from the nearest class that has one."""
    for ancestor in cls.__mro__:
        if issubclass(ancestor, BaseModel) and ancestor is not BaseModel:
            text = field_docstrings(ancestor).get(field)
            if text:
                return text
    return None


class _WithDocstrings(GenerateJsonSchema):
    """Adds field docstrings to pydantic's JSON schema."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        result = super().model_schema(schema)
        cls = schema["cls"]
        for name, value in result.get("properties", {}).items():
            value.pop("title", None)
            factory: Any = cls.model_fields[name].default_factory
            if factory is not None:  # pydantic leaves these defaults out
                value["default"] = to_jsonable_python(factory())
            text = description(cls, name)
            if text:
                value["description"] = text
        result["description"] = inspect.cleandoc(cls.__doc__ or "")
        return result


def json_schema(file: ConfigFile) -> dict[str, Any]:
    """The JSON schema of a kind of file, with the `extends` key that every file may have."""
    tree = file.schema.model_json_schema(schema_generator=_WithDocstrings)
    tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_any_of(tree)}
    tree["properties"]["extends"] = {
        "type": "string",
        "description": "Another config file, relative to this one, whose keys this file changes.",
    }
    required = tree.pop("required", [])
    # What is required may stand in the file that this one extends.
    tree["anyOf"] = [{"required": required}, {"required": ["extends"]}]
    if "model" in required:  # which may come from the start
        without = [key for key in required if key != "model"]
        tree["anyOf"].append({"required": [*without, "start"]})
    return tree


def _any_of(node: Any) -> Any:
    """`node` with unions that a value without its `type` may match in several members, and lists
    for which one value may stand."""
    if isinstance(node, list):
        return [_any_of(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {
        ("anyOf" if key == "oneOf" else key): _any_of(value)
        for key, value in node.items()
        if key != "discriminator"
    }
    if "anyOf" in result:  # of a list that became a union, the members
        members = [inner for member in result["anyOf"] for inner in member.get("anyOf", [member])]
        result["anyOf"] = [m for k, m in enumerate(members) if m not in members[:k]]
    if result.get("type") == "array" and result.get("items", {}).get("type") in _SINGLE:
        details = {key: result.pop(key) for key in ("description", "default") if key in result}
        return {"anyOf": [result, result["items"]], **details}
    return result

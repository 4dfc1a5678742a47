"""Writes docs/config.md and docs/schema/ from the config schemas, and the table of docs/data.md.

``python -m docs.generate`` writes them; with ``--check`` it only compares, and exits with 1 where a
file is not current. `docs.schemas` makes the JSON schemas, from which everything else follows.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs import command
from data_prep.stages import stages_table
from docs.schemas import FILES, json_schema

ROOT = Path(__file__).resolve().parent.parent
STAGES_START = "<!-- stages: generated from data_prep/stages.py by python -m docs.generate -->"
STAGES_END = "<!-- end of stages -->"


INTRODUCTION = """\
# Configuration reference

Generated from the schemas by `python -m docs.generate`; do not edit. The same schemas as JSON
Schema are in [`docs/schema/`](schema/). An editor with a YAML language server checks and completes
a config file that starts with

```yaml
# yaml-language-server: $schema=../docs/schema/train.schema.json
```

Rules of every file: `extends: other.yaml` takes over the keys of another file; mappings are merged
key by key. Unknown keys are errors. `key.sub=value` on the command line changes a value for one
run. Where a mapping has a `type`, leaving `type` out selects the default one. The terms, and the
field's other words for them, are in the [glossary](glossary.md).
"""


def type_text(node: dict[str, Any], links: dict[str, str]) -> str:
    """A type in words, for a cell of a table; `links` maps definitions to their anchors."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{links[name]})" if name in links else name
    if "allOf" in node:
        return type_text(node["allOf"][0], links)
    for key in ("anyOf", "oneOf"):
        if key in node:
            return " or ".join(dict.fromkeys(type_text(item, links) for item in node[key]))
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{item}`" for item in node["enum"])
    kind = node.get("type")
    if kind == "array":
        item = node.get("items") or {}
        prefix = node.get("prefixItems")
        if prefix:
            return "[" + ", ".join(type_text(part, links) for part in prefix) + "]"
        return f"list of {type_text(item, links)}" if item else "list"
    if kind == "object":
        value = node.get("additionalProperties") or next(
            iter(node.get("patternProperties", {}).values()), None
        )
        return f"mapping to {type_text(value, links)}" if isinstance(value, dict) else "mapping"
    names = {"string": "text", "number": "number", "integer": "integer", "boolean": "true or false"}
    if kind == "null":
        return "null"
    return names.get(str(kind), str(kind)) + _limits(node)


def _limits(node: dict[str, Any]) -> str:
    signs = {
        "exclusiveMinimum": ">",
        "minimum": ">=",
        "exclusiveMaximum": "<",
        "maximum": "<=",
    }
    limits = [f"{sign} {node[key]:g}" for key, sign in signs.items() if key in node]
    return f" {' and '.join(limits)}" if limits else ""


def default_text(node: dict[str, Any], is_required: bool) -> str:
    """The default of a field, for a cell of a table."""
    if "if not given" in node.get("description", ""):
        return "see right"
    if is_required:
        return "required"
    value = node.get("default")
    if isinstance(value, dict) and "type" in value:
        return f"`{value['type']}`"
    if isinstance(value, dict) and node.get("type") != "object":  # that of a schema of its own
        return "see there"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table(definition: dict[str, Any], links: dict[str, str]) -> Iterator[str]:
    """The fields of one schema as a Markdown table."""
    required = set(definition.get("required", []))
    for choice in definition.get("anyOf", [])[:1]:
        required |= set(choice.get("required", []))
    fields = {
        name: node
        for name, node in definition.get("properties", {}).items()
        if name != "extends" and not (name == "type" and "const" in node)
    }
    if not fields:
        yield "No further keys."
        return
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, node in fields.items():
        cells = (
            f"`{name}`",
            type_text(node, links),
            default_text(node, name in required),
            node.get("description", ""),
        )
        yield "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def heading_of(name: str, definition: dict[str, Any]) -> str:
    """The heading of a schema: its class name, and the `type` that selects it."""
    chosen = definition.get("properties", {}).get("type", {}).get("const")
    return f"{name} (`type: {chosen}`)" if chosen else name


def anchor(heading: str) -> str:
    """The anchor that Markdown viewers give a heading."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def config_page() -> str:
    """docs/config.md."""
    lines = [INTRODUCTION]
    lines += [f"- [{file.title}](#{anchor(file.title)}): `{file.command}`" for file in FILES]
    written: dict[str, dict[str, Any]] = {}
    links: dict[str, str] = {}
    schemas = {file.name: json_schema(file) for file in FILES}
    for file in FILES:
        for name, definition in schemas[file.name].get("$defs", {}).items():
            links.setdefault(name, anchor(heading_of(name, definition)))
    for file in FILES:
        schema = schemas[file.name]
        lines += ["", f"## {file.title}", "", f"`{file.command}`", ""]
        lines += [_paragraph(schema), "", *table(schema, links)]
        for name, definition in schema.get("$defs", {}).items():
            if name in written or "properties" not in definition:
                continue
            written[name] = definition
            lines += ["", f"### {heading_of(name, definition)}", "", _paragraph(definition), ""]
            lines += table(definition, links)
    return "\n".join(lines) + "\n"


def _paragraph(definition: dict[str, Any]) -> str:
    return str(definition.get("description", "")).strip()


def data_page() -> str:
    """docs/data.md with the current table of the stages."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    before, start, rest = page.partition(STAGES_START)
    _, end, after = rest.partition(STAGES_END)
    assert start, f"docs/data.md lacks {STAGES_START}"
    assert end, f"docs/data.md lacks {STAGES_END}"
    return f"{before}{start}\n{stages_table()}{end}{after}"


def outputs() -> dict[Path, str]:
    """Every generated file and its content."""
    schemas = {}
    for file in FILES:
        tree = json_schema(file)
        for definition in tree.get("$defs", {}).values():
            definition.pop("required", None)  # may stand in the extended file, or is computed
        path = ROOT / "docs" / "schema" / f"{file.name}.schema.json"
        schemas[path] = json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
    pages = {ROOT / "docs" / "config.md": config_page(), ROOT / "docs" / "data.md": data_page()}
    return {**pages, **schemas}


def main() -> int:
    """Writes or checks the files; 1 if `--check` finds one that is not current."""
    parser = command.plain_parser("Write the reference of the config files.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    stale = [
        path
        for path, text in outputs().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is not current: run 'make docs'")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(outputs()[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    command.run(main)

"""Writes docs/commands.md from the argument parsers of all commands.

``python -m docs.generate_commands`` writes it; with ``--check`` it only compares, and exits with 1
if the page is not current. A command is a file whose last lines call ``command.run(main)``: a new
one is found without being listed here.
"""

import argparse
import ast
import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

from configs import command

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "commands.md"

GROUPS = {
    "data_prep": "Data preparation",
    "pipeline": "Training, evaluation and export",
    "benchmarks": "Benchmarks",
    "docs": "Documentation",
}
"""Folders that hold commands, in the order of the page."""

LAUNCHED = ("pipeline.train", "pipeline.finetune")
"""Commands that a launcher starts on every rank, by the path of the file."""

INTRODUCTION = """\
# Commands

Generated from the argument parsers by `python -m docs.generate_commands`; do not edit.

A command that reads a config file takes `CONFIG.yaml` and overrides `key.sub=value`, whose values
are YAML. Options, the config file and overrides may be given in any order. Exit codes: 0 success,
1 a check failed, 2 an error that the user can fix (one message, no traceback).
"""


@dataclass(frozen=True)
class Command:
    """A command and its parser."""

    module: str
    parser: argparse.ArgumentParser

    @property
    def group(self) -> str:
        """The folder at the top of the repository that the command is in."""
        return self.module.split(".")[0]

    @property
    def start(self) -> str:
        """The words that start the command."""
        if self.module in LAUNCHED:
            return f"deepspeed {self.module.replace('.', '/')}.py"
        return f"python -m {self.module.removesuffix('.__main__')}"


def scripts() -> dict[str, bool]:
    """Modules that Python can be started with, and whether they call ``command.run``."""
    found = {}
    for path in sorted(file for group in GROUPS for file in (ROOT / group).rglob("*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[module] = "command.run(main)" in ast.unparse(node)
    return found


def commands() -> list[Command]:
    """All commands, by group and name."""
    order = list(GROUPS)
    names = [name for name, is_command in scripts().items() if is_command]
    names.sort(key=lambda name: (order.index(name.split(".")[0]), name))
    return [Command(name, parser_of(name)) for name in names]


@cache
def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser that the command makes: the one that it shows with ``--help``."""
    shown: list[argparse.ArgumentParser] = []
    with (
        mock.patch.dict(os.environ),  # training sets the variables of its launch
        mock.patch.object(sys, "path", list(sys.path)),  # scripts put the repository first
        mock.patch.object(sys, "argv", [module, "--help"]),
        mock.patch.object(
            argparse.ArgumentParser, "print_help", lambda parser, file=None: shown.append(parser)
        ),
        contextlib.suppress(SystemExit),
    ):
        importlib.import_module(module).main()
    (parser,) = shown
    return parser


def outputs() -> dict[Path, str]:
    """The text of the page, by its path."""
    lines = [INTRODUCTION]
    group = ""
    for entry in commands():
        if entry.group != group:
            group = entry.group
            lines += [f"## {GROUPS[group]}", ""]
        lines += _describe(entry)
    lines += ["## Slurm jobs", "", "Described in [cluster.md](cluster.md).", "", *_slurm_jobs(), ""]
    lines += ["## Make targets", "", *_make_targets()]
    return {PAGE: "\n".join(lines).rstrip("\n") + "\n"}


def _describe(entry: Command) -> Iterator[str]:
    options = [a for a in entry.parser._actions if a.option_strings and a.dest != "help"]
    positional = [a for a in entry.parser._actions if not a.option_strings]
    words = [f"{a.option_strings[-1]} {_value_name(a)}" for a in options if a.required]
    words += [_value_name(a) for a in positional]
    words += ["[options]"] if any(not a.required for a in options) else []
    yield f"### `{entry.start}`"
    yield ""
    yield f"    {' '.join([entry.start, *words])}"
    yield ""
    paragraphs = (entry.parser.description or "").strip().split("\n\n")
    text = " ".join(paragraphs[0].replace("``", "`").split())
    yield re.sub(r": `[^`]*`\.?$", ".", text)  # how to start it is said above
    yield ""
    rows = [
        (_value_name(a), a.help)
        for a in positional
        if a.help and a.dest not in ("config", "overrides")
    ]
    rows += [(_option(a), _with_default(a)) for a in options]
    if rows:
        yield from ("| argument | meaning |", "|---|---|")
        for name, text in rows:
            yield f"| `{_escape(name)}` | {_escape(text or '')} |"
        yield ""


def _option(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    return f"{names} {_value_name(action)}" if action.nargs != 0 else names


def _value_name(action: argparse.Action) -> str:
    """How the value of an argument is written in a usage line."""
    is_option = bool(action.option_strings)
    name = action.dest.upper() if is_option else action.dest
    if action.choices is not None:
        name = "|".join(str(choice) for choice in action.choices)
    if isinstance(action.metavar, str):
        name = action.metavar
    if action.nargs in ("*", "+"):
        return f"[{name} ...]" if action.nargs == "*" else f"{name} [{name} ...]"
    return name


def _with_default(action: argparse.Action) -> str:
    text = " ".join((action.help or "").split())
    shown = action.default not in (None, False, []) and "default" not in text
    return f"{text} (default: {action.default})".strip() if shown else text


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _slurm_jobs() -> Iterator[str]:
    yield from ("| script | purpose |", "|---|---|")
    for path in sorted((ROOT / "slurm").glob("*.sh")):
        first, second = path.read_text(encoding="utf-8").splitlines()[:2]
        if first.startswith("#!"):
            purpose = second.removeprefix("# ").split(". ")[0].rstrip(".")
            yield f"| `slurm/{path.name}` | {purpose} |"


def _make_targets() -> Iterator[str]:
    yield from ("| target | purpose |", "|---|---|")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, text in re.findall(r"^([a-z-]+):.*## (.*)$", makefile, re.MULTILINE):
        yield f"| `make {name}` | {_escape(text)} |"


def main() -> int:
    """Writes or checks the page; 1 if ``--check`` finds that it is not current."""
    parser = command.plain_parser("Write docs/commands.md from the parsers of all commands.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    for path, text in outputs().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"{path.relative_to(ROOT)} is not current: run python -m docs.generate_commands")
            return 1
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    command.run(main)

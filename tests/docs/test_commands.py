"""Every command parses its arguments the same way, and the page of all commands is current."""

import argparse
import ast
from itertools import chain

import pytest

from configs import command
from docs import generate_commands
from docs.generate_commands import ROOT, commands, outputs, parser_of, scripts

NOT_COMMANDS = {
    "benchmarks.data_dedup_peers",  # run by data_dedup in an environment of other packages
    "benchmarks.export_versions_peer",  # run by export_versions in an environment of its own
    "docs.pictures",  # run by `make docs`
    "pipeline.tracking.system_metrics",  # started by its path, with the standard library only
}
"""Files that other programs start and people do not."""

SAMPLE_VALUES = {"profile_steps": "10:12"}
"""Values of options that are no number or free text."""

MODULES = [name for name, is_command in scripts().items() if is_command]
WITHOUT_CONFIG = {
    "data_prep.demo_corpus",
    "data_prep.scheduler_key",
    "data_prep.upload",
    "pipeline.average",
    "pipeline.encoder_decoder",
    "pipeline.evaluate",  # a config among the models
    "pipeline.evaluation.make_pairs",
    "pipeline.fill_mask",
    "pipeline.finetuning.demo",
    "pipeline.predict",
    "pipeline.report",
}
WITH_CONFIG = {"benchmarks.learning_studies.score"}
"""Besides those of data_prep and pipeline."""


def test_the_page_of_commands_is_current() -> None:
    for path, text in outputs().items():
        assert path.read_text(encoding="utf-8") == text, "run 'python -m docs.generate_commands'"


def test_every_script_is_a_command_or_a_known_exception() -> None:
    others = {name for name, is_command in scripts().items() if not is_command}
    assert others == NOT_COMMANDS


def test_only_one_file_makes_argument_parsers() -> None:
    makers = {
        str(path.relative_to(ROOT))
        for package in ("configs", "model", *generate_commands.GROUPS)
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ArgumentParser")
    }
    assert not makers, "use parser() or plain_parser() of configs/command.py"


def test_every_argument_has_a_help_text() -> None:
    missing = [
        f"{entry.module} {action.dest}"
        for entry in commands()
        for action in entry.parser._actions
        if not action.help
    ]
    assert not missing


def sample_of(action: argparse.Action) -> list[str]:
    """An option as words of a command line."""
    if action.nargs == 0:
        return [action.option_strings[-1]]
    value = (
        str(next(iter(action.choices))) if action.choices else SAMPLE_VALUES.get(action.dest, "3")
    )
    return [action.option_strings[-1], value]


@pytest.mark.parametrize("module", MODULES)
def test_overrides_are_accepted_in_any_position(module: str) -> None:
    parser = parser_of(module)
    assert isinstance(parser, command.CommandParser), "make it with configs.command"
    takes_config = {"config", "overrides"} <= {action.dest for action in parser._actions}
    usually = module.startswith(("data_prep.", "pipeline."))
    assert takes_config == ((usually and module not in WITHOUT_CONFIG) or module in WITH_CONFIG)
    if not takes_config:
        return
    options = [a for a in parser._actions if a.option_strings and a.dest != "help"]
    verbs = [list(a.choices or ())[:1] for a in parser._actions if a.dest == "verb"]
    pieces = [*verbs, ["CONFIG.yaml"], *map(sample_of, options)]
    expected = parser.parse_args([*chain.from_iterable(pieces), "a.b=-1", "c=x"])
    assert expected.overrides == ["a.b=-1", "c=x"]
    for first in range(len(pieces) + 1):
        for second in range(first, len(pieces) + 1):
            words = [*pieces[:first], ["a.b=-1"], *pieces[first:second], ["c=x"], *pieces[second:]]
            assert parser.parse_args(list(chain.from_iterable(words))) == expected, words

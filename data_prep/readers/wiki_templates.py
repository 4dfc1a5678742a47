"""What is kept of a template: of those in wiki_templates.toml a parameter, of others nothing."""

import re
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

NOWIKI_EQUALS = "\3"
"""Stands for an ``=`` that is no mark between the name of a parameter and its value."""

_FILE = Path(__file__).with_name("wiki_templates.toml")
_LANG = re.compile(r"lang-[a-z]{2,3}(?:-[a-z]+)*")
_GERMAN_LANG = re.compile(r"[a-z]{2,3}S")
"""``{{enS|text}}`` in German wikis: in English, text."""
_ORDINAL = re.compile(r"(?:\d{1,4}|[IVXLCDM]{1,8})(?:er|re|ère|e|ème|nd|nde|ers|es)(?: siècle)?")
"""``{{XIXe siècle}}``, ``{{1er}}`` in French wikis: the name is the text."""
_RANGES = {"to": " to ", "and": " and ", "or": " or ", "by": " by ", "x": " × ", "×": " × "}
_RANGES |= {"-": "–", "–": "–", "+/-": " ± ", "±": " ± ", "+": " + "}
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_POWERS = {"e3": "thousand", "e6": "million", "e9": "billion", "e12": "trillion"}
_POWER = re.compile(r"(e3|e6|e9|e12)(\D.*)")
_NUMBER = re.compile(r"[-+−]?[\d.,]{1,40}(?:e[-+]?\d{1,5})?(?:[+ ]?\d{1,5}[/⁄]\d{1,5})?")
_MAX_NAME_CHARACTERS = 255
"""Of a title in MediaWiki, in bytes."""
Rule = Callable[["Parameters"], str]


class Parameters:
    """The parameters of a template, by number and name."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.parts = parts
        self.positional: list[str] = []
        self._named: dict[str, str] = {}
        for part in parts:
            name, equals, value = part.partition("=")
            if equals:
                self._named[name.strip().casefold()] = value.strip()
            else:
                self.positional.append(part)
                self._named.setdefault(str(len(self.positional)), part)

    def get(self, *names: str | int) -> str:
        """The first of these parameters that is not empty, else an empty text."""
        return next((value for name in names if (value := self._named.get(str(name), ""))), "")


def template_text(
    parts: Sequence[Sequence[str]], prefixes: frozenset[str], title: str
) -> str | None:
    """The text of a template; None if all of it is dropped.

    `parts` are the pieces of its name and of its parameters, `prefixes` the names of the template
    namespace, `title` that of the page.
    """
    name = "".join(parts[0]).strip()
    prefix, colon, rest = name.partition(":")
    if colon:
        key = prefix.strip().casefold()
        if key in _functions():
            return _FUNCTIONS[_functions()[key]](rest.strip())
        name = rest if key in prefixes else name
    name = " ".join(name.replace("_", " ").split())
    if len(name) > _MAX_NAME_CHARACTERS:
        return None
    rule = _rules().get(name.casefold())
    if rule is None and _LANG.fullmatch(name.casefold()):
        rule = _language
    elif rule is None and len(parts) > 1 and _GERMAN_LANG.fullmatch(name):
        rule = _first
    if rule is not None:
        return rule(Parameters(["".join(part) for part in parts[1:]]))
    if name.casefold() in _page_names():
        return title
    return name if _ORDINAL.fullmatch(name) else None


_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "same": lambda text: text,
    "lower": str.lower,
    "upper": str.upper,
    "lower_first": lambda text: text[:1].lower() + text[1:],
    "upper_first": lambda text: text[:1].upper() + text[1:],
}


def _first(parameters: Parameters) -> str:
    return parameters.get(1, "text", "content")


def _second(parameters: Parameters) -> str:
    return parameters.get(2, 1)


def _last(parameters: Parameters) -> str:
    """The last one; what looks like a name in it (``{{lang|en|E = mc}}``) is text."""
    text = parameters.get("text")
    if text or not parameters.parts:
        return text
    num_given = len(parameters.positional)
    return parameters.get(num_given) if num_given > 1 else parameters.parts[-1]


def _joined(parameters: Parameters) -> str:
    return " ".join(filter(None, map(str.strip, parameters.positional)))


def _concatenated(parameters: Parameters) -> str:
    return "".join(parameters.positional)


def _nihongo(parameters: Parameters) -> str:
    """English (Japanese, its transcription)."""
    others = ", ".join(filter(None, (parameters.get(2), parameters.get(3))))
    return f"{parameters.get(1)} ({others})" if others else parameters.get(1)


def _reading(parameters: Parameters) -> str:
    return f"{parameters.get(1)}（{parameters.get(2)}）"


def _language(parameters: Parameters) -> str:
    return parameters.get("1", "text", "c", "s", "t")


def _chinese(parameters: Parameters) -> str:
    return parameters.get("t", "s", "c", "text", "1")


def _fraction(parameters: Parameters) -> str:
    numbers = [number.strip() for number in parameters.positional[:3]]
    if len(numbers) == 1:
        return f"1/{numbers[0]}"
    return " ".join([*numbers[:-2], "/".join(numbers[-2:])])


def _value(parameters: Parameters) -> str:
    exponent, unit = parameters.get("e"), parameters.get("u", "ul", "up")
    power = f" × 10^{exponent}" if exponent else ""
    return f"{parameters.get(1)}{power} {unit}".rstrip()


def _century(parameters: Parameters) -> str:
    """XIXe siècle; with one parameter, text that is not broken (in Russian wikis)."""
    end = parameters.get(2)
    return f"{parameters.get(1)}{end} siècle" if end else parameters.get(1)


def _as_of(parameters: Parameters) -> str:
    """As of 30 June 2015."""
    if parameters.get("alt"):
        return parameters.get("alt")
    year, month, day = (parameters.get(number).strip() for number in (1, 2, 3))
    if month.isdecimal() and 1 <= int(month[:3]) <= 12:
        month = _MONTHS[int(month) - 1]
    words = ("as of" if parameters.get("lc") else "As of", day, month, year)
    return " ".join(filter(None, words))


def _convert(parameters: Parameters) -> str:
    """The value, or range of values, with its unit, as it was given."""
    given = [part.strip() for part in parameters.positional]
    text, place = "", 0
    while place < len(given) and _NUMBER.fullmatch(given[place]):
        value, place = given[place], place + 1
        while place + 1 < len(given) and _range_key(given[place]) in _RANGES:
            value += _RANGES[_range_key(given[place])] + given[place + 1]
            place += 2
        unit = given[place] if place < len(given) else ""
        text += f" {value} {_unit_text(unit)}"
        place += 1
        if place + 1 < len(given) and _NUMBER.fullmatch(given[place + 1]):
            break  # a number here is the precision
        if place + 1 >= len(given):
            break
    return text.strip() or " ".join(given[:2])


def _range_key(word: str) -> str:
    return word.removesuffix("(-)").casefold()


def _unit_text(unit: str) -> str:
    power = _POWER.fullmatch(unit)
    if power is not None:
        return f"{_POWERS[power.group(1)]} {_units().get(power.group(2), power.group(2))}"
    return _units().get(unit, unit)


def _quotation(parameters: Parameters) -> str:
    text = parameters.get(*_tables()["quote_parameters"])
    return f"\n{text}\n" if text else ""


def _say(text: str) -> Rule:
    return lambda parameters: text


def _after(prefix: str) -> Rule:
    return lambda parameters: f"{prefix}{parameters.get(1).strip()}".rstrip()


def _ship(kind: str) -> Rule:
    """USS Enterprise (CV-6)."""

    def text(parameters: Parameters) -> str:
        number = parameters.get(2)
        return f"{kind.upper()} {parameters.get(1)}" + (f" ({number})" if number else "")

    return text


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


@cache
def _functions() -> dict[str, str]:
    return dict(_tables()["functions"])


@cache
def _units() -> dict[str, str]:
    return dict(_tables()["units"])


@cache
def _page_names() -> frozenset[str]:
    return frozenset(_tables()["page"]["names"])


@cache
def _rules() -> dict[str, Rule]:
    """The rule of each known template, by its name in lower case."""
    tables = _tables()
    kinds: dict[str, Rule] = {
        "first": _first,
        "second": _second,
        "last": _last,
        "joined": _joined,
        "concatenated": _concatenated,
        "quote": _quotation,
        "convert": _convert,
        "nihongo": _nihongo,
        "reading": _reading,
        "chinese": _chinese,
        "fraction": _fraction,
        "value": _value,
        "century": _century,
        "as_of": _as_of,
    }
    rules = {name: rule for kind, rule in kinds.items() for name in tables[kind]}
    rules |= {name: _ship(name) for name in tables["ship"]}
    rules |= {name: _after(prefix) for name, prefix in tables["prefix"].items()}
    rules |= {name: _say(text) for name, text in tables["literal"].items()}
    return {name.casefold(): rule for name, rule in rules.items()}

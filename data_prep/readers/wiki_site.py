"""What a dump says of its wiki: the names of its namespaces, from <siteinfo>."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree.ElementTree import ParseError, fromstring

MAX_HEAD_BYTES = 1 << 20
"""How much of a dump is searched for its <siteinfo>."""
FILE, TEMPLATE, CATEGORY, MEDIA = 6, 10, 14, -2

_NAMES_FILE = Path(__file__).with_name("wiki_names.toml")
_SITE_INFO = re.compile(rb"<siteinfo>.*?</siteinfo>", re.DOTALL)
_ROOT = re.compile(rb"<mediawiki\b[^>]*")
_ROOT_LANGUAGE = re.compile(rb"\bxml:lang=[\"']([A-Za-z-]+)[\"']")
_DATABASE = re.compile(
    r"(.+?)(?:wiki|wiktionary|wikibooks|wikinews|wikiquote|wikisource|wikiversity|wikivoyage)"
)
_CANONICAL = {
    "Media": MEDIA,
    "Special": -1,
    "Talk": 1,
    "User": 2,
    "User talk": 3,
    "Project": 4,
    "Project talk": 5,
    "File": FILE,
    "File talk": 7,
    "Image": FILE,
    "Image talk": 7,
    "MediaWiki": 8,
    "MediaWiki talk": 9,
    "Template": TEMPLATE,
    "Template talk": 11,
    "Help": 12,
    "Help talk": 13,
    "Category": CATEGORY,
    "Category talk": 15,
}
_LOCALIZED = {"file": FILE, "category": CATEGORY, "template": TEMPLATE, "media": MEDIA}
_MIN_NAME_CHARACTERS = 4
"""Of a name in ASCII of some language, where the language of the wiki is not known."""


@dataclass(frozen=True)
class WikiSite:
    """The namespaces of one wiki."""

    numbers: Mapping[str, int]
    """Number of a namespace by each of its names, in the form of `_key`."""
    template_names: frozenset[str]
    """Names of the template namespace in that form."""

    def namespace_of(self, title: str) -> int:
        """The number of the namespace that the title of a page or a link states, else 0."""
        name, colon, _ = title.partition(":")
        return self.numbers.get(_key(name), 0) if colon else 0


def is_language(prefix: str) -> bool:
    """Whether a link with this prefix leads to the same article in another language."""
    return _key(prefix) in _names_of_languages()[0]


def is_redirect_word(word: str) -> bool:
    """Whether ``#word`` starts a redirect in some language."""
    return word.casefold() in _names_of_languages()[1]


def site_of(head: bytes) -> WikiSite:
    """The namespaces that the start of a dump states.

    The English names are always known. Aliases are not in dumps: they come from wiki_names.toml,
    for the language that the dump states or that has its name of the file namespace. Without a
    <siteinfo>, the names of all languages are known.
    """
    head = head[:MAX_HEAD_BYTES].partition(b"<page>")[0]
    found = _SITE_INFO.search(head)
    try:
        # Names of elements without their XML namespace, which is declared outside.
        info = fromstring(found.group()) if found else None
    except (ParseError, ValueError):
        info = None
    stated: dict[str, int] = {}
    languages: set[str] = set()
    if info is not None:
        for element in info.iter("namespace"):
            key = element.get("key", "")
            if element.text and key.lstrip("-").isdecimal():
                stated[_key(element.text)] = int(key)
        database = _DATABASE.match(info.findtext("dbname") or "")
        languages |= {database.group(1).replace("_", "-")} if database else set()
    root = _ROOT.search(head)
    language = _ROOT_LANGUAGE.search(root.group()) if root else None
    languages |= {language.group(1).decode().lower()} if language else set()
    numbers = {_key(name): number for name, number in _CANONICAL.items()}
    numbers |= dict(_aliases(languages, stated if info is not None else None))
    numbers |= stated
    templates = frozenset(name for name, number in numbers.items() if number == TEMPLATE)
    return WikiSite(numbers, templates)


def _aliases(languages: set[str], stated: Mapping[str, int] | None) -> Iterator[tuple[str, int]]:
    tables = _names_by_language()
    if stated is None and not languages:
        for kind, number in _LOCALIZED.items():
            for names in tables[kind].values():
                yield from (
                    (_key(name), number)
                    for name in names
                    if len(name) >= _MIN_NAME_CHARACTERS or not name.isascii()
                )
        return
    local = {name for name, number in (stated or {}).items() if number == FILE}
    known = {
        language
        for language, names in tables["file"].items()
        if local & {_key(name) for name in names}
        or any(language == given or language.startswith(f"{given}-") for given in languages)
    }
    for kind, number in _LOCALIZED.items():
        for language in sorted(known | languages):
            yield from ((_key(name), number) for name in tables[kind].get(language, ()))


def _key(name: str) -> str:
    """A name as names are compared: without case, underscores, spaces at its ends."""
    return " ".join(name.replace("_", " ").split()).casefold()


@cache
def _names_by_language() -> Mapping[str, Mapping[str, list[str]]]:
    tables = tomllib.loads(_NAMES_FILE.read_text(encoding="utf-8"))
    return {kind: tables[kind] for kind in _LOCALIZED}


@cache
def _names_of_languages() -> tuple[frozenset[str], frozenset[str]]:
    """(codes of languages, words of redirects)."""
    tables = tomllib.loads(_NAMES_FILE.read_text(encoding="utf-8"))
    return frozenset(tables["interlanguage"]), frozenset(tables["redirect"])

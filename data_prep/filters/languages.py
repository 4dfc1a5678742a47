"""What the filters know of each language: see languages.toml. To add a language, add a table there.

The keys are the codes that the detector knows (`data_prep.filters.language`).
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator

_FILE = Path(__file__).with_name("languages.toml")
UNKNOWN = "unknown"
"""Instead of a code."""


class LanguageLimits(NamedTuple):
    """The limits of a language."""

    stop_words: tuple[str, ...]
    """Frequent words; any running text of the language has at least two of them."""
    min_mean_word_characters: float
    max_mean_word_characters: float
    min_alphabetic_share: float


_OF_UNKNOWN = LanguageLimits((), 1, 15, 0.7)


@cache
def known_languages() -> dict[str, LanguageLimits]:
    """The limits by two-letter code."""
    tables = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {
        code: LanguageLimits(
            stop_words=tuple(table["words"].split()),
            min_mean_word_characters=table["mean_characters"][0],
            max_mean_word_characters=table["mean_characters"][1],
            min_alphabetic_share=table["letter_share"],
        )
        for code, table in tables.items()
    }


def limits_of(code: str) -> LanguageLimits:
    """The limits of a language; wide ones, and no stop words, for a code that is not known."""
    return known_languages().get(code, _OF_UNKNOWN)


def checked_code(code: str) -> str:
    """`code`, if the detector knows it. ValueError with all codes if not."""
    if code not in known_languages():
        known = ", ".join(known_languages())
        raise ValueError(f"no language {code!r} is known; the two-letter codes are {known}")
    return code


def _stop_words(value: Any) -> Any:
    """The stop words of a language that is given by its code."""
    return limits_of(checked_code(value)).stop_words if isinstance(value, str) else value


StopWords = Annotated[
    tuple[str, ...], BeforeValidator(_stop_words, json_schema_input_type=str | tuple[str, ...])
]
"""Stop words, given as a list or by the code of a language."""
LanguageCode = Annotated[str, AfterValidator(checked_code)]
"""A two-letter code."""

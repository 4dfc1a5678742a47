"""What the filters know of each language. To add a language, add an entry."""

from typing import Annotated, Any

from pydantic import BeforeValidator

STOP_WORDS: dict[str, tuple[str, ...]] = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
}
"""Frequent words by two-letter code; any running text of the language has at least two of them.
English: Gopher (Rae et al. 2021, "Scaling Language Models", section A.1.1)."""


def _stop_words(value: Any) -> Any:
    """The stop words of a language that is given by its code."""
    if not isinstance(value, str):
        return value
    if value not in STOP_WORDS:
        known = ", ".join(STOP_WORDS)
        raise ValueError(
            f"no stop words of {value!r} are known, only of {known}; give a list of words"
        )
    return STOP_WORDS[value]


StopWords = Annotated[
    tuple[str, ...], BeforeValidator(_stop_words, json_schema_input_type=str | tuple[str, ...])
]
"""Stop words, given as a list or by the code of a language."""

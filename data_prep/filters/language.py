"""The language of a text, by the offline model in resiliparse (profiles of 101 Wikipedias)."""

import numpy as np
from pydantic import Field

from configs.load import Config
from data_prep.filters.verdicts import Verdicts
from data_prep.text.batch import TextBatch


class LanguageConfig(Config):
    """Languages to keep."""

    keep: tuple[str, ...] = Field(min_length=1)
    """Two-letter codes, such as en."""
    max_distance: int = Field(default=1200, ge=0)
    """Distance from a language's profile above which the language of a text is unknown, and the
    text is dropped; clean text is under 800."""
    read_bytes: int = Field(default=4000, ge=100)
    """The language is detected in this many bytes from the middle of a text."""


def drop_other_languages(batch: TextBatch, limits: LanguageConfig, verdicts: Verdicts) -> None:
    """Drops the texts in languages that are not to be kept, under the code of the language."""
    for number in np.flatnonzero(verdicts.undecided).tolist():
        language = language_of(batch.texts[number], limits)
        if language not in limits.keep:
            verdicts.reasons[number] = f"language {language}"


def language_of(text: bytes, limits: LanguageConfig) -> str:
    """The code of a text's language, or "unknown"."""
    from resiliparse.parse.lang import detect_fast

    start = max(0, (len(text) - limits.read_bytes) // 2)
    window = text[start : start + limits.read_bytes].decode("utf-8", "ignore")
    code, _ = detect_fast(window, cutoff=limits.max_distance)
    return str(code)

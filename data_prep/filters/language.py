"""The language of a text, by the offline model in resiliparse (profiles of 101 Wikipedias)."""

from pydantic import Field

from configs.load import Config


class LanguageConfig(Config):
    """Languages to keep."""

    keep: tuple[str, ...] = Field(min_length=1)
    """Two-letter codes, such as en."""
    max_distance: int = Field(default=1200, ge=0)
    """Distance from a language's profile above which a text is of unknown language, and dropped;
    clean text is under 800."""
    read_bytes: int = Field(default=4000, ge=100)
    """The language is told from this much of a text's middle, bytes."""


def other_language(text: bytes, config: LanguageConfig) -> str | None:
    """The code of the text's language if it is none of those to keep, else None."""
    from resiliparse.parse.lang import detect_fast

    begin = max(0, (len(text) - config.read_bytes) // 2)
    window = text[begin : begin + config.read_bytes].decode("utf-8", "ignore")
    code, _ = detect_fast(window, cutoff=config.max_distance)  # "unknown" beyond it
    return None if code in config.keep else str(code)

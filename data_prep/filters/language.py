"""The language of a text, by its script or the offline model in resiliparse (profiles of 101
Wikipedias)."""

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt
from pydantic import Field

from configs.load import Config
from data_prep.filters.languages import UNKNOWN, LanguageCode, limits_of
from data_prep.text.batch import TextBatch


class LanguageConfig(Config):
    """Languages to keep."""

    keep: tuple[LanguageCode, ...] = Field(min_length=1)
    """Two-letter codes, such as en."""
    max_distance: int = Field(default=1200, ge=0)
    """Distance from a language's profile above which the language of a text is unknown, and the
    text is dropped; clean text is under 800."""
    read_bytes: int = Field(default=4000, ge=100)
    """The language is detected in this many bytes from the middle of a text."""


DETECTION = LanguageConfig(keep=("en",))
"""How languages are detected where none is filtered."""


def detected_languages(
    batch: TextBatch, texts: Iterable[int], limits: LanguageConfig
) -> dict[int, str]:
    """The code of the language of each of the `texts` of a batch, or "unknown", by its number."""
    return {number: language_of(batch.texts[number], limits) for number in texts}


def language_of(text: bytes, limits: LanguageConfig) -> str:
    """The code of a text's language, or "unknown".

    A script that only one of the languages has decides, which is surer than the model where
    names or code in ASCII stand between (Japanese was taken for one of ten European languages).
    """
    from resiliparse.parse.lang import detect_fast

    start = max(0, (len(text) - limits.read_bytes) // 2)
    window = text[start : start + limits.read_bytes]
    decoded = window.decode("utf-8", "ignore")
    if 2 * (len(window) - len(decoded)) >= _LEAST_SHARE * len(window):
        by_script = _language_of_script(decoded, len(window))
        if by_script is not None:
            return by_script
    found = detect_fast(decoded, cutoff=limits.max_distance, n_results=_CANDIDATES)
    found = [found] if isinstance(found, tuple) else found
    if not found:
        return UNKNOWN
    close = [code for code, distance in found if distance <= _CLOSE * found[0][1]]
    if len(close) == 1:
        return str(close[0])
    words = set(decoded.lower().split())
    return max(close, key=lambda code: len(words & _stop_words(code)))  # of equal ones, the first


@cache
def _stop_words(code: str) -> frozenset[str]:
    return frozenset(limits_of(code).stop_words)


_CANDIDATES, _CLOSE = 4, 1.08
"""Languages whose distances differ by less than the factor are distinguished by their frequent
words: the model takes short technical English for Swedish."""
_LEAST_SHARE = 1 / 3
"""Of the bytes of a text, to be called one in a script."""
_HAN, _KANA = "zh", "ja"
_SCRIPTS = {
    _HAN: ((0x3400, 0x9FFF), (0xF900, 0xFAFF)),
    _KANA: ((0x3040, 0x30FF),),
    "ko": ((0x1100, 0x11FF), (0xAC00, 0xD7FF)),
    "th": ((0x0E00, 0x0E7F),),
    "km": ((0x1780, 0x17FF),),
    "my": ((0x1000, 0x107F),),
    "bo": ((0x0F00, 0x0FFF),),
    "el": ((0x0380, 0x03FF),),
    "hy": ((0x0500, 0x057F),),
    "ka": ((0x1080, 0x10FF),),
    "pa": ((0x0A00, 0x0A7F),),
    "gu": ((0x0A80, 0x0AFF),),
    "or": ((0x0B00, 0x0B7F),),
    "ta": ((0x0B80, 0x0BFF),),
    "te": ((0x0C00, 0x0C7F),),
    "kn": ((0x0C80, 0x0CFF),),
    "ml": ((0x0D00, 0x0D7F),),
    "si": ((0x0D80, 0x0DFF),),
    "dv": ((0x0780, 0x07BF),),
}
"""The blocks of the scripts of single languages."""
_CODES = tuple(_SCRIPTS)
_BLOCK_BITS = 6


def _blocks() -> npt.NDArray[np.int64]:
    """For each block of 64 code points, the number of its script's language."""
    blocks = np.full(1 << (16 - _BLOCK_BITS), len(_CODES), dtype=np.int64)
    for number, ranges in enumerate(_SCRIPTS.values()):
        for first, last in ranges:
            blocks[first >> _BLOCK_BITS : (last >> _BLOCK_BITS) + 1] = number
    return blocks


_BLOCKS = _blocks()
_BYTES = np.array([2 if code in ("el", "hy", "dv") else 3 for code in _CODES])
"""Of a character of each script."""


def _language_of_script(text: str, num_bytes: int) -> str | None:
    """The language whose script makes up enough of the text, if there is one."""
    units = np.frombuffer(text.encode("utf-16-le", "ignore"), dtype="<u2")
    counts = np.bincount(_BLOCKS[units >> _BLOCK_BITS], minlength=len(_CODES) + 1)[:-1]
    bytes_of = counts * _BYTES
    han, kana = bytes_of[_CODES.index(_HAN)], bytes_of[_CODES.index(_KANA)]
    if kana * 10 >= han + kana:
        bytes_of[_CODES.index(_KANA)] += han
        bytes_of[_CODES.index(_HAN)] = 0
    most = int(bytes_of.argmax())
    return _CODES[most] if bytes_of[most] >= _LEAST_SHARE * num_bytes else None

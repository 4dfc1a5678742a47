"""Names the encoding that a text which is not UTF-8 is likely in."""

import codecs
import re

SAMPLE_BYTES = 1 << 14
"""How much of a text is looked at."""
_SURROGATES = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_WIDE_SHARE = 0.5
NOT_VALID = "\udcff".encode("utf-8", "surrogatepass")
"""What transcoding to UTF-8 makes of bytes that are not valid in the encoding of a file."""
_FEWEST_BYTES = 4
"""Bytes beyond ASCII below which a guess is worth nothing."""


def why_not_utf_8(content: bytes) -> str:
    """The reason under which a record that is not UTF-8 is counted."""
    return "bytes that do not fit the encoding" if NOT_VALID in content else "not UTF-8"


def likely_encoding(content: bytes) -> str | None:
    """The encoding that a sample of `content` is likely in; None if it may be damaged UTF-8, or is
    too short to tell."""
    sample = content[:SAMPLE_BYTES]
    if (wide := _wide_encoding(sample)) is not None:
        return wide
    num_beyond = len(sample) - len(sample.translate(None, bytes(range(128, 256))))
    if num_beyond < _FEWEST_BYTES:
        return None
    if _SURROGATES.search(sample):  # of programs that encode UTF-16's halves one by one
        return None
    # Damaged UTF-8 has many whole characters; texts in other encodings have hardly any.
    if len(sample.decode("utf-8", "ignore").encode()) > len(sample) - num_beyond / 2:
        return None
    from resiliparse.parse.encoding import detect_encoding

    try:
        name = codecs.lookup(detect_encoding(sample) or "").name
        sample.decode(name)
    except (LookupError, UnicodeDecodeError):
        return None
    return None if name in ("utf-8", "ascii") else name


def _wide_encoding(sample: bytes) -> str | None:
    """UTF-16 or UTF-32, shown by the zeros in its ASCII characters. A line of it may start in the
    middle of a character, so that the order of its bytes is not known."""
    if len(sample) < 2 * _FEWEST_BYTES or not sample.count(0):
        return None
    zeros = [sample[first::4].count(0) / len(sample[first::4]) for first in range(4)]
    are_zeros = [share > _WIDE_SHARE for share in zeros]
    if sum(are_zeros) == 3:
        return "utf-32"
    return "utf-16" if are_zeros in ([True, False, True, False], [False, True] * 2) else None

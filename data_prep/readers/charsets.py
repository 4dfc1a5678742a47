"""The text of web pages and plain text in any character encoding.

An encoding is stated by a byte order mark, the HTTP header, a <meta> element or an XML declaration,
in this order (WHATWG); it counts if the bytes can be decoded by it. Else it is detected.
"""

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache

_META_BYTES = 1 << 13
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_META = re.compile(rb"<meta[\s/]([^>]{0,2000})", re.IGNORECASE)
_META_CHARSET = re.compile(
    rb"""(?:^|[\s/])charset\s*=\s*["']?\s*([^\s"'/>;]{1,40})""", re.IGNORECASE
)
_CONTENT_TYPE = re.compile(rb"""http-equiv\s*=\s*["']?\s*content-type""", re.IGNORECASE)
_CONTENT_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([^\s"'/>;]{1,40})""", re.IGNORECASE)
_XML = re.compile(
    rb"""\s{0,64}<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([^"']{1,40})""", re.IGNORECASE
)
_SEVEN_BIT = re.compile(rb"\x1b\$[B@(]")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SUPERSETS: dict[str, tuple[str, ...]] = {
    "ascii": ("cp1252",),
    "iso8859-1": ("cp1252",),
    "iso8859-9": ("cp1254",),
    "iso8859-11": ("cp874",),
    "tis-620": ("cp874",),
    "euc_kr": ("cp949",),
    "gb2312": ("gb18030",),
    "gbk": ("gb18030",),
    "shift_jis": ("cp932", "shift_jis_2004"),
    "big5": ("big5hkscs", "cp950"),
    "euc_jp": ("euc_jp", "euc_jis_2004"),
    "iso2022_jp": ("iso2022_jp_2", "iso2022_jp_2004", "iso2022_jp_ext"),
}
"""What browsers decode an encoding as, by Python's names: an encoding that holds it, or several, of
which the first that fits is taken."""
_MORE_NAMES = {
    "x-mac-cyrillic": "mac_cyrillic",
    "x-user-defined": "cp1252",
    "iso-8859-8-i": "iso8859-8",
}
_NOT_OF_TEXTS = ("utf-7", "idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape")
_MAX_ERRORS = 0.1
"""Share of the bytes beyond ASCII that may not fit the stated encoding."""


def decode(content: bytes, charset: str | None = None, is_markup: bool = False) -> str:
    """`content` as text; `charset` is the encoding that a header states.

    Bytes that do not fit the encoding are left out.
    """
    best = None
    for stated in _stated_encodings(content, charset, is_markup):
        text, share = _decoded(content, stated)
        if share == 0:
            return text
        if share <= _MAX_ERRORS and best is None:
            best = text
    if best is not None:
        return best
    from resiliparse.parse.encoding import detect_encoding

    text, _ = _decoded(content, encoding_named(detect_encoding(content) or "") or "utf-8")
    return text


@lru_cache(maxsize=512)
def encoding_named(label: str) -> str | None:
    """Python's name of the encoding that a page calls `label`; None if there is none."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    label = label.strip(" \t\r\n\"'").lower()
    if not label.isascii() or "\0" in label:
        return None
    name = _MORE_NAMES.get(label) or map_encoding_to_html5(label, False) or label
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    is_text = getattr(found, "_is_text_encoding", True) and found.name not in _NOT_OF_TEXTS
    return found.name if is_text else None


def _stated_encodings(content: bytes, charset: str | None, is_markup: bool) -> Iterator[str]:
    """The encodings that `content` may have, most likely first."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            yield name
    if b"\x1b" in content and _SEVEN_BIT.search(content):
        yield "iso2022_jp"  # valid UTF-8 too, as all its bytes are ASCII
    labels = [charset] if charset else []
    if is_markup:
        labels += _labels_in(content)
    stated = [name for name in map(encoding_named, labels) if name is not None]
    if stated and not stated[0].startswith("utf-16"):
        # Servers state Latin-1 by default; what is valid UTF-8 is hardly anything else.
        yield from ["utf-8", *stated] if stated[0] in ("iso8859-1", "cp1252", "ascii") else stated
        return
    if (wide := _wide_encoding(content)) is not None:
        yield wide
    yield from stated
    yield "utf-8"


def _labels_in(content: bytes) -> list[str]:
    """The encodings that markup names."""
    labels = []
    start = _COMMENT.sub(b"", content[:_META_BYTES])
    for meta in _META.finditer(start):
        is_type = _CONTENT_TYPE.search(meta[1]) is not None
        found = (_CONTENT_CHARSET if is_type else _META_CHARSET).search(meta[1])
        if found:
            labels.append(found[1].decode("latin-1"))
    if xml := _XML.match(start):
        labels.append(xml[1].decode("latin-1"))
    # What can be read as ASCII is not UTF-16, whatever it says.
    return ["utf-8" if label.lower().startswith("utf-16") else label for label in labels]


def _wide_encoding(content: bytes) -> str | None:
    """UTF-16 without a byte order mark, recognised by the zeros of its ASCII characters."""
    start = content[:1024]
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if start[first::2].count(0) > 0.4 * len(start[first::2]) and not start[
            1 - first :: 2
        ].count(0):
            return name
    return None


def _decoded(content: bytes, name: str) -> tuple[str, float]:
    """(`content` in an encoding, share of the bytes beyond ASCII that do not fit it)."""
    names = _SUPERSETS.get(name, (name,))
    for fitting in names:
        try:
            return content.decode(fitting).removeprefix("\ufeff"), 0.0
        except UnicodeDecodeError:
            continue
    text = content.decode(names[0], "replace")
    num_errors = text.count("\ufffd")
    num_beyond = len(content) - len(content.translate(None, bytes(range(128, 256))))
    share = num_errors / max(num_beyond, 1)
    return text.replace("\ufffd", "").removeprefix("\ufeff"), max(share, 1e-9)

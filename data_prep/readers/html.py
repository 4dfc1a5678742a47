"""The text of HTML pages, extracted by resiliparse, and of bytes in any encoding."""

import re

_NESTING_TAGS = re.compile(rb"<(/?)(?:div|article|ul|ol)\b")
_MAX_NESTING = 1000


class NestedTooDeeplyError(ValueError):
    """The elements of a page are nested too deeply."""


def text_of_html(content: bytes, charset: str | None = None, main_content: bool = True) -> str:
    """The readable text of an HTML page; `charset` is the encoding that its headers state.

    With `main_content`, without navigation, headers and footers. Raises NestedTooDeeplyError for a
    page whose text would take too long to extract.
    """
    from resiliparse.extract.html2text import extract_plain_text

    if _is_nested_too_deeply(content):
        raise NestedTooDeeplyError
    return str(extract_plain_text(decode(content, charset), main_content=main_content))


def decode(content: bytes, charset: str | None) -> str:
    """`content` as text: in the stated encoding if there is one of that name, else in the detected
    one."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    stated = charset and "\0" not in charset and map_encoding_to_html5(charset, False)
    encoding = stated or detect_encoding(content) or "utf-8"
    return str(bytes_to_str(content, encoding, errors="ignore"))


def _is_nested_too_deeply(content: bytes) -> bool:
    """Whether elements are nested more deeply than in any page that people read (browsers stop at
    512): the time of extraction, or the length of its result, grows with the square of the depth of
    these elements."""
    lowered = content.lower()
    if sum(map(lowered.count, (b"<div", b"<article", b"<ul", b"<ol"))) <= _MAX_NESTING:
        return False
    depth = deepest = 0
    for tag in _NESTING_TAGS.finditer(lowered):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest > _MAX_NESTING

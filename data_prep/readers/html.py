"""The text of HTML pages, extracted by resiliparse."""

import re

from data_prep.readers.charsets import decode

_NESTING_TAGS = re.compile(rb"<(/?)(?:div|article|ul|ol)\b")
_MAX_NESTING = 1000
_START_BYTES = 1 << 11
_HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|<!--.{0,1000}?-->|<\?xml[^>]{0,200}\?>)*<"
    rb"(?:!doctype\s+html|html|head|script|iframe|h1|div|font|table|a|style|title|body|br|meta|p|b)"
    rb"[\s/>]",
    re.IGNORECASE | re.DOTALL,
)


class NestedTooDeeplyError(ValueError):
    """The elements of a page are nested too deeply."""


def looks_like_html(content: bytes) -> bool:
    """Whether `content` starts as HTML pages do (WHATWG, MIME Sniffing)."""
    return _HTML_START.match(content[:_START_BYTES]) is not None


def text_of_html(content: bytes, charset: str | None = None, main_content: bool = True) -> str:
    """The readable text of an HTML page; `charset` is the encoding that its headers state.

    With `main_content`, without navigation, headers and footers. Raises NestedTooDeeplyError for a
    page whose text would take too long to extract.
    """
    from resiliparse.extract.html2text import extract_plain_text

    text = decode(content, charset, is_markup=True)
    # In UTF-16 the bytes of a tag are not those of ASCII.
    if _is_nested_too_deeply(text.encode("utf-8", "ignore") if b"\0" in content else content):
        raise NestedTooDeeplyError
    return str(extract_plain_text(text, main_content=main_content))


def _is_nested_too_deeply(content: bytes) -> bool:
    """Whether elements are nested more deeply than in any page that people read (browsers stop at
    512): the time of extraction, or the length of its result, grows with the square of the depth of
    these elements."""
    if content.count(b"<") <= _MAX_NESTING:
        return False
    lowered = content.lower()
    if sum(map(lowered.count, (b"<div", b"<article", b"<ul", b"<ol"))) <= _MAX_NESTING:
        return False
    depth = deepest = 0
    for tag in _NESTING_TAGS.finditer(lowered):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest > _MAX_NESTING

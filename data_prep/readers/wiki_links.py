"""The text of links, and of texts that a wiki has in several variants of its language."""

import re
from collections.abc import Sequence

from data_prep.readers.wiki_lines import DROPPED
from data_prep.readers.wiki_site import CATEGORY, FILE, MEDIA, WikiSite, is_language

_WITHOUT_TEXT = frozenset((FILE, CATEGORY, MEDIA))
_QUALIFIER = re.compile(r"\s*[(（][^()（）]*[)）]\Z")
_FLAGS_WITHOUT_TEXT = frozenset("HTD-")
_VARIANT = re.compile(r"\s*([a-z]{2,4})((?:-[a-z]{2,8})*)\s*:")
_MAX_SCHEME_CHARACTERS = 12
_PREFERRED = ("zh-hans", "zh-cn", "zh")
Parts = Sequence[Sequence[str]]


def link_text(parts: Parts, site: WikiSite) -> str | None:
    """The text of ``[[target|label]]``, of which `parts` are the pieces of each; DROPPED for files,
    categories and the same article in another language; None if it is no link."""
    target = "".join(parts[0]).strip()
    label = "|".join(["".join(part) for part in parts[1:]])
    if not target or "\n" in target:
        return None
    if "://" in target[:_MAX_SCHEME_CHARACTERS]:
        return external_link_text(target)
    if target.startswith(":"):  # a link to what without the colon would be an image, for example
        target = target.lstrip(":").strip()
    else:
        if site.namespace_of(target) in _WITHOUT_TEXT:
            return DROPPED
        prefix, colon, _ = target.partition(":")
        is_elsewhere = bool(colon) and prefix.islower() and is_language(prefix)
        if is_elsewhere and not label and site.namespace_of(target) == 0:
            return DROPPED
    if len(parts) == 1:
        return target
    if label.strip():
        return label
    return _QUALIFIER.sub("", target.rpartition(":")[2][-300:])


def external_link_text(content: str) -> str:
    """The text of ``[URL text]``, of which `content` is in the brackets."""
    words = content.split(None, 1)
    return words[1] if len(words) > 1 else DROPPED


def variant_text(parts: Parts) -> str:
    """The text of ``-{flags|zh-hans:text; zh-hant:text}-``: in the variant that is preferred, else
    in the first one."""
    flags = "".join(parts[0]).strip() if len(parts) > 1 else ""
    content = "|".join(["".join(part) for part in parts[min(1, len(parts) - 1) :]])
    if len(flags) <= 3 and _FLAGS_WITHOUT_TEXT & set(flags.upper()):
        return ""
    found = _VARIANT.match(content)
    if flags.upper() == "R" or found is None or not is_language(found.group(1)):
        return content
    texts: dict[str, list[str]] = {}
    code = ""
    for piece in content.split(";"):
        variant = _VARIANT.match(piece)
        if variant is not None:
            code = variant.group(1) + variant.group(2)
            texts.setdefault(code, []).append(piece[variant.end() :].strip())
        elif piece.strip():
            texts[code].append(piece)
    code = next((code for code in _PREFERRED if code in texts), next(iter(texts)))
    return ";".join(texts[code])

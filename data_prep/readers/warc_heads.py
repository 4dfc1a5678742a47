r"""How the records of WARC and ARC files start: their type, length and address.

WARC (ISO 28500, version 0.17 to 1.1) has named fields; the older ARC (versions 1 and 2) has a line
of fields that spaces separate::

    URL IP-address Archive-date Content-type Archive-length
    URL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename \
        Archive-length
"""

import re
from typing import NamedTuple

from data_prep.readers.warc_window import Window

HEAD_WITHOUT_END = "the head has no end"
_MAX_HEAD_BYTES = 1 << 16
_MANDATORY_FIELDS = ("warc-type", "warc-record-id", "warc-date", "content-length")
_WARC_START = re.compile(rb"WARC/\d{1,3}\.\d{1,3}[ \t]*\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FOLDED = re.compile(r"\r?\n[ \t]+")
_ARC_FIELDS = (
    rb"([a-z][a-z0-9+.-]{1,30}:\S[^\r\n]{0,8000}?)[ \t]"  # URL; real ones hold spaces
    rb"([0-9a-f.:]{2,45}|-)[ \t](\d{8,20})[ \t]([^\r\n ]{0,200})[ \t]+"
)
_ARC_START = re.compile(
    rb"(?m:^)"
    + _ARC_FIELDS
    + rb"(?:(\d{3}|-|0)[ \t]\S+[ \t]\S+[ \t]\d+[ \t]\S+[ \t])?(\d{1,15})[ \t]*\r?\n",
    re.IGNORECASE,
)


class Head(NamedTuple):
    """The head of a record."""

    num_bytes: int
    content_bytes: int
    """Length of the content, which follows the head."""
    fields: dict[str, str]
    """By name, in lower case."""


class WarcFormat:
    """WARC."""

    damaged, truncated = "damaged WARC record", "truncated record"
    start = _WARC_START
    """A record starts where this matches."""
    start_bytes = 16
    """Most bytes that it looks at."""
    content_start = re.compile(rb"WARC/")
    """The content of a compressed stream starts so if it starts with a record."""
    after_content = re.compile(rb"\r\n\r\n|[\r\n\t ]{0,40}(?:WARC/|\0)")
    """What may follow the content of a record, besides the end of the file."""
    after_bytes = 64
    """Most bytes that it looks at."""

    def is_cut_start(self, rest: bytes) -> bool:
        """Whether the last bytes of a file are the beginning of the start of a record."""
        return 0 < len(rest) < self.start_bytes and rest[:5] == b"WARC/"[: len(rest)]

    def head(self, window: Window) -> Head | str:
        """The head of the record at the start of `window`, or what is wrong with it."""
        end = _head_end(window)
        if end is None:
            return HEAD_WITHOUT_END
        if _WARC_START.search(window.data, window.at + 1, end):
            return "another record starts within the head"
        text = window.data[window.at : end].decode("utf-8", "replace")
        if "\0" in text:
            return "a NUL byte in the head"
        if "\n " in text or "\n\t" in text:
            text = _FOLDED.sub(" ", text)
        fields: dict[str, str] = {}
        for line in text.split("\n"):
            name, colon, value = line.partition(":")
            name = name.strip().lower()
            if name in fields and name in _MANDATORY_FIELDS:  # the heads of two records
                return f"{name} twice"
            if colon:
                fields.setdefault(name, value.strip())
        missing = [name for name in _MANDATORY_FIELDS if name not in fields]
        if missing:
            return f"no {', '.join(missing)}"
        length = fields["content-length"]
        if not re.fullmatch(r"[0-9]{1,18}", length):
            return f"Content-Length is {length!r}"
        return Head(end - window.at, int(length), fields)


class ArcFormat:
    """ARC."""

    damaged, truncated = "damaged ARC record", "truncated record"
    start = _ARC_START
    start_bytes = 1 << 14
    content_start = _ARC_START
    after_content = re.compile(rb"[\r\n\t ]{0,40}(?:" + _ARC_FIELDS + rb"|\0)", re.IGNORECASE)
    after_bytes = 1 << 14

    def is_cut_start(self, rest: bytes) -> bool:
        """See `WarcFormat`."""
        return 0 < len(rest) < self.start_bytes and b"\n" not in rest

    def head(self, window: Window) -> Head | str:
        """See `WarcFormat`."""
        window.fill(self.start_bytes)
        found = _ARC_START.match(window.data, window.at)
        if found is None:
            return "not a line of URL, address, date, type and length"
        url, _, _, content_type, _, length = found.groups()
        fields = {
            "warc-type": "arc header" if url.lower().startswith(b"filedesc:") else "response",
            "warc-target-uri": url.decode("utf-8", "replace"),
            "content-type": content_type.decode("latin-1"),
        }
        return Head(found.end() - found.start(), int(length), fields)


RecordFormat = WarcFormat | ArcFormat


def format_of(content_head: bytes, name: str) -> RecordFormat:
    """The format of a file whose content starts with `content_head`."""
    if _ARC_START.match(content_head.lstrip()):
        return ArcFormat()
    if _WARC_START.search(content_head) or ".arc" not in name.lower():
        return WarcFormat()
    return ArcFormat()


def _head_end(window: Window) -> int | None:
    """Position in `data` of the end of a head, with the empty line."""
    wanted = 1 << 10
    while True:
        is_all = not window.fill(wanted)
        found = _HEAD_END.search(window.data, window.at, window.at + _MAX_HEAD_BYTES)
        if found:
            return found.end()
        if is_all or wanted >= _MAX_HEAD_BYTES:
            return None
        wanted *= 4

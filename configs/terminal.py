"""Text for a terminal: what a name could do to it is shown instead of done.

A file may have any name. Printed as it is, an escape sequence in it moves the cursor, changes the
title or hides text; a mark of text direction reorders what follows.
"""

import re

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_CONTROLS}]")
_IN_NAME = re.compile(f"[\t\n{_CONTROLS}]")


def visible(text: str) -> str:
    """`text` with an escape for each control character but tab and newline.

    Halves of surrogate pairs are escaped too: Python has them for bytes of a file's name that are
    not UTF-8, and cannot print them.
    """
    return _IN_TEXT.sub(_escape, text)


def visible_name(name: object) -> str:
    """A file's name on one line, with an escape for each control character."""
    return _IN_NAME.sub(_escape, str(name))


def _escape(found: "re.Match[str]") -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

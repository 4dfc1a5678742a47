"""Personal data in texts: e-mail and IP addresses are replaced by placeholders."""

import re
from collections import Counter
from collections.abc import Sequence

from configs.load import Config

EMAIL_PLACEHOLDER, IP_PLACEHOLDER = b"[email]", b"[ip address]"
_EMAIL = re.compile(rb"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
_OCTET = rb"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4 = re.compile(rb"(?<![\w.])(?:" + _OCTET + rb"\.){3}" + _OCTET + rb"(?!\.?\w)")
_IPV6 = re.compile(rb"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}(?![\w:])")


class ScrubConfig(Config):
    """What is replaced by a placeholder."""

    emails: bool = False
    """E-mail addresses, by [email]."""
    ip_addresses: bool = False
    """IPv4 addresses and IPv6 addresses written in full, by [ip address]."""


def scrubbed(texts: Sequence[bytes], config: ScrubConfig, counts: Counter[str]) -> list[bytes]:
    """The texts with placeholders; adds the number of replacements to `counts`."""
    result = list(texts)
    for number, text in enumerate(result):
        if config.emails and b"@" in text:
            text, num = _EMAIL.subn(EMAIL_PLACEHOLDER, text)
            counts["emails"] += num
        if config.ip_addresses:
            text, num_v4 = _IPV4.subn(IP_PLACEHOLDER, text)
            text, num_v6 = _IPV6.subn(IP_PLACEHOLDER, text)
            counts["ip addresses"] += num_v4 + num_v6
        result[number] = text
    return result

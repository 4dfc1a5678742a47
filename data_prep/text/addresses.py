"""IP addresses in texts, distinguished from version and section numbers, which look the same.

Four numbers up to 255 with dots are an address if the words around them say so, and not if these
speak of a version. Without such words, they are one if a number is greater than those of versions
usually are, or if they are of a private network.
"""

import re
from functools import partial

from data_prep.kernels.places import IPV4, IPV6
from data_prep.text.places import Match, replaced_at_places, replaced_if

_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rb"(?<![\w.])(" + _OCTET + rb"(?:\." + _OCTET + rb"){3})(?!\w|\.\w|-\w)")
_GROUP = rb"[0-9A-Fa-f]{1,4}"
_IPV6 = re.compile(
    rb"(?<![\w:.])(?:(?:" + _GROUP + rb":){7}" + _GROUP
    # with "::" for groups of zeros; at least two groups, one of them with a digit
    + rb"|(?=[0-9A-Fa-f:]*\d)(?:" + _GROUP + rb":){1,6}(?::" + _GROUP + rb"){1,6}"
    + rb"|fe80::(?:" + _GROUP + rb":){0,3}" + _GROUP + rb")(?!\w|:\w)"
)  # fmt: skip
_MAX_GROUPS = 8
_CONTEXT_BYTES = 40
_VERSION_BEFORE = re.compile(
    rb"(?:\b(?:version|versions|ver|vers|v|release|releases|rel|build|revision|rev|update|patch|"
    rb"firmware|driver|kernel|section|sections|sec|chapter|clause|article|table|figure|fig|"
    rb"paragraph|rfc|iso|oid|since|upgrade[ds]?|upgrade[ds]? (?:from|to))\b[\s:.#=v(\"'`]{0,4}"
    rb"|[A-Za-z]/|\xc2\xa7\s?|[~^]|[<>=]=\s?)$",
    re.IGNORECASE,
)
_ADDRESS_BEFORE = re.compile(
    rb"(?:\b(?:ips?|ipv4|ip[ _-]?addr(?:ess(?:es)?)?|addr(?:ess(?:es)?)?|hosts?|hostname|"
    rb"servers?|server_name|gateway|router|subnet|netmask|mask|broadcast|dns|nameserver|resolver|"
    rb"proxy|client|peer|remote|ping(?:ed|ing)?|traceroute|ssh|telnet|listen(?:ing|s)?|bind|"
    rb"bound|connect(?:ed|ion|ions|ing)?|interface|inet|logged in|requests?|attacks?|traffic|"
    rb"network|port|visited|blocked)\b(?:[\s:=(\[\"'`]|\b(?:from|to|at|on|via|by|is|was|of|the|in)"
    rb"\b){0,8}|\w@|://|\[)$",
    re.IGNORECASE,
)
_ADDRESS_AFTER = re.compile(rb"(?::\d{1,5}\b|/(?:[89]|[12]\d|3[0-2])(?![\w./]))")
_LEAST_OF_ADDRESS = 64
_PRIVATE = re.compile(rb"(?:10|127|172\.(?:1[6-9]|2\d|3[01])|192\.168|169\.254)\.")


def replace_ip_addresses(texts: list[bytes], placeholder: bytes) -> int:
    """Puts placeholders in the `texts`; the number of addresses."""
    ipv4 = partial(replaced_if, _IPV4, _is_address, placeholder)
    ipv6 = partial(replaced_if, _IPV6, _has_groups_of_ipv6, placeholder)
    count = replaced_at_places(texts, IPV4, ipv4)
    return count + replaced_at_places(texts, IPV6, ipv6)


def _has_groups_of_ipv6(match: Match) -> bool:
    return match[0].count(b":") < _MAX_GROUPS


def _is_address(match: Match) -> bool:
    text, start, end = match.string, match.start(), match.end()
    before = text[max(start - _CONTEXT_BYTES, 0) : start]
    if _ADDRESS_AFTER.match(text, end) or _ADDRESS_BEFORE.search(before):
        return True
    if _VERSION_BEFORE.search(before):
        return False
    octets = [int(octet) for octet in match[1].split(b".")]
    if _PRIVATE.match(match[1]):
        return True
    return octets[0] > 0 and max(octets) >= _LEAST_OF_ADDRESS

"""Secrets in texts: private keys, and the tokens of services, which start with fixed letters.

The formats are those that the services publish. detect-secrets was measured: 0.12 MB per CPU second
and 1,700 findings a document in documentation, since most of its rules are about entropy.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import partial

from data_prep.kernels.places import ASSIGNMENT, TOKEN
from data_prep.text.places import Match, replaced_at_places, replaced_if, substituted

_PRIVATE_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----"
    rb"(?:(?!-----)[\s\S]){0,20000}(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----)?"
)
_TOKEN = re.compile(
    rb"(?<![A-Za-z0-9_])(?:"
    rb"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"  # AWS
    rb"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255}"  # GitHub
    rb"|glpat-[\w-]{20,64}"  # GitLab
    rb"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{10,250}"  # Slack
    rb"|AIza[\w-]{35}|ya29\.[\w-]{20,250}|GOCSPX-[\w-]{28}"  # Google
    rb"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}|whsec_[A-Za-z0-9]{32,250}"  # Stripe
    rb"|sk-(?:proj-|svcacct-|ant-api\d\d-)?[\w-]{32,250}"  # OpenAI, Anthropic
    rb"|hf_[A-Za-z0-9]{30,64}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,250}|dckr_pat_[\w-]{20,64}"
    rb"|SG\.[\w-]{16,32}\.[\w-]{32,64}"  # SendGrid
    rb"|(?:SK|AC)[0-9a-f]{32}"  # Twilio
    rb"|\d{8,10}:AA[\w-]{33}"  # Telegram
    rb"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|dop_v1_[0-9a-f]{64}"  # Shopify, DigitalOcean
    rb"|eyJ[\w-]{8,4000}\.eyJ[\w-]{8,4000}\.[\w-]{8,4000}"  # JSON web tokens
    rb")(?![A-Za-z0-9_])"
)
_ASSIGNED = re.compile(
    rb"(?i)((?:api|access|auth|secret|private|account|encryption|signing)[_-]?(?:key|token|secret)"
    rb"|password|passwd|pwd|secret|token)"
    rb"([\"']?\s{0,3}(?:[:=]|=>|:=)\s{0,3}[\"']?)"
    rb"([A-Za-z0-9+/_=!@#$%^&*~-]{12,200})"
)
_IN_URL = re.compile(rb"(://[^\s/:@\"'<>]{1,64}:)([^\s/:@\"'<>]{3,128})(?=@[\w.-])")
_MAX_NAME_BYTES = 24
"""Of what `_ASSIGNED` finds before the colon or equals sign."""
_LEAST_ENTROPY = 3.2
"""Of an assigned value, bits a character."""


def replace_secrets(texts: list[bytes], placeholder: bytes) -> int:
    """Puts placeholders in the `texts`; the number of secrets."""
    count = 0
    for number, text in enumerate(texts):
        if b"PRIVATE KEY" in text:
            texts[number], found = _PRIVATE_KEY.subn(placeholder, text)
            count += found
    of_services = partial(replaced_if, _TOKEN, lambda _: True, placeholder)
    count += replaced_at_places(texts, TOKEN, of_services)
    for number, text in enumerate(texts):
        if b"://" in text and b"@" in text:
            texts[number], found = _IN_URL.subn(rb"\1" + placeholder, text)
            count += found
    assigned = partial(_assigned_replaced, placeholder)
    return count + replaced_at_places(texts, ASSIGNMENT, assigned)


def _assigned_replaced(placeholder: bytes, text: bytes, signs: Iterable[int]) -> tuple[bytes, int]:
    """`signs` are the colons and equals signs of assignments."""
    count = 0

    def of(match: Match) -> bytes:
        nonlocal count
        if not _looks_random(match[3]):
            return match[0]
        count += 1
        return match[1] + match[2] + placeholder

    starts = (at for sign in signs for at in range(max(sign - _MAX_NAME_BYTES, 0), sign))
    return substituted(_ASSIGNED, text, starts, of), count


def _looks_random(value: bytes) -> bool:
    """Whether a value is no name, word or path: letters and digits in no order."""
    digits = sum(48 <= byte <= 57 for byte in value)
    letters = sum(chr(byte).isalpha() for byte in value)
    if digits < 2 or letters < 2:
        return False
    counts = Counter(value).values()
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    changes = sum((48 <= a <= 57) != (48 <= b <= 57) for a, b in itertools.pairwise(value))
    return entropy >= _LEAST_ENTROPY and changes >= 3

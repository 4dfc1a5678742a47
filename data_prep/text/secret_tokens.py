"""Secrets in texts: private keys, and the tokens of services, which start with fixed letters.

The formats are those that the services publish. detect-secrets was measured: 0.12 MB per CPU second
and 1,700 findings a document in documentation, since most of its rules are about entropy.
"""

import itertools
import math
import re
from collections import Counter

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
_IN_TOKEN = re.compile(
    rb"AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|glpat-|xox|xapp-|AIza|ya29\.|GOCSPX|k_live_|"
    rb"k_test_|whsec_|sk-|hf_|npm_|pypi-|dckr_|SG\.|SK|AC|:AA|shp|dop_v1|eyJ"
)
_ASSIGNED = re.compile(
    rb"(?i)((?:api|access|auth|secret|private|account|encryption|signing)[_-]?(?:key|token|secret)"
    rb"|password|passwd|pwd|secret|token)"
    rb"([\"']?\s{0,3}(?:[:=]|=>|:=)\s{0,3}[\"']?)"
    rb"([A-Za-z0-9+/_=!@#$%^&*~-]{12,200})"
)
_IN_URL = re.compile(rb"(://[^\s/:@\"'<>]{1,64}:)([^\s/:@\"'<>]{3,128})(?=@[\w.-])")
_LEAST_ENTROPY = 3.2
"""Of an assigned value, bits a character."""


def replace_secrets(text: bytes, placeholder: bytes) -> tuple[bytes, int]:
    """(the text with placeholders, number of secrets)."""
    num = num_found = 0
    if b"PRIVATE KEY" in text:
        text, num = _PRIVATE_KEY.subn(placeholder, text)
    if _IN_TOKEN.search(text):
        text, num_found = _TOKEN.subn(placeholder, text)
        num += num_found
    if b"://" in text and b"@" in text:
        text, num_found = _IN_URL.subn(rb"\1" + placeholder, text)
        num += num_found
    if b"=" in text or b":" in text:

        def of_assigned(match: re.Match[bytes]) -> bytes:
            nonlocal num
            if not _looks_random(match[3]):
                return match[0]
            num += 1
            return match[1] + match[2] + placeholder

        text = _ASSIGNED.sub(of_assigned, text)
    return text, num


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

"""Personal data and secrets in texts are replaced by placeholders."""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from configs.load import Config
from data_prep.text.addresses import replace_ip_addresses
from data_prep.text.personal_numbers import (
    replace_card_numbers,
    replace_ibans,
    replace_phone_numbers,
)
from data_prep.text.places import replaced_if
from data_prep.text.secret_tokens import replace_secrets

EMAIL_PLACEHOLDER, IP_PLACEHOLDER = b"[email]", b"[ip address]"
_EMAIL = re.compile(rb"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
_MAX_NAME_BYTES = 64
_HOST_STARTS = (string.ascii_letters + string.digits + "-").encode()
_NAME_BYTES = _HOST_STARTS + b"._%+"
_IP_RULES = 2
"""Raised when other addresses are found."""


def _known_region(code: str) -> str:
    from phonenumbers import SUPPORTED_REGIONS

    if code not in SUPPORTED_REGIONS:
        raise ValueError(f"no country {code!r} is known; give two capitals, such as US or DE")
    return code


class ScrubConfig(Config):
    """What is replaced by a placeholder, counted by kind in the report."""

    emails: bool = False
    """E-mail addresses, by [email]."""
    ip_addresses: bool = False
    """IPv4 and IPv6 addresses, by [ip address]; four numbers that the words around them call a
    version, or that are all small, are none."""
    phones: bool = False
    """Telephone numbers with their country code (+44 ...), by [phone]."""
    phone_regions: tuple[Annotated[str, AfterValidator(_known_region)], ...] = ()
    """Countries whose telephone numbers are replaced without country code too, such as US."""
    cards: bool = False
    """Numbers of payment cards with a valid check digit, by [card number]."""
    ibans: bool = False
    """Numbers of bank accounts (IBAN) with valid check digits, by [iban]."""
    secrets: bool = False
    """Private keys, tokens of well-known services, and values that look random and are assigned to
    a password, token or key, by [secret]."""

    def settings(self) -> dict[str, Any]:
        """What results depend on, as JSON values; without kinds that are off and that version 0.1.0
        did not know."""
        dumped = self.model_dump(mode="json")
        known = {key: dumped.pop(key) for key in ("emails", "ip_addresses")}
        rules = {"ip_rules": _IP_RULES} if self.ip_addresses else {}
        return {**known, **rules, **{key: value for key, value in dumped.items() if value}}


def scrubbed(texts: Sequence[bytes], config: ScrubConfig, counts: Counter[str]) -> list[bytes]:
    """The texts with placeholders; adds the number of replacements to `counts`."""
    result = list(texts)
    if not texts:
        return result
    if config.secrets:
        counts["secrets"] += replace_secrets(result, b"[secret]")
    if config.emails and any(b"@" in text for text in result):
        counts["emails"] += _replace_emails(result)
    if config.ip_addresses:
        counts["ip addresses"] += replace_ip_addresses(result, IP_PLACEHOLDER)
    if config.ibans:
        counts["ibans"] += replace_ibans(result, b"[iban]")
    if config.cards:
        counts["card numbers"] += replace_card_numbers(result, b"[card number]")
    if config.phones:
        regions = config.phone_regions
        counts["phone numbers"] += replace_phone_numbers(result, b"[phone]", regions)
    return result


def _replace_emails(texts: list[bytes]) -> int:
    count = 0
    for number, text in enumerate(texts):
        if b"@" in text:
            places = _email_places(text)
            texts[number], found = replaced_if(
                _EMAIL, lambda _: True, EMAIL_PLACEHOLDER, text, places
            )
            count += found
    return count


def _email_places(text: bytes) -> Iterator[int]:
    """Where e-mail addresses may start: at the bytes before each @ that their names have."""
    after = 0
    at = text.find(b"@")
    while at >= 0:
        if text[at + 1 : at + 2] in _HOST_STARTS:
            before = text[max(after, at - _MAX_NAME_BYTES) : at]
            yield from range(at - len(before) + len(before.rstrip(_NAME_BYTES)), at)
        after, at = at + 1, text.find(b"@", at + 1)

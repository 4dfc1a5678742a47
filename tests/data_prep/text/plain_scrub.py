"""Scrubbing by patterns that are tried at every place of a text: slow, and what is meant."""

import re
from collections.abc import Callable, Sequence

from phonenumbers import PhoneNumberMatcher

from data_prep.text import addresses, personal_numbers, scrub, secret_tokens

Match = re.Match[bytes]


def emails(text: bytes) -> bytes:
    return scrub._EMAIL.sub(scrub.EMAIL_PLACEHOLDER, text)


def ip_addresses(text: bytes) -> bytes:
    placeholder = scrub.IP_PLACEHOLDER
    text = addresses._IPV4.sub(_if(addresses._is_address, placeholder), text)
    return addresses._IPV6.sub(_if(addresses._has_groups_of_ipv6, placeholder), text)


def cards(text: bytes) -> bytes:
    return personal_numbers._CARD.sub(_if(personal_numbers._is_card, b"[card number]"), text)


def ibans(text: bytes) -> bytes:
    # The replacement itself, at every byte.
    return personal_numbers._ibans_replaced(b"[iban]", text, range(len(text)))[0]


def phones(text: bytes, regions: Sequence[str] = ()) -> bytes:
    if not personal_numbers._MAY_BE_PHONE.search(text):
        return text
    content = text.decode()
    for region in [None, *regions]:
        pieces, end = [], 0
        for match in PhoneNumberMatcher(content, region, max_tries=1 << 62):
            pieces += [content[end : match.start], "[phone]"]
            end = match.end
        content = "".join([*pieces, content[end:]])
    return content.encode()


def secrets(text: bytes) -> bytes:
    text = secret_tokens._PRIVATE_KEY.sub(b"[secret]", text)
    text = secret_tokens._TOKEN.sub(b"[secret]", text)
    text = secret_tokens._IN_URL.sub(rb"\1[secret]", text)

    def of_assigned(match: Match) -> bytes:
        if not secret_tokens._looks_random(match[3]):
            return match[0]
        return match[1] + match[2] + b"[secret]"

    return secret_tokens._ASSIGNED.sub(of_assigned, text)


def _if(is_meant: Callable[[Match], bool], placeholder: bytes) -> Callable[[Match], bytes]:
    return lambda match: placeholder if is_meant(match) else match[0]

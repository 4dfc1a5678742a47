"""Numbers of persons in texts: payment cards, bank accounts (IBAN) and telephones."""

import re
from collections.abc import Iterable, Sequence
from functools import partial

from data_prep.kernels.places import CARD, IBAN, digits_of_code_points, phone_lines
from data_prep.text.places import (
    Match,
    replaced_at_places,
    replaced_if,
    replaced_where,
    substituted,
)

# A lead of six digits names the issuer; here is what the large ones use, with their lengths.
_CARD = re.compile(
    rb"(?<![\w.,+/=-])(?:"
    rb"(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|64[4-9]\d|65\d\d|62\d\d|35[2-8]\d)([ -]?)"
    rb"\d{4}\1\d{4}\1\d{4}"
    rb"|3[47]\d\d([ -]?)\d{6}\2\d{5}"
    rb"|3(?:0[0-5]|[68]\d)\d([ -]?)\d{6}\3\d{4}"
    rb")(?![\w/-]|[.,]\d)"
)
_IBAN = re.compile(rb"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?")
_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL", "SD", "FK"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK", "MN"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HN", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    "LC": 32,
    "RU": 33,
}
_MAY_BE_PHONE = re.compile(rb"\d[\d\s()./-]{5,18}\d")


def replace_card_numbers(texts: list[bytes], placeholder: bytes) -> int:
    """Puts placeholders in the `texts`; how many. A number has a valid check digit (Luhn)."""
    replace = partial(replaced_if, _CARD, _is_card, placeholder)
    return replaced_at_places(texts, CARD, replace)


def _is_card(match: Match) -> bool:
    digits = [byte - 48 for byte in match[0] if 48 <= byte <= 57]
    return has_luhn_digit(digits) and len(set(digits)) >= 2


def has_luhn_digit(digits: Sequence[int]) -> bool:
    """Whether the last of the digits is the check digit of the rest (ISO/IEC 7812-1, annex B)."""
    doubled = (2 * digit for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def replace_ibans(texts: list[bytes], placeholder: bytes) -> int:
    """Puts placeholders in the `texts`; how many. An IBAN has the length of its country and valid
    check digits (ISO 13616)."""
    return replaced_at_places(texts, IBAN, partial(_ibans_replaced, placeholder))


def _ibans_replaced(placeholder: bytes, text: bytes, starts: Iterable[int]) -> tuple[bytes, int]:
    count = 0

    def of(match: Match) -> bytes:
        nonlocal count
        length = _IBAN_LENGTHS.get(match[0][:2].decode(), 99)
        end, seen = 0, 0
        while end < len(match[0]) and seen < length:
            seen += match[0][end] != 0x20
            end += 1
        found, rest = match[0][:end].replace(b" ", b""), match[0][end:]
        following = rest or match.string[match.end() : match.end() + 1]
        if seen < length or following[:1].isalnum() or not _has_iban_digits(found):
            return match[0]
        count += 1
        return placeholder + rest

    return substituted(_IBAN, text, starts, of), count


def _has_iban_digits(iban: bytes) -> bool:
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(chr(byte), 36)) for byte in moved)) % 97 == 1


def replace_phone_numbers(texts: list[bytes], placeholder: bytes, regions: Sequence[str]) -> int:
    """Puts placeholders in the `texts`; how many. Replaced are those that can be telephone numbers
    of a country: with its code, or without in one of the `regions`."""
    digits, count = digits_of_code_points(), 0
    may_have_one = [_MAY_BE_PHONE.search(text) is not None for text in texts]
    chosen = [text for text, may in zip(texts, may_have_one, strict=True) if may]
    for region in [None, *regions]:
        lines = partial(phone_lines, digits=digits, with_plus=region is None)
        count += replaced_where(chosen, lines, partial(_phones_replaced, placeholder, region))
    rest = iter(chosen)
    texts[:] = [next(rest) if may else text for text, may in zip(texts, may_have_one, strict=True)]
    return count


def _phones_replaced(
    placeholder: bytes, region: str | None, text: bytes, starts: Iterable[int]
) -> tuple[bytes, int]:
    """Those in the lines from `starts` on: a number does not go beyond its line."""
    from phonenumbers import PhoneNumberMatcher

    pieces: list[bytes] = []
    count = end = 0
    for start in starts:
        line_end = text.find(b"\n", start) % (len(text) + 1)
        line, at = text[start:line_end].decode("utf-8"), 0
        pieces.append(text[end:start])
        for match in PhoneNumberMatcher(line, region, max_tries=1 << 62):
            pieces += [line[at : match.start].encode(), placeholder]
            at = match.end
            count += 1
        pieces.append(line[at:].encode())
        end = line_end
    return b"".join([*pieces, text[end:]]), count

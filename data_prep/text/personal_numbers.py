"""Numbers of persons in texts: payment cards, bank accounts (IBAN) and telephones."""

import re
from collections.abc import Sequence

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


def replace_card_numbers(text: bytes, placeholder: bytes) -> tuple[bytes, int]:
    """(the text with placeholders, how many); a number has a valid check digit (Luhn)."""
    count = 0

    def of(match: re.Match[bytes]) -> bytes:
        nonlocal count
        digits = [byte - 48 for byte in match[0] if 48 <= byte <= 57]
        if not has_luhn_digit(digits) or len(set(digits)) < 2:
            return match[0]
        count += 1
        return placeholder

    return _CARD.sub(of, text), count


def has_luhn_digit(digits: Sequence[int]) -> bool:
    """Whether the last of the digits is the check digit of the rest (ISO/IEC 7812-1, annex B)."""
    doubled = (2 * digit for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def replace_ibans(text: bytes, placeholder: bytes) -> tuple[bytes, int]:
    """(the text with placeholders, how many); an IBAN has the length of its country and valid check
    digits (ISO 13616)."""
    count = 0

    def of(match: re.Match[bytes]) -> bytes:
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

    return _IBAN.sub(of, text), count


def _has_iban_digits(iban: bytes) -> bool:
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(chr(byte), 36)) for byte in moved)) % 97 == 1


def replace_phone_numbers(
    text: bytes, placeholder: bytes, regions: Sequence[str]
) -> tuple[bytes, int]:
    """(the text with placeholders, how many); those that can be telephone numbers of a country."""
    if not _MAY_BE_PHONE.search(text):
        return text, 0
    from phonenumbers import PhoneNumberMatcher

    content, count = text.decode("utf-8"), 0
    word = placeholder.decode()
    for region in [None, *regions]:
        if region is None and "+" not in content and "\uff0b" not in content:
            continue
        pieces, end = [], 0
        for match in PhoneNumberMatcher(content, region, max_tries=1 << 62):
            pieces += [content[end : match.start], word]
            end = match.end
            count += 1
        content = "".join([*pieces, content[end:]])
    return content.encode(), count

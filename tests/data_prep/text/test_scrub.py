"""Scrubbing: precision and recall on generated examples, and what must stay as it is."""

import random
import string
from collections import Counter

import pytest
from pydantic import ValidationError

from data_prep.text.personal_numbers import has_luhn_digit
from data_prep.text.scrub import ScrubConfig, scrubbed
from tests.data_prep.text import plain_scrub

ALL = ScrubConfig(emails=True, ip_addresses=True, phones=True, cards=True, ibans=True, secrets=True)
BEFORE_ADDRESS = ["ping {}", "the IP address {}", "host {} is down", "from {}", "at http://{}/a"]
BEFORE_ADDRESS += ["server: {}", "logged in from {}", "Connected to {}:443.", "{}/24", "({})"]
BEFORE_VERSION = ["version {}", "v{}", "Version: {}", "release {}", "Chrome/{}", "section {}"]
BEFORE_VERSION += ["firmware {} of", "build {}", "upgraded to {}", "Table {}:", "§ {}", ">={}"]


def scrub(text: str, config: ScrubConfig = ALL) -> tuple[str, dict[str, int]]:
    counts: Counter[str] = Counter()
    (result,) = scrubbed([text.encode()], config, counts)
    return result.decode(), {kind: count for kind, count in counts.items() if count}


def dotted(generate: random.Random, greatest: int) -> str:
    return ".".join(str(generate.randint(1, greatest)) for _ in range(4))


def test_addresses_are_told_from_versions() -> None:
    generate = random.Random(0)
    config = ScrubConfig(ip_addresses=True)
    found = wrong = 0
    for number in range(1000):
        address = dotted(generate, 255)
        version = dotted(generate, 9 if number % 2 else 255)
        found += scrub(generate.choice(BEFORE_ADDRESS).format(address), config)[1] != {}
        wrong += scrub(generate.choice(BEFORE_VERSION).format(version), config)[1] != {}
    assert found >= 980
    assert wrong <= 10


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4 is out",
        "1.2.3.4.5",
        "see 2.1.3.1 below",
        "256.1.1.1",
        "at 12:34:56 in std::vector<a::b>",
        "order 4111 1111 1111 1112",
        "0000 0000 0000 0000",
        "DE89 3704 0044 0532 0130 01",
        "call 555 0123 or 2024-11-28, ISBN 978-3-16-148410-0",
        "password = os.environ['PASSWORD']",
        "the token: identifier_of_the_user",
        "sk-learn and task-oriented, hf_transfer, skeleton",
        "api_key: YOUR_API_KEY_HERE",
        "an e-mail to jane at example dot org",
    ],
)
def test_what_looks_alike_is_kept(text: str) -> None:
    assert scrub(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("write to jane@example.org.", "write to [email].", "emails"),
        ("ping 1.2.3.4 now", "ping [ip address] now", "ip addresses"),
        ("a 10.0.0.1 b", "a [ip address] b", "ip addresses"),
        ("a 2001:db8::8a2e:370:7334 b", "a [ip address] b", "ip addresses"),
        ("call +44 20 7946 0958 today", "call [phone] today", "phone numbers"),
        ("pay 4111-1111-1111-1111.", "pay [card number].", "card numbers"),
        ("pay 378282246310005.", "pay [card number].", "card numbers"),
        ("to DE89 3704 0044 0532 0130 00, now", "to [iban], now", "ibans"),
        ("to GB82WEST12345698765432 now", "to [iban] now", "ibans"),
        ("id AKIAIOSFODNN7EXAMPLE;", "id [secret];", "secrets"),
        ("http://user:x9q2@host/", "http://user:[secret]@host/", "secrets"),
        ('password = "kT9!x2Lq8#vR"', 'password = "[secret]"', "secrets"),
    ],
)
def test_what_is_personal_or_secret_is_replaced(text: str, expected: str, kind: str) -> None:
    assert scrub(text) == (expected, {kind: 1})
    assert scrub(text, ScrubConfig()) == (text, {})


def test_numbers_of_one_country_are_found_without_its_code() -> None:
    config = ScrubConfig(phones=True, phone_regions=("US", "DE"))
    text, counts = scrub("call (212) 555-2368 or 030 901820, not 12 34 56", config)
    assert text == "call [phone] or [phone], not 12 34 56"
    assert counts == {"phone numbers": 2}
    with pytest.raises(ValidationError, match="no country 'XX' is known"):
        ScrubConfig(phones=True, phone_regions=("XX",))


def test_generated_card_numbers_and_tokens_are_found() -> None:
    generate = random.Random(1)
    wrong = 0
    for _ in range(300):
        digits = [4, *(generate.randint(0, 9) for _ in range(14))]
        last = next(d for d in range(10) if has_luhn_digit([*digits, d]))
        number = "".join(map(str, [*digits, last]))
        assert scrub(f"card {number} of")[1] == {"card numbers": 1}
        other = "".join(map(str, [*digits, (last + 1) % 10]))
        assert scrub(f"card {other} of")[1] == {}
        letters = string.ascii_letters + string.digits
        token = "".join(generate.choices(letters, k=36))
        for prefix in ("ghp_", "hf_", "npm_", "sk_live_", "glpat-"):
            assert scrub(f"({prefix}{token})") == ("([secret])", {"secrets": 1})
        wrong += scrub(f"secret_token={token}")[0] != "secret_token=[secret]"
    assert wrong <= 6


def test_a_private_key_is_one_secret() -> None:
    body = "\n".join(["Proc-Type: 4,ENCRYPTED", "", *["Ab3+/" * 12] * 20])
    for kind in ("RSA ", "OPENSSH ", ""):
        start, end = f"-----BEGIN {kind}PRIVATE KEY-----", f"-----END {kind}PRIVATE KEY-----"
        assert scrub(f"a\n{start}\n{body}\n{end}\nb") == ("a\n[secret]\nb", {"secrets": 1})


@pytest.mark.parametrize("piece", ["1.", "1:", "a@", "4", "0 ", "+1", "eyJ", "-----BEGIN PRIVATE "])
def test_time_grows_with_the_length_only(piece: str) -> None:
    """The test's time limit is the check."""
    scrub(piece * (200_000 // len(piece)))


def test_settings_of_older_plans_are_the_same() -> None:
    assert ScrubConfig().settings() == {"emails": False, "ip_addresses": False}
    assert ScrubConfig(cards=True).settings()["cards"] is True


LIKE_PERSONAL = (
    *("jane.doe+x@example.org", "a@b", "1.2.3.4", "192.168.0.1", "10.0.0.255:80", "1.2.3.4.5"),
    *("256.1.2.3", "2001:db8::8a2e:370:7334", "fe80::1", "1:2:3:4:5:6:7:8", "::1", "a::b"),
    *("12:30:45", "4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005"),
    *("DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "+44 20 7946 0958"),
    *("(202) 555-0143", "\uff0b44 20 7946 0958", "\uff12\uff10\uff12 555 0143", "+49 (0)30 123456"),
    *("AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "xoxb-1234567890-abc", "hf_" + "x" * 34),
    *("123456789:AA" + "x_-Y1" * 7, "eyJhbGciOiJI.eyJzdWIiOiIx.abcdefgh", "https://u:p4ss@host/"),
    *('password = "kT9!x2Lq8#vR"', "Secret=>'k3T9x2Lq8vRz1'", "auth-token := Zx81kPq72Lm0"),
    *("pwd:\n x1y2z3a4b5c6d7", "-----BEGIN RSA PRIVATE KEY-----", "2024-11-28 10:30", "host "),
    *("version ", "\u00e9", "\u4e2d\u6587", "\u0663\u0664", "\n", " ", "@", ".", ":", "=", "key"),
)
CHARACTERS = "0123456789.:abcdefABCDEFGxyYZ-_ @=/\"'\n+()%\u00e9\u4e2d\uff15\uff0b"


def like_personal(generate: random.Random) -> str:
    """A text of examples, some with other characters in them."""
    pieces = []
    for _ in range(generate.randint(0, 14)):
        piece = generate.choice(LIKE_PERSONAL)
        if generate.random() < 0.3:
            at = generate.randint(0, len(piece))
            rest = at + generate.randint(0, 1)
            piece = piece[:at] + generate.choice(CHARACTERS) + piece[rest:]
        elif generate.random() < 0.2:
            piece = "".join(generate.choices(CHARACTERS, k=generate.randint(1, 20)))
        pieces.append(piece + generate.choice(["", "", " ", "\n", ", "]))
    return "".join(pieces)


@pytest.mark.parametrize("kind", ["emails", "ip_addresses", "phones", "cards", "ibans", "secrets"])
def test_nothing_is_missed_where_a_pattern_is_not_tried(kind: str) -> None:
    generate = random.Random(kind)
    counts: Counter[str] = Counter()
    for _ in range(250):
        texts = [like_personal(generate).encode() for _ in range(generate.randint(1, 5))]
        expected = [getattr(plain_scrub, kind)(text) for text in texts]
        assert scrubbed(texts, ScrubConfig.model_validate({kind: True}), counts) == expected
    assert counts.total() > 30


def test_phone_numbers_of_a_line_are_those_of_the_whole_text() -> None:
    generate = random.Random(0)
    config = ScrubConfig(phones=True, phone_regions=("US", "DE"))
    counts: Counter[str] = Counter()
    for _ in range(100):
        text = like_personal(generate).encode()
        assert scrubbed([text], config, counts) == [plain_scrub.phones(text, ("US", "DE"))]
    assert counts["phone numbers"] > 20

"""The normal form of texts, against a plain definition of it."""

import re
import unicodedata
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.text.normalise import NormaliseConfig, normalise

SPACES = "\t\x0b\x0c\xa0\u1680\u2000\u2001\u200a\u202f\u205f\u3000"
NEWLINES = "\x85\u2028\u2029"
DELETED = "\x00\x01\x1e\x7f\x80\x9f\xad\u200b\u200f\u202a\u2060\u206f\ufeff\ufff9\ufffd\uffff"
KEPT = "a-bZ.\u00e9\u0301e\u00fc\u2019\u201c\u4e2d\u200d\U0001f600\u212b\u1100\u1161"
FORMS: tuple[Literal["nfc", "nfkc", "none"], ...] = ("nfc", "nfkc", "none")
alphabet = st.sampled_from(list(SPACES + NEWLINES + DELETED + KEPT + "   \n\n\n\r\r"))
texts = st.lists(st.text(alphabet, max_size=25), max_size=5)


def plain(text: str) -> str:
    """The normal form of one text, rule by rule."""
    text = re.sub(f"[{re.escape(DELETED)}]", "", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(f"[{NEWLINES}]", "\n", re.sub(f"[{SPACES}]", " ", text))
    text = re.sub(r" *\n *", "\n", re.sub(r" +", " ", text))
    text = re.sub(r"\n{3,}", "\n\n", text).strip(" \n")
    return unicodedata.normalize("NFC", text)


@settings(max_examples=500)
@given(texts)
def test_batches_are_normalised_as_defined(texts: list[str]) -> None:
    assert [piece.decode() for piece in normalise(texts)] == [plain(text) for text in texts]


def test_deleted_characters_do_not_split_a_line_end() -> None:
    assert normalise(["Z\r\ufeff\nZ", "Z\r\x80\nZ", "Z\r\x01\nZ"]) == [b"Z\nZ"] * 3
    assert normalise(["Z\r\x85Z", "Z\x85\nZ", "Z\r\u2028\ufeff\nZ"]) == [b"Z\n\nZ"] * 3


@given(st.lists(st.text(max_size=30), max_size=4))
def test_normalising_twice_changes_nothing_and_keeps_texts_separate(texts: list[str]) -> None:
    once = normalise(texts)
    assert len(once) == len(texts)
    assert normalise([piece.decode() for piece in once]) == once


def test_halves_of_surrogate_pairs_are_deleted() -> None:
    """Wiki markup and web pages can hold them, as ``&#55357;``; UTF-8 cannot."""
    assert normalise(["one \ud83d two", "three\udc00"]) == [b"one two", b"three"]


def kept(text: str) -> str:
    """The normal form with its white space, rule by rule."""
    text = re.sub(f"[{re.escape(DELETED)}]", "", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(f"[{NEWLINES}]", "\n", re.sub(f"[{SPACES[1:]}]", " ", text))
    text = "\n".join(line.rstrip(" \t") for line in text.split("\n")).strip("\n")
    return unicodedata.normalize("NFC", text)


@settings(max_examples=300)
@given(texts)
def test_white_space_is_kept_as_defined(texts: list[str]) -> None:
    form = NormaliseConfig(whitespace="keep")
    once = normalise(texts, form)
    assert [piece.decode() for piece in once] == [kept(text) for text in texts]
    assert normalise([piece.decode() for piece in once], form) == once


def test_code_and_verse_keep_their_indentation() -> None:
    code = "    if a:\n\tb  =  1\n\n\n\n    # end"
    assert normalise([f"\n \n{code}  \n\n"], NormaliseConfig(whitespace="keep")) == [code.encode()]


def test_the_unicode_form_is_a_choice() -> None:
    text = "ﬁ ｘ² e\u0301 \u00a8 Å"
    of = {form: normalise([text], NormaliseConfig(unicode=form))[0].decode() for form in FORMS}
    assert of["nfc"] == "ﬁ ｘ² é ¨ Å"
    assert of["nfkc"] == "fi x2 é \u0308 Å"
    assert of["none"] == text


@given(st.lists(st.text(max_size=30), max_size=4), st.sampled_from(["collapse", "keep"]))
def test_the_compatibility_form_is_stable(texts: list[str], whitespace: Any) -> None:
    form = NormaliseConfig(unicode="nfkc", whitespace=whitespace)
    once = [piece.decode() for piece in normalise(texts, form)]
    assert [piece.decode() for piece in normalise(once, form)] == once
    assert all(unicodedata.is_normalized("NFKC", text) for text in once)

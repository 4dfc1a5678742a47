"""Tokens in all scripts: every byte of them is hashed, and each script has its boundaries."""

import numpy as np
import pytest

from data_prep.dedup.lines import lines_of
from data_prep.dedup.minhash import signatures, similarity
from data_prep.dedup.signatures import word_sequence_hashes
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise


def tokens_of(text: str) -> list[str]:
    batch = TextBatch(normalise([text]))
    starts, ends = batch.token_bounds
    return [batch.data[s:e].tobytes().decode() for s, e in zip(starts, ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("the naïve café’s “menu” …", ["the", "naïve", "café", "s", "menu"]),
        ("Он сказал: «да» — нет", ["Он", "сказал", "да", "нет"]),
        ("中文，字。Linux内核5", ["中", "文", "字", "Linux", "内", "核", "5"]),
        ("データ、です", ["デ", "ー", "タ", "で", "す"]),
        ("ที่ดี", ["ท", "ี", "่", "ด", "ี"]),
        ("བོད་ཡིག།", ["བོད", "ཡིག"]),
        ("यह क्षेत्र है।", ["यह", "क्षेत्र", "है"]),
        ("می‌خواهم، ١٢٣", ["می‌خواهم", "١٢٣"]),
        ("대한민국은 민주공화국이다", ["대한민국은", "민주공화국이다"]),
        ("❤️ 🙂 ≤ ok", ["ok"]),
        ("𠀀𠀁x", ["𠀀", "𠀁", "x"]),
    ],
)
def test_tokens_of_each_script(text: str, tokens: list[str]) -> None:
    assert [token.lower() for token in tokens_of(text)] == [token.lower() for token in tokens]


@pytest.mark.parametrize("length", [9, 17, 24, 25, 27, 31, 40, 63, 64, 65, 72, 73, 200, 5000])
@pytest.mark.parametrize("letters", ["abz", "яюж", "क़ल"])
def test_every_byte_of_a_token_is_hashed(length: int, letters: str) -> None:
    word = (letters * length)[:length]
    changed = [word[:at] + letters[-1] * 2 + word[at + 2 :] for at in range(0, length - 1)]
    words = sorted({word, *changed})
    hashes = TextBatch([" ".join(words).encode()]).token_hashes
    assert len(set(hashes.tolist())) == len(words) == len(hashes)
    alone = [int(TextBatch([word.encode()]).token_hashes[0]) for word in words[:5]]
    assert alone == hashes[:5].tolist()  # does not depend on the batch


NOTICES = {
    "Chinese": ("关于公布第三批", "单位名单的通知现予印发请遵照执行", range(0x5168, 0x5300)),
    "Thai": ("ประกาศรายชื่อ", "ผู้มีสิทธิ์เข้ารับการอบรมประจำปี", range(0x0E01, 0x0E2E)),
    "ASCII": ("https_notice_of_the_registered_", "_office_in_the_capital", range(97, 123)),
}


@pytest.mark.parametrize("name", NOTICES)
def test_notices_that_differ_in_the_middle_are_no_exact_duplicates(name: str) -> None:
    head, tail, letters = NOTICES[name]
    generate = np.random.default_rng(0)
    middles = ["".join(map(chr, generate.choice(list(letters), 7))) for _ in range(200)]
    texts = normalise([head + middle + tail for middle in sorted(set(middles))])
    assert len(set(word_sequence_hashes(TextBatch(texts))[0].tolist())) == len(texts)
    hashes, *_ = lines_of(TextBatch(texts), "line", 1)
    assert len(set(hashes.tolist())) == len(texts)


def test_short_texts_and_lines_in_another_order_differ() -> None:
    texts = [b"no no", b"yes yes", b"no yes", b"yes no", b"no yes yes no", b"yes no no yes"]
    batch = TextBatch(texts)
    hashes, *_ = lines_of(batch, "line", 1)
    assert len(set(hashes.tolist())) == len(texts)
    signed = signatures(batch, 5, word_sequence_hashes(batch)[0])
    left, right = np.triu_indices(len(texts), 1)
    assert similarity(signed[:, left], signed[:, right]).max() < 0.5


def test_words_are_counted_in_scripts_without_spaces() -> None:
    batch = TextBatch(normalise(["中文字幕", "かなカナかな", "ภาษาไทย", "two words", "中", ""]))
    assert batch.word_counts.tolist() == [2, 2, 2, 2, 1, 0]

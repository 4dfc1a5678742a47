"""Words that tokenizers have in common: no token crosses their ends, and no text is lost."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from data_prep.tokenization.train import train_tokenizer
from pipeline.evaluation.words import common_words, encode, is_written_without_spaces
from tests.pipeline.evaluation.tiny_models import SENTENCES, tokenizer_of

TEXTS = (
    "the cat sat on the mat",
    "  two  spaces,\n\nlines\tand tabs.  ",
    "Ünïcödé, ça va? 1,234.5 https://example.org/a?b=c",
    "我们都是猫。 the cat 是 good",
    "ไทยไม่มีช่องว่าง ภาษา",
    "日本語とEnglishの混在",
    "नमस्ते दुनिया, привет мир",
    "a",
    "",
)


def wordpiece() -> Tokenizer:
    pieces = ["[UNK]", "the", "cat", "sat", "on", "mat", "##s", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + list(",.?我们都是猫。")
    tokenizer = Tokenizer(
        models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


TOKENIZERS = (
    tokenizer_of(270),
    tokenizer_of(304),
    train_tokenizer([*SENTENCES, *TEXTS] * 30, 400),
    wordpiece(),
)


@pytest.mark.parametrize("text", TEXTS)
def test_every_token_is_in_one_word(text: str) -> None:
    encodings = [encode(tokenizer, text) for tokenizer in TOKENIZERS]
    words = common_words(text, encodings)
    for number, encoding in enumerate(encodings):
        found = [token for word in words for token in word.tokens[number]]
        assert len(found) == len(set(found))
        for word in words:
            for token in word.tokens[number]:
                start, end = encoding.spans[token]
                assert word.start <= start < end <= word.end
        # A token outside of all words has no text: white space alone.
        for token in set(range(len(encoding.ids))) - set(found):
            start, end = encoding.spans[token]
            assert start == end
    covered = "".join(text[word.start : word.end] for word in words)
    assert "".join(covered.split()) == "".join(text.split())
    assert all(text[w.start : w.end] == text[w.start : w.end].strip() for w in words)


def test_words_are_what_stands_between_spaces() -> None:
    text = "the cat, sat (on) the-mat"
    encodings = [encode(tokenizer, text) for tokenizer in TOKENIZERS]
    words = common_words(text, encodings)
    assert [text[word.start : word.end] for word in words] == text.split()


def test_scripts_without_spaces_are_cut_where_all_tokenizers_cut() -> None:
    text = "我们都是猫"
    one = common_words(text, [encode(wordpiece(), text)])
    assert [text[w.start : w.end] for w in one] == list(text)
    joined = train_tokenizer(["我们都是猫。"] * 60, 277)
    spans = encode(joined, text).spans
    both = common_words(text, [encode(wordpiece(), text), encode(joined, text)])
    ends = {end for _, end in spans}
    assert len(both) < len(text)
    assert {word.end for word in both} <= ends
    assert is_written_without_spaces("猫")
    assert not is_written_without_spaces("한")
    assert not is_written_without_spaces("a")


def test_a_word_that_a_normalizer_removes_is_left_out() -> None:
    tokenizer = tokenizer_of(270)
    removing = tokenizer_of(270)
    removing.normalizer = normalizers.Replace("cat", "")
    text = "the cat sat"
    words = common_words(text, [encode(one, text) for one in (tokenizer, removing)])
    assert [text[word.start : word.end] for word in words] == ["the", "sat"]

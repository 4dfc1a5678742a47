"""Extended tokenizers for scripts that the old one knows little or nothing of."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from data_prep.tokenization.corpus_words import word_counts
from data_prep.tokenization.extension import extended_tokenizer
from data_prep.tokenization.learned_characters import Marks, learn_characters
from tests.data_prep.tokenization.test_extension import ids, old_tokenizer
from tests.tokenizer_kinds import KINDS

SCRIPTS = {
    "khmer": ("កខគឃងចឆជឈញ", " "),
    "amharic": ("ሀለሐመሠረሰሸቀበ", " "),
    "chinese": ("的一是在不了有和人这", ""),
}
NUM_NEW = 45


def corpus(letters: str, space: str) -> list[str]:
    draw = random.Random(len(letters))
    words = ["".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(60)]
    return [space.join(draw.choices(words, k=9 if space else 120)) for _ in range(40)]


@pytest.mark.parametrize("kind", ["roberta", *(k for k in KINDS if k != "word_level")])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_without_tokens_is_learned(kind: str, script: str, tmp_path: Path) -> None:
    path, old = old_tokenizer(kind, tmp_path)
    texts = corpus(*SCRIPTS[script])
    # BERT splits at every Chinese character: there are only the ten characters to learn.
    num_new = 10 if (kind, script) == ("wordpiece", "chinese") else NUM_NEW
    new = extended_tokenizer(old, texts, num_new, str(path))
    before, after = ([ids(t.tokenizer, text) for text in texts] for t in (old, new))
    if kind in ("wordpiece", "xlm_roberta", "camembert"):
        assert any(old.special.unk in found for found in before)
    assert not any(old.special.unk in found for found in after if old.special.unk is not None)
    if kind not in ("wordpiece", "xlm_roberta", "camembert"):  # unknown text is one token there
        assert sum(map(len, after)) < 0.5 * sum(map(len, before))
    for text in [*texts, *(text[:7] for text in texts), "oven 窯 パン x" + texts[0][:3]]:
        found, expected = ids(new.tokenizer, text), ids(old.tokenizer, text)
        assert found == expected or max(found) >= old.vocab_size


def test_characters_come_by_frequency_until_nearly_all_are_covered() -> None:
    words = {"ab": 25_000, "cb": 40, "d": 40, "e": 2, "f": 1, "\x00": 90, "bé": 60}
    vocabulary = {"a", "##b"}
    found = learn_characters(words, vocabulary, Marks("##"), 9, byte_fallback=False)
    assert list(found.items()) == [("##é", 60), ("b", 60), ("c", 40), ("d", 40)]
    assert list(learn_characters(words, vocabulary, Marks("##"), 2, False)) == ["##é", "b"]
    assert list(learn_characters(words, vocabulary, Marks(), 9, byte_fallback=True)) == ["é"]
    rare = {"a": 5, "f": 1}
    assert not learn_characters(rare, vocabulary, Marks(), 9, False)


def test_no_token_holds_a_word_and_its_punctuation(tmp_path: Path) -> None:
    for kind in ("llama", "xlm_roberta"):
        path, old = old_tokenizer(kind, tmp_path / kind)
        texts = ["baker, zyx.\nzyx, (zyx) yes."] * 9
        new = extended_tokenizer(old, texts, 2, str(path))
        for token in map(new.tokenizer.id_to_token, range(old.vocab_size, new.vocab_size)):
            assert token is not None
            text = token.strip("\u2581")
            assert text.isalpha() or not any(map(str.isalpha, text)), token


def test_long_words_are_cut_or_left_out(tmp_path: Path) -> None:
    tokenizer: Tokenizer = old_tokenizer("xlm_roberta", tmp_path)[1].tokenizer
    assert word_counts(tokenizer, ["x" * 450], is_cut=True).total() == 3
    assert not word_counts(tokenizer, ["x" * 450])

"""Extended tokenizers: old ids and old encodings stay, the new corpus needs fewer tokens."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from configs.load import UserError
from data_prep.dataset.manifest import file_sha256, read_manifest
from data_prep.dataset.tokenizer import load_tokenizer, text_tokenizer
from data_prep.run import prepare
from data_prep.tokenization.config import TokenizerFromFileConfig
from data_prep.tokenization.encoder import Encoder, TokenizerContents
from data_prep.tokenization.existing import PreparedTokenizer, prepared_from_file
from data_prep.tokenization.extension import extended_tokenizer
from data_prep.tokenization.fast_encoder import fast_encoder_problem
from data_prep.tokenization.learned_tokens import Rules, learn_tokens, merged
from data_prep.tokenization.train import train_tokenizer
from tests.data_prep.corpora import forum_config, write_forum
from tests.tokenizer_kinds import KINDS, save, texts

_NEW = "breathing morbid overheated kidney doctors therefore facesaver chairs 1924-85 печьхлеб"
NEW_WORDS = _NEW.split()
CORPUS = [" ".join(random.Random(n).choices(NEW_WORDS, k=40)) for n in range(40)]
NUM_NEW = 24


def old_tokenizer(kind: str, folder: Path) -> tuple[Path, PreparedTokenizer]:
    if kind == "roberta":
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tokenizer.json"
        train_tokenizer(texts(), 400).save(str(path))
    else:
        path = save(kind, folder)
    return path, prepared_from_file(TokenizerFromFileConfig(type="file", path=str(path)))


@pytest.fixture(scope="module", params=["roberta", *KINDS])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, PreparedTokenizer, PreparedTokenizer, Tokenizer, Tokenizer, Path]:
    """(kind, old, new, and both as they encode texts, file of the new one)."""
    folder = tmp_path_factory.mktemp("extended")
    path, old = old_tokenizer(request.param, folder)
    num_new = 4 if request.param == "word_level" else NUM_NEW
    new = extended_tokenizer(old, CORPUS, num_new, str(path))
    new_path = folder / "new.json"
    new.tokenizer.save(str(new_path))
    encoders = text_tokenizer(path, old.special), text_tokenizer(new_path, new.special)
    return request.param, old, new, *encoders, new_path


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def test_old_ids_stay_and_new_ones_follow(pair: Any) -> None:
    _, old, new, _, _, path = pair
    before = old.tokenizer.get_vocab(with_added_tokens=True)
    after = load_tokenizer(path).get_vocab(with_added_tokens=True)
    assert {token: after[token] for token in before} == before
    added = sorted(set(after.values()) - set(before.values()))
    assert added == list(range(old.vocab_size, new.vocab_size))
    assert new.special == old.special
    special = (old.special.bos, old.special.eos)
    assert new.tokenizer.encode("a").ids[:: len(new.tokenizer.encode("a").ids) - 1] == [*special]


def test_the_new_corpus_needs_fewer_tokens(pair: Any) -> None:
    kind, old, _, old_encoder, new_encoder, _ = pair
    before, after = (sum(len(ids(e, text)) for text in CORPUS) for e in (old_encoder, new_encoder))
    if kind == "word_level":  # as many tokens, of which fewer are unknown
        assert after == before
        unknown = [
            sum(ids(e, text).count(old.special.unk) for text in CORPUS)
            for e in (old_encoder, new_encoder)
        ]
        assert unknown[1] < unknown[0]
    else:
        assert after < 0.8 * before


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from([*NEW_WORDS, *texts(1)[0].split()]).flatmap(
            lambda word: st.integers(0, len(word)).map(lambda n: word[:n] + word[n // 2 :])
        )
        | st.text(max_size=6),
        max_size=8,
    )
)
def test_words_without_a_new_token_encode_as_before(pair: Any, words: list[str]) -> None:
    _, old, _, old_encoder, new_encoder, _ = pair
    for text in [*words, " ".join(words)]:
        before, after = ids(old_encoder, text), ids(new_encoder, text)
        assert before == after or max(after) >= old.vocab_size


def test_the_fast_encoder_gives_the_same_ids(pair: Any) -> None:
    kind, old, new, _, _, path = pair
    contents = TokenizerContents.of(path, new.special, new.vocab_size)
    problem = fast_encoder_problem(contents, new.tokenizer, [text.encode() for text in CORPUS])
    assert (problem is None) == (kind in {"roberta", "modernbert", "llama"})
    if problem is None:
        (found,) = Encoder(contents, "fast").ids([CORPUS[0].encode()])
        assert max(found) >= old.vocab_size


def test_merges_are_those_of_byte_pair_encoding() -> None:
    words = {"abab": 3, "abc": 2, "cc": 1}
    rules = Rules(str.__add__, merged, lambda token: True, False)
    tokens = learn_tokens(words, list, set("abc"), (), rules, 9)
    assert [(t.text, t.num) for t in tokens] == [("ab", 8), ("abab", 3), ("abc", 2)]
    assert [t.text for t in learn_tokens(words, list, {"abab"}, ("c",), rules, 9)] == ["ab"]


def test_a_character_without_a_piece_of_its_own_gets_one(tmp_path: Path) -> None:
    path, _ = old_tokenizer("wordpiece", tmp_path)
    tree = json.loads(path.read_text())
    del tree["model"]["vocab"]["##n"]  # "oven" is one piece of the vocabulary
    assert "oven" in tree["model"]["vocab"]
    vocab = tree["model"]["vocab"]
    tree["model"]["vocab"] = {token: number for number, token in enumerate(vocab)}
    for added in tree["added_tokens"]:
        added["id"] = tree["model"]["vocab"][added["content"]]
    tree["post_processor"] = None
    path.write_text(json.dumps(tree))
    old = prepared_from_file(TokenizerFromFileConfig(type="file", path=str(path)))
    new = extended_tokenizer(old, ["ove over overt"] * 9, 4, str(path))
    assert new.tokenizer.token_to_id("##n") == old.vocab_size
    unk = old.special.unk
    assert unk not in new.tokenizer.encode("oven ovens").ids


def test_tokenizers_that_cannot_be_extended_are_refused(tmp_path: Path) -> None:
    path, old = old_tokenizer("wordpiece", tmp_path)
    with pytest.raises(UserError, match=r"give only \d+ new tokens, not 5000"):
        extended_tokenizer(old, CORPUS, 5000, str(path))
    old.tokenizer.add_tokens([AddedToken("covid", single_word=True)])
    with pytest.raises(UserError, match="'covid' and other added tokens"):
        extended_tokenizer(old, CORPUS, 5, str(path))


def test_a_run_extends_and_records_it(tmp_path: Path) -> None:
    path, old = old_tokenizer("roberta", tmp_path / "old")
    write_forum(tmp_path / "raw", CORPUS)
    tokenizer = {"type": "extended", "path": str(path), "new_tokens": NUM_NEW}
    for part_mb in (64, 0.002):  # in one part and in many
        folder = tmp_path / f"parts{part_mb}"
        config = forum_config(tmp_path, tokenizer=tokenizer, part_mb=part_mb, heldout_share=0.2)
        config = config.model_copy(update={"output": folder / "rows", "work": folder / "work"})
        prepare(config)
        manifest = read_manifest(folder / "rows")
        assert manifest.tokenizer.parent_sha256 == file_sha256(path)
        assert manifest.vocab_size == old.vocab_size + NUM_NEW
        assert manifest.special_tokens == old.special
        report = json.loads((folder / "rows/report.json").read_text())["extension"]
        measured = report["fertility"]["forum"]
        assert 0 < measured["tokens_after"] < measured["tokens_before"] < measured["bytes"]
    sums = {file_sha256(tmp_path / f"parts{n}/rows/tokenizer.json") for n in (64, 0.002)}
    assert len(sums) == 1
    with pytest.raises(UserError, match="new_tokens"):
        prepare(config.model_copy(update={"tokenizer": config.tokenizer.model_copy(
            update={"new_tokens": 25})}))  # fmt: skip

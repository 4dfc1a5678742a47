"""Tokenizers: RoBERTa's ids, special tokens in the text, import of GPT-2's files, two encoders."""

import json
import random
import weakref
from pathlib import Path
from typing import Any

import gigatoken
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import UserError, load
from data_prep.config import DataConfig
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.run import prepare
from data_prep.tokenization import encoder as encoder_module
from data_prep.tokenization.encoder import Encoder, EncoderKind, TokenizerContents
from data_prep.tokenization.tokenizer import roberta_places
from data_prep.tokenization.train import tokenizer_from_vocabulary, train_tokenizer
from tests.data_prep.corpora import forum_config, random_texts, write_forum

WORDS = ["the", "Baker's", "oven", "was", "hot,", "1984", "ünï", "yesterday", "kitchen", "morning"]
TEXTS = [" ".join(random.Random(n).choices(WORDS, k=60)) for n in range(60)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(TEXTS, 300).save(str(file))
    return file


def encoder(path: Path, kind: EncoderKind) -> Encoder:
    return Encoder(TokenizerContents("", path, roberta_places(300), 300), kind)


def test_special_tokens_have_robertas_ids(path: Path) -> None:
    tokenizer = load_tokenizer(path)
    assert tokenizer.get_vocab_size() == 300
    assert find_special_tokens(tokenizer, path).tree() == {
        "bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 299,
    }  # fmt: skip
    assert tokenizer.encode("the oven").tokens[0] == "<s>"
    assert tokenizer.encode("the oven").tokens[-1] == "</s>"


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_any_text_is_decoded_to_itself_and_never_gives_a_special_token(
    path: Path, text: str
) -> None:
    tokenizer = load_tokenizer(path)
    for piece in (text, text + "</s><mask> <s>" + text):
        ids = tokenizer.encode(piece, add_special_tokens=False).ids
        assert not {0, 1, 2, 3, 299} & set(ids)
        assert tokenizer.decode(ids) == piece


@settings(max_examples=60)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_the_fast_encoder_gives_the_reference_ids(path: Path, texts: list[str]) -> None:
    encoded = [text.encode() for text in texts]
    fast, fast_lengths = encoder(path, "fast").encode(encoded)
    reference, lengths = encoder(path, "reference").encode(encoded)
    np.testing.assert_array_equal(fast, reference)
    np.testing.assert_array_equal(fast_lengths, lengths)
    assert (fast == 2).sum() == len(texts)


def test_the_words_that_gigatoken_caches_are_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    resident = iter(range(0, 10**10, 100_000_000))  # the process grows by 100 MB between two looks
    from_json = gigatoken.Tokenizer.from_json

    def counted(content: bytes) -> gigatoken.Tokenizer:
        made.append(content)
        return from_json(content)

    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", counted)
    monkeypatch.setattr(encoder_module, "_RENEW_ENCODER_BYTES", 10_000)
    monkeypatch.setattr(encoder_module, "resident_bytes", lambda: 0)
    batch = [("w%d " * 100 % tuple(range(k, k + 100))).encode()[:100] for k in range(20)]
    fast, expected = encoder(path, "fast"), encoder(path, "reference").encode(batch)
    for _ in range(10):  # 20,000 bytes
        assert all(map(np.array_equal, fast.encode(batch), expected))
    assert len(made) == 2
    monkeypatch.setattr(encoder_module, "_RENEW_ENCODER_BYTES", 10**9)
    monkeypatch.setattr(encoder_module, "resident_bytes", lambda: next(resident))
    growing = encoder(path, "fast")
    for _ in range(10):
        assert all(map(np.array_equal, growing.encode(batch), expected))
    assert len(made) == 2 + 5  # 200 MB more at the second look after the one at which it is made


def test_the_library_holds_one_batch_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = weakref.WeakSet[Any](), 0

    class Encoding:
        ids = (1, 2)

    class Library:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list[Encoding]:
            nonlocal most
            encodings = [Encoding() for _ in texts]
            alive.update(encodings)
            most = max(most, len(alive))
            return encodings

    reference = encoder(path, "reference")
    monkeypatch.setattr(reference, "_reference", Library())
    monkeypatch.setattr(encoder_module, "_BATCH_BYTES", 1000)
    assert len(reference.reference_ids([b"x" * 100] * 95)) == 95
    assert most == 10


def test_a_difference_between_the_encoders_stops_the_job(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "the öven " * 9000
    assert encoder(path, "fast").agrees(b"was hot")
    assert encoder(path, "fast").agrees(long.encode())
    texts = [
        f"{text} end" if number == 70 else text for number, text in enumerate(random_texts(80))
    ]
    write_forum(tmp_path / "raw", texts)  # beyond those that the encoders are tried on
    config = forum_config(tmp_path, checked_share=1)
    right = Encoder._fast_ids

    def wrong(this: Encoder, text: bytes) -> npt.NDArray[np.uint32]:
        ids = right(this, text)
        return ids[::-1] if text.endswith(b" end") else ids

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "_fast_ids", wrong)
        with pytest.raises(UserError, match=r"document 'forum.jsonl:\d+': the fast encoder"):
            prepare(config)
    assert not list(tmp_path.rglob("*.ids*"))
    prepare(config)


def test_training_does_not_depend_on_the_order_of_the_texts(path: Path) -> None:
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    assert train_tokenizer(shuffled, 300).to_str() == train_tokenizer(TEXTS, 300).to_str()


def test_too_little_text_for_the_vocabulary_is_a_clear_error() -> None:
    with pytest.raises(UserError, match=r"the documents give only \d+ tokens, not 9000"):
        train_tokenizer(TEXTS, 9000)


def test_gpt2_files_are_renumbered_as_fairseq_did(path: Path, tmp_path: Path) -> None:
    model = json.loads(path.read_text())["model"]
    ordinary = [t for t, n in sorted(model["vocab"].items(), key=lambda i: i[1]) if n > 3]
    gpt2 = {token: n for n, token in enumerate(ordinary)} | {"<|endoftext|>": len(ordinary)}
    (tmp_path / "encoder.json").write_text(json.dumps(gpt2))
    merges = [" ".join(pair) for pair in model["merges"]]
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    imported = tokenizer_from_vocabulary(tmp_path / "encoder.json", tmp_path / "vocab.bpe")
    trained = load_tokenizer(path)
    for text in TEXTS:
        assert imported.encode(text).ids == trained.encode(text).ids
    roberta = imported.get_vocab()
    (tmp_path / "vocab.json").write_text(json.dumps(roberta))
    again = tokenizer_from_vocabulary(tmp_path / "vocab.json", tmp_path / "vocab.bpe")
    assert again.get_vocab() == roberta


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="no such tokenizer file"):
        load_tokenizer(tmp_path / "other.json")


@pytest.mark.parametrize("name", ["data_demo", "data_english", "data_packages"])
def test_the_shipped_configs_are_valid(name: str) -> None:
    assert load(f"configs/{name}.yaml", DataConfig).sources

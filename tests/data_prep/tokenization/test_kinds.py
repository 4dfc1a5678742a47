"""Rows of every kind of tokenizer hold the text; gigatoken is used only where it gives its ids."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import UserError
from data_prep.dataset.files import MAX_JSON_BYTES
from data_prep.dataset.manifest import Manifest, read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids, text_tokenizer
from data_prep.dry_run import describe
from data_prep.engine.costs import measured_costs
from data_prep.run import prepare
from data_prep.tokenization.config import SpecialTokenNames, TokenizerFromFileConfig
from data_prep.tokenization.encoder import Encoder, EncoderKind, TokenizerContents, encoder_of
from data_prep.tokenization.existing import prepared_from_file
from data_prep.tokenization.fast_encoder import fast_encoder_problem
from tests.data_prep.corpora import forum_config, write_forum
from tests.tokenizer_kinds import KINDS, save, texts

FAST = {"modernbert", "llama"}
"""The kinds that gigatoken can encode with."""


def contents_of(path: Path) -> TokenizerContents:
    tokenizer = load_tokenizer(path)
    return TokenizerContents.of(path, find_special_tokens(tokenizer, path), num_ids(tokenizer))


def problem_of(path: Path, written: Sequence[bytes] = ()) -> str | None:
    return fast_encoder_problem(contents_of(path), load_tokenizer(path), written)


def run(kind: str, folder: Path, written: list[str], **changes: Any) -> Manifest:
    write_forum(folder / "raw", written)
    path = save(kind, folder / "tokenizer")
    tokenizer = {"type": "file", "path": str(path), **changes.pop("tokenizer", {})}
    prepare(forum_config(folder, tokenizer=tokenizer, heldout_share=0, **changes))
    return read_manifest(folder / "rows")


def documents(folder: Path, manifest: Manifest) -> list[list[int]]:
    """The ids of the documents in the rows (full_sentences) of `folder`."""
    special = manifest.special_tokens
    reader = RowReader(folder / "rows", manifest, "train")
    rows = reader.read("forum", np.arange(manifest.source("train", "forum").rows)).astype(int)
    ids: list[int] = []
    for row in rows.tolist():
        assert row[0] == special.bos
        text = [number for number in row if number != special.pad]
        assert row == text + [special.pad] * (len(row) - len(text))
        assert text[-1] == special.eos
        ids += text[1:-1]
    ends = [place for place, number in enumerate(ids) if number == special.eos]
    return [ids[start:end] for start, end in zip([0, *[e + 1 for e in ends]], ends, strict=False)]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_decode_to_the_texts(kind: str, tmp_path: Path, logged: list[str]) -> None:
    written = texts(30)
    manifest = run(kind, tmp_path, written)
    special, plain = manifest.special_tokens, load_tokenizer(tmp_path / "tokenizer/tokenizer.json")
    expected = [plain.encode(text, add_special_tokens=False).ids for text in written]
    assert documents(tmp_path, manifest) == expected
    tokenizer = load_tokenizer(tmp_path / "rows/tokenizer.json")
    if kind not in {"wordpiece", "word_level"}:  # which lose case and spaces
        assert [tokenizer.decode(ids) for ids in expected] == written
    assert tokenizer.encode(written[0]).ids == [special.bos, *expected[0], special.eos]
    assert manifest.vocab_size == num_ids(plain)
    noticed = [line for line in logged if "encodes in place of gigatoken" in line]
    assert len(noticed) == (kind not in FAST)  # once
    assert not any("unknown to the tokenizer" in line for line in logged)


def test_pieces_stand_between_the_special_tokens_of_the_manifest(tmp_path: Path) -> None:
    pack = {"mode": "best_fit", "row_tokens": 256, "block_rows": 8, "shard_mb": 1}
    written = texts(30)
    manifest = run("camembert", tmp_path, written, pack=pack)
    plain = load_tokenizer(tmp_path / "tokenizer/tokenizer.json")
    reader = RowReader(tmp_path / "rows", manifest, "train")
    rows = reader.read("forum", np.arange(manifest.source("train", "forum").rows)).astype(int)
    ids = rows[rows != manifest.special_tokens.pad]
    starts = np.flatnonzero(ids == manifest.special_tokens.bos)
    pieces = [piece.tolist() for piece in np.split(ids, starts)[1:]]
    expected = [plain.encode(text).ids for text in written]
    assert sorted(pieces) == sorted(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_in_a_text_stays_text(kind: str, tmp_path: Path) -> None:
    literal = " ".join(["</s><mask> <s><pad> [MASK][SEP] [CLS] <|endoftext|>"] * 3)
    manifest = run(kind, tmp_path, [f"{text} {literal}" for text in texts(12)])
    special = manifest.special_tokens
    outside = {special.bos, special.pad, special.eos, special.mask}
    found = documents(tmp_path, manifest)
    assert len(found) == 12
    assert not any(outside & set(ids) for ids in found)


def test_the_reference_encoder_is_the_library_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)  # importing it fails
    run("xlm_roberta", tmp_path, texts(20), encoder="reference", checked_share=1)


@pytest.mark.parametrize("kind", KINDS)
def test_both_encoders_give_equal_ids_or_the_problem_is_named(kind: str, tmp_path: Path) -> None:
    problem = problem_of(save(kind, tmp_path), [text.encode() for text in texts(10)])
    assert (problem is None) == (kind in FAST), problem


def test_an_error_of_gigatoken_without_a_message_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Encoder, texts: list[bytes]) -> None:
        raise MemoryError

    monkeypatch.setattr(Encoder, "ids", failing)
    problem = problem_of(save("modernbert", tmp_path))
    assert problem == "gigatoken cannot use it: MemoryError"


def test_a_text_with_added_tokens_is_not_for_gigatoken(tmp_path: Path) -> None:
    contents = contents_of(save("modernbert", tmp_path))
    fast, reference = Encoder(contents, "fast"), Encoder(contents, "reference")
    batch = [b"the oven    was hot", b"the [unused3] oven", b"[unused] hot", b"the oven"]
    for found, expected in zip(fast.ids(batch), reference.ids(batch), strict=True):
        assert found.tolist() == expected.tolist()
    tokenizer = text_tokenizer(contents.path, contents.special)
    assert tokenizer.token_to_id("    ") in fast.ids(batch)[0]


def test_different_ids_before_the_work_are_noticed_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    right = Encoder._fast_ids
    monkeypatch.setattr(Encoder, "_fast_ids", lambda this, text: right(this, text)[::-1])
    run("llama", tmp_path, texts(20))
    assert any("gigatoken gives different ids for" in line for line in logged)


def test_a_tokenizer_is_tried_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'<mask>' is no token"):
        run("wordpiece", tmp_path, texts(20), tokenizer={"special_tokens": {"mask": "<mask>"}})
    assert not (tmp_path / "work").exists()
    config = {"type": "file", "path": str(tmp_path / "tokenizer/tokenizer.json")}
    plan = describe(forum_config(tmp_path, tokenizer=config))
    assert "encodes in place of gigatoken" in plan


def test_lost_text_is_counted_and_warned_of(tmp_path: Path, logged: list[str]) -> None:
    run("xlm_roberta", tmp_path, [f"{text} \u10d0\u10d1\u10d2 the end" for text in texts(20)])
    (line,) = [line for line in logged if "unknown to the tokenizer" in line]
    assert line.startswith("forum: 20 of ")
    report = json.loads((tmp_path / "rows/report.json").read_text())
    assert report["accounts"]["forum"]["unknown_tokens"] == 20


def test_unknown_text_does_not_count_where_bytes_stand_for_it(
    tmp_path: Path, logged: list[str]
) -> None:
    run("llama", tmp_path, [f"{text} \u10d0\u10d1\u10d2 the end" for text in texts(20)])
    assert not [line for line in logged if "unknown to the tokenizer" in line]


def test_settings_that_would_change_texts_are_noticed(tmp_path: Path, logged: list[str]) -> None:
    tokenizer = KINDS["llama"]()
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=300)
    folder = tmp_path / "kept"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    written = texts(20)
    write_forum(tmp_path / "raw", written)
    config = {"type": "file", "path": str(folder / "tokenizer.json")}
    prepare(forum_config(tmp_path, tokenizer=config, heldout_share=0))
    assert any("truncation is switched off" in line for line in logged)
    assert any("padding is switched off" in line for line in logged)
    assert any("have <s> and </s>" in line for line in logged)
    ids = documents(tmp_path, read_manifest(tmp_path / "rows"))
    assert [load_tokenizer(tmp_path / "rows/tokenizer.json").decode(i) for i in ids] == written


def test_a_padded_vocabulary_has_ids_without_a_token(tmp_path: Path) -> None:
    manifest = run("wordpiece", tmp_path, texts(12), tokenizer={"vocab_size": 66_000})
    assert (manifest.vocab_size, manifest.dtype) == (66_000, "uint32")
    assert manifest.special_tokens.others is not None
    assert manifest.special_tokens.others[-1][1] == 66_000


def test_a_mask_named_by_the_config(tmp_path: Path) -> None:
    names = {"special_tokens": {"mask": "[unused2]"}}
    special = run("wordpiece", tmp_path, texts(12), tokenizer=names).special_tokens
    assert special.mask == 3
    assert special.others == ((1, 3), (4, 6), (9, 10))


def test_the_library_takes_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(contents_of(save("word_level", tmp_path)), "reference")
    seen = []

    class Watched:
        def encode_batch_fast(self, batch: list[str], **_: bool) -> list[Any]:
            seen.append((os.environ["TOKENIZERS_PARALLELISM"], len(batch)))
            return []

    monkeypatch.setattr(encoder, "_reference", Watched())
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    encoder.reference_ids([b"a" * 200_000, b"b" * 200_000, b"c"])
    assert seen == [("false", 1), ("false", 2)]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_one_process_builds_one_encoder_of_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build = Encoder.__init__

    def counted(self: Encoder, tokenizer: TokenizerContents, kind: EncoderKind) -> None:
        built.append(tokenizer.sha256)
        build(self, tokenizer, kind)

    monkeypatch.setattr(Encoder, "__init__", counted)
    encoder_of.cache_clear()
    run("llama", tmp_path, texts(20))  # checked before the work, taken over, encoded with
    assert len(built) == 1


def test_a_tokenizer_that_changed_is_read_again(tmp_path: Path) -> None:
    first = save("llama", tmp_path)
    config = TokenizerFromFileConfig(type="file", path=str(first))
    before = prepared_from_file(config)
    assert prepared_from_file(config) is before
    larger = load_tokenizer(first)
    larger.add_tokens(["anotherword"])
    larger.save(str(first))
    assert prepared_from_file(config).vocab_size == before.vocab_size + 1
    (tmp_path / "special_tokens_map.json").write_text('{"additional_special_tokens": ["the"]}')
    again = prepared_from_file(config)
    assert again.special != before.special


def test_a_tokenizer_of_other_settings_is_prepared_again(tmp_path: Path) -> None:
    config = TokenizerFromFileConfig(type="file", path=str(save("wordpiece", tmp_path)))
    before = prepared_from_file(config)
    larger = prepared_from_file(config.model_copy(update={"vocab_size": 1000}))
    assert (larger.vocab_size, before.vocab_size < 1000) == (1000, True)
    names = SpecialTokenNames(mask="[unused2]")
    assert prepared_from_file(config.model_copy(update={"special_tokens": names})).special.mask == 3
    assert prepared_from_file(config).special == before.special


def test_the_name_of_a_tokenizer_need_not_be_utf_8(tmp_path: Path) -> None:
    path = save("llama", tmp_path)
    named = path.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.json"))
    prepared = prepared_from_file(TokenizerFromFileConfig(type="file", path=str(named)))
    assert prepared.vocab_size == num_ids(load_tokenizer(named))


def test_a_file_too_large_for_a_tokenizer_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.touch()
    os.truncate(path, MAX_JSON_BYTES + 1)
    with measured_costs() as costs, pytest.raises(UserError, match="more than 1,073,741,824 bytes"):
        prepared_from_file(TokenizerFromFileConfig(type="file", path=str(path)))
    assert costs.bytes_read < 1_000_000

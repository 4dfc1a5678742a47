"""A vocabulary that is not that of the rows is refused, however much the two have in common."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers

from configs.load import UserError
from data_prep.dataset.special_tokens import find_special_tokens
from pipeline.hugging_face.vocabulary import read_vocabulary, vocabulary_errors
from pipeline.hugging_face.weights import read_hf_folder
from pipeline.import_hf import check_same_model
from pipeline.run.plan import plan_run
from tests.pipeline.hugging_face.folders import MODEL, SAME_SIZES, tiny_folder, tiny_tokenizer
from tests.pipeline.training_run import VOCAB_SIZE, make_config, make_rows


@pytest.mark.parametrize(
    ("tokenizer", "changes", "message"),
    [
        (
            tiny_tokenizer(VOCAB_SIZE, a7=9, a9=7),
            {},
            "2 tokens have different ids, the first: 'a7' is 7 for the rows, 9 in the folder; "
            "'a9' is 9 for the rows, 7 in the folder",
        ),
        (tiny_tokenizer(VOCAB_SIZE, new=9), {}, "'a9' is 9 for the rows, missing in the folder"),
        (
            tiny_tokenizer(VOCAB_SIZE),
            {"eos_token_id": 3},
            "eos_token_id of the folder's config.json is 3, of the rows 2",
        ),
        (
            tiny_tokenizer(VOCAB_SIZE),
            {"pad_token_id": 0, "max_position_embeddings": 33},
            "pad_token_id of the folder's config.json is 0, of the rows 1",
        ),
    ],
    ids=["permuted", "a different token", "end", "padding"],
)
def test_a_vocabulary_that_differs_is_named(
    tmp_path: Path, tokenizer: Tokenizer, changes: dict[str, int], message: str
) -> None:
    make_rows(tmp_path / "data", tokenizer=tiny_tokenizer(VOCAB_SIZE))
    tiny_folder(tmp_path / "hf", tokenizer, **{**SAME_SIZES, **changes})
    config = make_config(tmp_path / "data", tmp_path / "run", model=MODEL)
    hf = read_hf_folder(tmp_path / "hf")
    with pytest.raises(UserError) as error:
        check_same_model(plan_run(config, 1), hf, read_vocabulary(tmp_path / "hf"))
    assert message in str(error.value)


def errors_of(theirs: Tokenizer, rows: Tokenizer, folder: Path) -> list[str]:
    theirs.save(str(folder / "tokenizer.json"))
    return list(
        vocabulary_errors(read_vocabulary(folder), rows, find_special_tokens(rows, "rows"), {})
    )


def test_merges_and_normalizers_are_compared(tmp_path: Path) -> None:
    letters = {"a": 4, "b": 5, "c": 6, "ab": 7, "bc": 8, "abc": 9}
    rows = tiny_tokenizer(20, [("a", "b"), ("b", "c"), ("ab", "c")], **letters)
    assert not errors_of(rows, rows, tmp_path)
    other = tiny_tokenizer(20, [("b", "c"), ("a", "b"), ("ab", "c")], **letters)
    (error,) = errors_of(other, rows, tmp_path)
    assert "number 0, 'a b' for the rows, 'b c' in the folder" in error
    lower = tiny_tokenizer(20, [("a", "b"), ("b", "c"), ("ab", "c")], **letters)
    lower.normalizer = normalizers.Replace("T", "a")
    (error,) = errors_of(lower, rows, tmp_path)
    assert error.startswith("'The CAT sat' is [")


def test_vocabularies_without_a_tokenizer_json_are_read(tmp_path: Path) -> None:
    rows = tiny_tokenizer(20, [("a", "b")], a=4, b=5, ab=6)
    with pytest.raises(UserError, match=r"no tokenizer\.json, vocab\.json or vocab\.txt"):
        read_vocabulary(tmp_path)
    vocabulary = rows.get_vocab()
    in_order = sorted(vocabulary, key=lambda token: vocabulary[token])
    (tmp_path / "vocab.txt").write_text("\n".join(in_order) + "\n")
    assert read_vocabulary(tmp_path).ids == vocabulary
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    found = read_vocabulary(tmp_path)
    assert found.merges == ("a b",)
    assert not list(vocabulary_errors(found, rows, find_special_tokens(rows, "rows"), {}))
    rows.save(str(tmp_path / "named.json"))
    named = read_vocabulary(tmp_path, tmp_path / "named.json")
    assert named.tokenizer is not None
    (tmp_path / "vocab.json").write_text("[]")
    with pytest.raises(UserError, match=r"vocab\.json: cannot be read"):
        read_vocabulary(tmp_path)

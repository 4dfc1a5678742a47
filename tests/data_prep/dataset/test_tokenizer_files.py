"""Odd and broken tokenizer.json: the ids of the library decide, and errors name the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from data_prep.dataset.special_tokens import Role, find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, read_tree, text_tokenizer
from tests.tokenizer_kinds import KINDS, save

NAMES = "</s> <s> <pad> <mask> [MASK] [SEP] [CLS] [PAD] [UNK] oven"


def rewritten(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_added_tokens_are_those_of_the_library(kind: str, tmp_path: Path) -> None:
    path = save(kind, tmp_path)
    tree = json.loads(path.read_bytes())
    for added in tree["added_tokens"]:  # the library does not ask for these ids
        added.update(id=added["id"] + 1000, special=False)
    special = find_special_tokens(load_tokenizer(rewritten(path, tree)), path)
    tokenizer = text_tokenizer(path, special)
    outside = {special.bos, special.pad, special.eos, special.mask}
    assert not outside & set(tokenizer.encode(NAMES, add_special_tokens=False).ids)


def test_ordinary_added_tokens_in_any_order_are_found_in_texts(tmp_path: Path) -> None:
    path = save("modernbert", tmp_path)
    tree = json.loads(path.read_bytes())
    tree["added_tokens"].reverse()  # the library numbers them in their order
    names: dict[Role, str | None] = {
        "bos": "[CLS]",
        "pad": "[PAD]",
        "eos": "[SEP]",
        "unk": "[UNK]",
        "mask": "[MASK]",
    }
    tree["post_processor"] = None
    plain = load_tokenizer(rewritten(path, tree))
    tokenizer = text_tokenizer(path, find_special_tokens(plain, path, names))
    ids = tokenizer.encode("[unused0][unused3]", add_special_tokens=False).ids
    assert ids == [plain.token_to_id("[unused0]"), plain.token_to_id("[unused3]")]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("added_tokens", "abc"),
        ("added_tokens", ["abc"]),
        ("added_tokens", [{"content": "x"}]),
        ("added_tokens", [{"id": 3, "content": ["x"], "special": True}]),
        ("model", {"type": "BPE"}),
        ("model", {"type": "BPE", "vocab": None, "merges": []}),
        ("model", {"type": "BPE", "vocab": "abc", "merges": []}),
        ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": [5]}),
        ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": 5}),
        ("model", {"type": "Unigram", "vocab": [["a"], ["b", 1, 2]]}),
    ],
)
def test_a_broken_file_is_a_clear_error(part: str, value: Any, tmp_path: Path) -> None:
    path = save("llama", tmp_path)
    special = find_special_tokens(load_tokenizer(path), path)
    rewritten(path, {**json.loads(path.read_bytes()), part: value})
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer\.json: "):
        text_tokenizer(path, special)


def test_a_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_tree(tmp_path)
    assert str(error.value).count(str(tmp_path)) == 1


def test_a_post_processor_with_ids_of_no_token_says_nothing(tmp_path: Path) -> None:
    path = save("modernbert", tmp_path)
    tree = json.loads(path.read_bytes())
    rewritten(path, {**tree, "added_tokens": []})  # its post-processor still names them
    with pytest.raises(UserError, match="no token is known to be bos"):
        find_special_tokens(load_tokenizer(path), path)

"""Reads a tokenizer.json of any kind that the library `tokenizers` loads.

Truncation, padding and dropout inside the file are switched off: they are for a model's requests
and would cut, lengthen or change texts.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer

from configs.load import UserError
from data_prep.dataset.files import read_regular
from data_prep.dataset.manifest import SpecialTokens

FIRST_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""The ids 0 to 3 of RoBERTa."""
MASK_TOKEN = "<mask>"
"""The last id of RoBERTa."""

_HIDDEN = "\ufdd0\ufdef{}\ufdef\ufdd0"
"""The name under which a special token is hidden from texts: noncharacters, which no text holds."""


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json, without truncation, padding and dropout.

    The names of its special tokens in a text are text; see `text_tokenizer` for tokenizers whose
    model knows these names too. UserError for a file that cannot be read.
    """
    return _tokenizer(_read(path), path)


def read_tree(path: str | Path) -> dict[str, Any]:
    """The content of a tokenizer.json; UserError for a file that cannot be read."""
    content = _read(path)
    try:
        tree = orjson.loads(content)
    except ValueError as error:
        raise UserError(f"{path}: not a tokenizer.json: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise UserError(f"{path}: not a tokenizer.json: it has no model")
    return tree


def _read(path: str | Path) -> bytes:
    try:
        return read_regular(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such tokenizer file") from None
    except OSError as error:
        raise UserError(f"{path}: not a tokenizer.json: {error}") from None


def _tokenizer(content: bytes, path: str | Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception for a file it cannot read
        raise UserError(f"{path}: not a tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    tokenizer.encode_special_tokens = True
    return tokenizer


def switched_off(tree: Mapping[str, Any]) -> list[str]:
    """The settings of a tokenizer.json that `load_tokenizer` switches off, in words."""
    found = [key for key in ("truncation", "padding") if tree.get(key)]
    return found + ["dropout"] * bool(tree["model"].get("dropout"))


def num_ids(tokenizer: Tokenizer) -> int:
    """The highest id + 1, which is more than the number of tokens where ids have no token."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def text_tokenizer(path: str | Path, special: SpecialTokens) -> Tokenizer:
    """The same tokenizer for texts: it never finds a special token in one.

    Unigram and WordLevel models, among others, know the names of special tokens as pieces of text.
    Here these tokens have names that no text contains, and their ids.
    """
    added_tokens = load_tokenizer(path).get_added_tokens_decoder().items()
    numbers = {token.content: number for number, token in added_tokens}
    tree = read_tree(path)
    for added in tree.get("added_tokens") or ():
        added["id"] = numbers.get(added["content"], added["id"])
    return tokenizer_of_texts(tree, path, special)


def tokenizer_of_texts(tree: dict[str, Any], path: str | Path, special: SpecialTokens) -> Tokenizer:
    """The `text_tokenizer` of the file `path`, whose content is `tree`. The tree is changed.

    Its added tokens must have the ids that the library gives them, as in a file that it wrote: it
    reads over those of other files.
    """
    ids = {special.bos, special.pad, special.eos, special.unk, special.mask}
    hidden = {token for token, number in _ids_in(tree) if number in ids}
    hidden |= {t["content"] for t in tree.get("added_tokens") or () if t.get("special")}
    model = tree["model"]
    for added in tree.get("added_tokens") or ():
        if added["content"] in hidden:
            added.update(content=_HIDDEN.format(added["content"]), normalized=False, special=True)
    if isinstance(model["vocab"], dict):
        for token in hidden & model["vocab"].keys():
            model["vocab"][_HIDDEN.format(token)] = model["vocab"].pop(token)
    else:  # Unigram's: pieces with their scores
        model["vocab"] = [[_name(token, hidden), score] for token, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = _name(model["unk_token"], hidden)
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if not _has(merge, hidden)]
    return _tokenizer(orjson.dumps(tree), path)


def _ids_in(tree: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """(token, id) of the model of a tokenizer.json and of its added tokens."""
    vocabulary = tree["model"]["vocab"]
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    else:
        yield from ((piece, number) for number, (piece, _) in enumerate(vocabulary))
    yield from ((added["content"], added["id"]) for added in tree.get("added_tokens") or ())


def _name(token: str, hidden: set[str]) -> str:
    return _HIDDEN.format(token) if token in hidden else token


def _has(merge: str | list[str], tokens: set[str]) -> bool:
    """Whether one of the two tokens of a merge, or what they become, is one of `tokens`."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    return not tokens.isdisjoint(pair) or "".join(pair) in tokens


def same_tokenizer(first: str | Path, second: str | Path) -> bool:
    """Whether two tokenizer.json give every text the same ids, whatever else the files say.

    Compared are the vocabulary, the model, and what is done to a text before it: a file that
    another program wrote, or that was written again, differs in its bytes. Raises UserError for
    other files.
    """
    return _content(first) == _content(second)


def _content(path: str | Path) -> tuple[Any, ...]:
    tokenizer = load_tokenizer(path)
    tree = json.loads(tokenizer.to_str())
    text_tokens = [
        {key: value for key, value in token.items() if key != "id"}
        for token in tree["added_tokens"]
        if not token["special"]
    ]
    before = [_without_offsets(tree[key]) for key in ("normalizer", "pre_tokenizer")]
    model = {key: value for key, value in tree["model"].items() if key != "vocab"}
    if isinstance(tree["model"]["vocab"], list):
        model["scores"] = [score for _, score in tree["model"]["vocab"]]
    return tokenizer.get_vocab(with_added_tokens=True), model, before, text_tokens


def _without_offsets(part: Any) -> Any:
    """A part of the tree without what only changes the places of tokens in the text."""
    if isinstance(part, dict):
        return {k: _without_offsets(v) for k, v in part.items() if k != "trim_offsets"}
    return [_without_offsets(item) for item in part] if isinstance(part, list) else part

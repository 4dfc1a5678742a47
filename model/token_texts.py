"""What the tokens of a tokenizer stand for, so that two tokenizers can be compared. No torch."""

import json
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from model.word_vectors import SPACE, byte_symbols

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Alphabet = Literal["bytes", "sentence_piece", "word_piece", "plain"]
Key = tuple[bool, bytes]


def num_ids(tokenizer: "Tokenizer") -> int:
    """The highest id + 1."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def is_extension(old: "Tokenizer", new: "Tokenizer") -> bool:
    """Whether the new tokenizer has every token of the old one, under the same id."""
    before, after = (t.get_vocab(with_added_tokens=True) for t in (old, new))
    return all(after.get(token) == number for token, number in before.items())


class TokenTexts:
    """The texts of the tokens of one tokenizer."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.tokenizer = tokenizer
        self._tree: dict[str, Any] = json.loads(tokenizer.to_str())
        self._decode = {symbol: byte for byte, symbol in byte_symbols().items()}
        self.added = {token["content"] for token in self._tree["added_tokens"]}

    @cached_property
    def alphabet(self) -> Alphabet:
        """How tokens write spaces and bytes."""
        model, parts = self._tree["model"], json.dumps([self._tree["decoder"], self._before])
        if model["type"] == "WordPiece":
            return "word_piece"
        if '"ByteLevel"' in parts:
            return "bytes"
        if '"Metaspace"' in parts or SPACE in parts or any(SPACE in t for t in self._vocabulary):
            return "sentence_piece"
        return "plain"

    @property
    def _before(self) -> Any:
        return [self._tree["normalizer"], self._tree["pre_tokenizer"]]

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        found: dict[str, int] = self.tokenizer.get_vocab(with_added_tokens=True)
        return found

    @property
    def prefix(self) -> str:
        """The mark of WordPiece's pieces inside of words."""
        prefix: str = self._tree["model"].get("continuing_subword_prefix") or ""
        return prefix

    def key(self, token: str) -> Key | None:
        """(whether a space, or the start of a word, precedes the text; the text's bytes).

        None for added tokens, which are mostly no text, and for tokens without any.
        """
        if token in self.added:
            return None
        starts_word = False
        if self.alphabet == "word_piece":
            starts_word = not token.startswith(self.prefix)
            text = token.removeprefix(self.prefix).encode()
        elif self.alphabet == "bytes" and all(symbol in self._decode for symbol in token):
            text = bytes(self._decode[symbol] for symbol in token)
        else:
            text = token.replace(SPACE, " ").encode()
        if text.startswith(b" ") and len(text) > 1:
            starts_word, text = True, text[1:]
        return (starts_word, text) if text else None

    @property
    def unknown_id(self) -> int | None:
        """The id of the unknown token, if there is one."""
        model = self._tree["model"]
        token = model.get("unk_token")
        number: int | None = self._vocabulary.get(token) if token else model.get("unk_id")
        return number

    def keys(self) -> dict[int, Key]:
        """The key of each token that has one, by id; of tokens with equal keys the lowest id."""
        found: dict[Key, int] = {}
        for token, number in sorted(self._vocabulary.items(), key=lambda item: item[1]):
            key = self.key(token)
            if key is not None:
                found.setdefault(key, number)
        return {number: key for key, number in found.items()}


def piece_finder(old: "Tokenizer", new: "Tokenizer") -> Callable[[int], list[int]]:
    """A function that gives the old ids of the text of a new id; none for what is no text.

    Where both write tokens in the same way, the token itself is segmented by the old model: bytes
    that are no whole character, and pieces inside of words, then stay what they are.
    """
    old_texts, new_texts = TokenTexts(old), TokenTexts(new)
    names = {number: token for token, number in new_texts._vocabulary.items()}
    special = {n for n, token in new.get_added_tokens_decoder().items() if token.special}
    is_same_kind = old_texts.alphabet == new_texts.alphabet

    def pieces(number: int) -> list[int]:
        token = names.get(number, "")
        key = new_texts.key(token)
        if key is None:
            if token not in new_texts.added or number in special:
                return []
            added: list[int] = old.encode(token, add_special_tokens=False).ids
            return added
        starts_word, text = key
        if old_texts.alphabet == "word_piece" and not starts_word:
            return _continuing(old, old_texts.prefix, text.decode("utf-8", "ignore"))
        if is_same_kind and old_texts.alphabet != "plain":
            return [piece.id for piece in old.model.tokenize(token)]
        readable = text.decode("utf-8", "ignore")
        if old_texts.alphabet == "sentence_piece":  # whose pre-tokenizer puts a space before texts
            marked = SPACE * starts_word + readable.replace(" ", SPACE)
            return [piece.id for piece in old.model.tokenize(marked)]
        found: list[int] = old.encode(" " * starts_word + readable, add_special_tokens=False).ids
        return found

    return pieces


def _continuing(old: "Tokenizer", prefix: str, text: str) -> list[int]:
    """The longest pieces of a text inside of a word; none if a part of it has no piece."""
    found: list[int] = []
    start = 0
    while start < len(text):
        for end in range(len(text), start, -1):
            piece = old.token_to_id(prefix + text[start:end])
            if piece is not None:
                found.append(piece)
                start = end
                break
        else:
            return []
    return found

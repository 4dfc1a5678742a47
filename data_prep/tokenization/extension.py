"""An existing tokenizer with new tokens of a new corpus, whose old ids stay what they are.

New ids follow the old ones. A text in whose ids no new token occurs has the ids that the old
tokenizer gives it:

- BPE: new merges stand after the old ones, so that they apply where no old one does any more.
- WordPiece takes the longest piece. A word that is cut elsewhere because of a new piece must not
  end in a character that has no piece of its own: such characters become tokens too.
- Unigram takes the segmentation of the highest score. Old scores stay, and so does the lowest
  one, which the score of unknown characters follows from.
- WordLevel knows whole words.

Characters of the corpus that no token holds come first (`learned_characters`): where one occurs,
the old tokenizer gave an unknown token or bytes, and the new one gives a new token or the same.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer

from configs.load import UserError
from data_prep.tokenization.corpus_words import word_counts
from data_prep.tokenization.existing import PreparedTokenizer
from data_prep.tokenization.learned_characters import Marks, learn_characters
from data_prep.tokenization.learned_tokens import (
    MIN_FREQUENCY,
    NewToken,
    Pieces,
    Rules,
    learn_tokens,
    merged,
)

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_UNKNOWN = ""
"""Stands for text without a piece."""


def extended_tokenizer(
    old: PreparedTokenizer, texts: Iterable[str], num_tokens: int, path: str
) -> PreparedTokenizer:
    """The tokenizer `old` of the file `path` with `num_tokens` new tokens, learned from `texts`.

    UserError where the texts give fewer, or where the tokenizer cannot be extended.
    """
    check_extensible(old, path)
    tree = json.loads(old.tokenizer.to_str())
    learn = _KINDS[tree["model"]["type"]]
    _put_added_into_model(tree, old.vocab_size, path)
    is_cut = tree["model"]["type"] in ("BPE", "Unigram")  # others know a word as a whole only
    new = learn(old.tokenizer, tree, word_counts(old.tokenizer, texts, is_cut), num_tokens)
    if len(new) < num_tokens:
        raise UserError(
            f"tokenizer.new_tokens: the documents give only {len(new)} new tokens, not "
            f"{num_tokens}; set a smaller number, or give more text (tokenizer.sample_mb, sources)"
        )
    tokenizer = _with_tokens(tree, new, old.vocab_size)
    _check_ids(old.tokenizer, tokenizer, list(new), old.vocab_size)
    return replace(old, tokenizer=tokenizer, vocab_size=old.vocab_size + len(new))


def check_extensible(old: PreparedTokenizer, path: str) -> None:
    """Raises UserError for a tokenizer whose old ids or encodings could not be kept."""
    tree = json.loads(old.tokenizer.to_str())
    kind = tree["model"]["type"]
    if kind not in _KINDS:
        raise UserError(f"tokenizer.path: {path}: a model of type {kind} cannot be extended")
    vocabulary = old.tokenizer.get_vocab(with_added_tokens=False)
    outside = [
        token["content"]
        for token in tree["added_tokens"]
        if token["content"] not in vocabulary and not token["special"]
    ]
    if kind != "BPE" and outside:
        raise UserError(
            f"tokenizer.path: {path}: {outside[0]!r} and other added tokens are not in the "
            f"vocabulary of its {kind} model, which would then find them inside of words too: such "
            "a tokenizer cannot be extended; use type: file, or train one"
        )
    if kind == "Unigram":
        known = set(old.tokenizer.get_vocab(with_added_tokens=True).values())
        if len(known) < old.vocab_size:
            raise UserError(
                f"tokenizer.path: {path}: {old.vocab_size - len(known)} of its {old.vocab_size} "
                "ids have no token, which the list of a Unigram model cannot express: such a "
                "tokenizer cannot be extended"
            )


def _with_tokens(tree: Mapping[str, Any], tokens: Mapping[str, float], first: int) -> Tokenizer:
    """The tokenizer `tree` with `tokens` and their scores, numbered from `first`."""
    vocabulary = tree["model"]["vocab"]
    if isinstance(vocabulary, dict):
        vocabulary = vocabulary | {token: first + n for n, token in enumerate(tokens)}
    else:
        vocabulary = [*vocabulary, *([token, score] for token, score in tokens.items())]
    extended = {**tree, "model": {**tree["model"], "vocab": vocabulary}}
    tokenizer = Tokenizer.from_str(json.dumps(extended))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _put_added_into_model(tree: dict[str, Any], size: int, path: str) -> None:
    """Gives the added tokens their ids in the model: the library numbers others by its size."""
    model = tree["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"].update({token["content"]: token["id"] for token in tree["added_tokens"]})
        return
    lowest = min(score for _, score in model["vocab"])
    for token in sorted(tree["added_tokens"], key=lambda token: int(token["id"])):
        if token["id"] >= len(model["vocab"]):
            model["vocab"].append([token["content"], lowest])
    assert len(model["vocab"]) == size, path


def _check_ids(old: Tokenizer, new: Tokenizer, tokens: Sequence[str], first: int) -> None:
    before, after = (t.get_vocab(with_added_tokens=True) for t in (old, new))
    expected = {**before, **{token: first + n for n, token in enumerate(tokens)}}
    assert after == expected, "the library numbered tokens differently"


def _no_text(tree: Mapping[str, Any]) -> set[str]:
    """Tokens that are never merged: added and unknown ones, and those of single bytes."""
    model = tree["model"]
    tokens: set[str] = {token["content"] for token in tree["added_tokens"]}
    if model.get("unk_token") is not None:
        tokens.add(model["unk_token"])
    if model.get("unk_id") is not None:
        tokens.add(model["vocab"][model["unk_id"]][0])
    names = set(model["vocab"] if isinstance(model["vocab"], dict) else dict(model["vocab"]))
    return tokens | {name for name in names if _BYTE.fullmatch(name)}


def _segmenter(tokenizer: Tokenizer) -> Callable[[str], Pieces]:
    model = tokenizer.model
    return lambda word: [token.value for token in model.tokenize(word)]


def _learn_bpe(
    tokenizer: Tokenizer, tree: dict[str, Any], words: Counter[str], num_tokens: int
) -> dict[str, float]:
    """New tokens; their merges are appended to those of `tree`."""
    model = tree["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    marks = Marks(prefix, model.get("end_of_word_suffix") or "")
    characters = learn_characters(
        words, model["vocab"], marks, num_tokens, bool(model.get("byte_fallback"))
    )
    if characters:
        first = max(model["vocab"].values()) + 1
        tokenizer = _with_tokens(tree, dict.fromkeys(characters, 0.0), first)
    rules = Rules(lambda left, right: left + right[len(prefix) :], merged, lambda _: True, False)
    segment, excluded = _segmenter(tokenizer), _no_text(tree)
    known = {*model["vocab"], *characters}
    wanted = num_tokens - len(characters)
    tokens = learn_tokens(words, segment, known, excluded, rules, wanted)
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] += [f"{t.left} {t.right}" if as_text else [t.left, t.right] for t in tokens]
    return dict.fromkeys([*characters, *(token.text for token in tokens)], 0.0)


def _learn_wordpiece(
    tokenizer: Tokenizer, tree: dict[str, Any], words: Counter[str], num_tokens: int
) -> dict[str, float]:
    """New pieces: first the characters that lack a piece of their own, see the module's text, then
    those that no piece holds."""
    model = tree["model"]
    prefix: str = model["continuing_subword_prefix"]
    excluded = _no_text(tree)
    pieces = {piece for piece in model["vocab"] if piece not in excluded}
    characters = _lacking(tokenizer, pieces, prefix)
    if len(characters) > num_tokens:
        raise UserError(
            f"tokenizer.new_tokens: {len(characters)} characters occur in pieces of the vocabulary "
            f"but have no piece of their own, which new pieces may need; set at least that many"
        )
    single = [prefix + character for character in characters]
    most = int(model["max_input_chars_per_word"])
    usual = {word: num for word, num in words.items() if len(word) <= most}
    known = {*model["vocab"], *single}
    single += learn_characters(usual, known, Marks(prefix), num_tokens - len(single), False)
    pieces.update(single)
    longest = max(map(len, pieces))

    def cut(word: str) -> Pieces:
        found: Pieces = []
        start = 0
        while start < len(word):
            mark = prefix if start else ""
            for end in range(min(len(word), start + longest), start, -1):
                if mark + word[start:end] in pieces:
                    found.append(mark + word[start:end])
                    start = end
                    break
            else:
                return [_UNKNOWN]
        return found

    def applied(old: Pieces, token: NewToken) -> Pieces:
        nonlocal longest
        pieces.add(token.text)
        longest = max(longest, len(token.text))
        return cut("".join(p[len(prefix) :] if n else p for n, p in enumerate(old)))

    rules = Rules(lambda left, right: left + right[len(prefix) :], applied, lambda _: True, True)
    wanted = num_tokens - len(single)
    tokens = learn_tokens(usual, cut, set(pieces), excluded, rules, wanted)
    return dict.fromkeys([*single, *(t.text for t in tokens)], 0.0)


def _lacking(tokenizer: Tokenizer, pieces: set[str], prefix: str) -> list[str]:
    """Characters inside of words that the pieces know, but not alone."""
    inner: set[str] = set()
    for piece in pieces:
        rest = piece[len(prefix) :] if piece.startswith(prefix) else piece[1:]
        lacks = [character for character in rest if prefix + character not in pieces]
        # Not pieces that no word can hold, such as "[unused1]" where punctuation is cut off.
        if lacks and list(word_counts(tokenizer, [f"a{rest}"])) == [f"a{rest}"]:
            inner.update(lacks)
    return sorted(inner)


def _learn_unigram(
    tokenizer: Tokenizer, tree: dict[str, Any], words: Counter[str], num_tokens: int
) -> dict[str, float]:
    """New pieces with the logarithm of their share of the corpus as score, as the old ones have of
    theirs (Kudo 2018, equation 2); a pair becomes one where that is above the scores of the two."""
    scores: dict[str, float] = dict(tree["model"]["vocab"])
    lowest = min(scores.values())
    num_characters = sum(num * len(word) for word, num in words.items())
    characters = learn_characters(
        words, scores, Marks(), num_tokens, bool(tree["model"].get("byte_fallback"))
    )
    found = {
        character: max(math.log(num / num_characters), lowest)
        for character, num in characters.items()
    }
    if found:
        tokenizer = _with_tokens(tree, found, len(scores))
        scores |= found
    segment, excluded = _segmenter(tokenizer), {*_no_text(tree), _UNKNOWN}
    cut = {word: [p if p in scores else _UNKNOWN for p in segment(word)] for word in words}
    total = sum(num * len(cut[word]) for word, num in words.items())

    def accepts(token: NewToken) -> bool:
        score = max(math.log(token.num / total), lowest)
        if score <= scores[token.left] + scores[token.right]:
            return False
        scores[token.text] = found[token.text] = score
        return True

    rules = Rules(lambda left, right: left + right, merged, accepts, False)
    learn_tokens(words, cut.__getitem__, set(scores), excluded, rules, num_tokens - len(found))
    return found


def _learn_words(
    tokenizer: Tokenizer, tree: dict[str, Any], words: Counter[str], num_tokens: int
) -> dict[str, float]:
    """The most frequent words without a token."""
    vocabulary = tree["model"]["vocab"]
    unknown = [(-num, word) for word, num in words.items() if word not in vocabulary]
    frequent = sorted(entry for entry in unknown if -entry[0] >= MIN_FREQUENCY)
    return dict.fromkeys((word for _, word in frequent[:num_tokens]), 0.0)


_KINDS = {
    "BPE": _learn_bpe,
    "WordPiece": _learn_wordpiece,
    "Unigram": _learn_unigram,
    "WordLevel": _learn_words,
}

"""The words of a corpus that new tokens are learned from."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, pre_tokenizers

_SPACES = " \u2581"
_LETTERS = r"\p{L}\p{M}\p{N}\p{Cf}"
_WORDS = Regex(rf"[{_SPACES}]*[{_LETTERS}]+|[{_SPACES}]*[^{_LETTERS}\s{_SPACES}]+|[{_SPACES}]+|\s+")
"""Words of a text that the tokenizer does not split, or at spaces only: no token is learned that
holds parts of two words, or a word and punctuation (SentencePiece splits at scripts, too)."""
_GLUED = "a,b"
_LONGEST_WORD = 200
"""Characters of a word that is learned from. Longer ones are cut there: texts without spaces."""


def word_counts(tokenizer: Tokenizer, texts: Iterable[str], is_cut: bool = False) -> Counter[str]:
    """How often each word (piece of the pre-tokenizer) occurs in the normalised texts.

    Words of more than _LONGEST_WORD characters are left out, or cut if `is_cut`.
    """
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    words = pre_tokenizers.Split(_WORDS, "isolated") if _glues(tokenizer) else None
    counts: Counter[str] = Counter()
    for text in texts:
        if normalizer is not None:
            text = normalizer.normalize_str(text)
        pieces = [text]
        if splitter is not None:
            pieces = [piece for piece, _ in splitter.pre_tokenize_str(text)]
        if words is not None:
            pieces = [word for piece in pieces for word, _ in words.pre_tokenize_str(piece)]
        for piece in pieces:
            if len(piece) <= _LONGEST_WORD:
                counts[piece] += 1
            elif is_cut:
                counts.update(
                    piece[start : start + _LONGEST_WORD]
                    for start in range(0, len(piece), _LONGEST_WORD)
                )
    return counts


def _glues(tokenizer: Tokenizer) -> bool:
    """Whether the model gets words with their punctuation, or whole texts, as one piece."""
    splitter = tokenizer.pre_tokenizer
    return splitter is None or len(splitter.pre_tokenize_str(_GLUED)) == 1

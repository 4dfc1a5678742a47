"""Probes that are made rather than collected: agreement in English, word order, halves of texts.

Word order needs nothing of a language but white space, agreement sentences are templates of common
English words; both are small and easy beside BLiMP, and need no download.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence

from pipeline.evaluation.embeddings import TextPair
from pipeline.evaluation.minimal_pairs import MinimalPair
from pipeline.evaluation.texts import halves

MIN_WORDS, MAX_WORDS = 5, 30
"""Of a sentence whose words are swapped: with fewer there is no context, longer ones cost."""
MIN_HALF_WORDS = 8
"""Of each half of a text."""
SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "।", "։", "؟", "።")

_NOUNS = (
    *(("dog", "dogs"), ("child", "children"), ("teacher", "teachers"), ("king", "kings")),
    *(("woman", "women"), ("house", "houses"), ("book", "books"), ("friend", "friends")),
    *(("man", "men"), ("ship", "ships"), ("city", "cities"), ("brother", "brothers")),
)
_VERBS = (("is", "are"), ("was", "were"), ("has", "have"))
_REST = {
    "is": ("here", "very old", "in the house"),
    "was": ("here", "very old", "in the house"),
    "has": ("been here", "a name", "come home"),
}
_BETWEEN = ("", " near the {}", " that the {} saw")
_DETERMINERS = (("this", "these"), ("that", "those"))


def agreement_pairs(count: int, seed: int = 0) -> dict[str, list[MinimalPair]]:
    """English pairs by phenomenon, at most `count` of each: subject and verb, also with a noun of
    the other number between them, and determiner and noun. Drawn by `seed` without repetition."""
    made = {
        "subject_verb": list(_subject_verb(_BETWEEN[0])),
        "subject_verb_across_noun": [p for b in _BETWEEN[1:] for p in _subject_verb(b)],
        "determiner_noun": list(_determiner_noun()),
    }
    result = {}
    for name, pairs in made.items():
        generator = random.Random(f"{seed} {name}")
        result[name] = generator.sample(pairs, min(count, len(pairs)))
    return result


def word_order_pairs(texts: Sequence[str], count: int) -> list[MinimalPair]:
    """At most `count` sentences of `texts` in which two neighbouring words are swapped.

    Which two depends on the sentence. Words that are equal but for case are not swapped, nor is the
    last word of the sentence, which often bears its full stop, nor the first, which may bear a
    capital.
    """
    pairs: list[MinimalPair] = []
    seen: set[str] = set()
    for text in texts:
        for sentence in _sentences(text):
            if len(pairs) == count:
                return pairs
            words = sentence.split()
            places = [
                n
                for n in range(1, len(words) - 2)
                if words[n].lower() != words[n + 1].lower()
                and all(word.isalpha() for word in words[n : n + 2])
            ]
            if not places or sentence in seen:
                continue
            seen.add(sentence)
            key = hashlib.sha256(sentence.encode()).digest()
            place = places[int.from_bytes(key[:8], "big") % len(places)]
            swapped = [*words[:place], words[place + 1], words[place], *words[place + 2 :]]
            pairs.append(MinimalPair(" ".join(words), " ".join(swapped), "word_order"))
    return pairs


def half_pairs(texts: Sequence[str], count: int) -> list[TextPair]:
    """At most `count` of `texts` as pairs of their halves, which are about the same thing."""
    pairs = []
    for text in texts:
        first, second = halves(text)
        if min(len(first.split()), len(second.split())) >= MIN_HALF_WORDS and first != second:
            pairs.append(TextPair(first, second))
        if len(pairs) == count:
            break
    return pairs


def _sentences(text: str) -> Iterator[str]:
    """The whole sentences of `text` of a usable length: what stands between two sentence ends."""
    words: list[str] = []
    is_whole = False  # a text may start inside of a sentence
    for word in text.split():
        words.append(word)
        if word.endswith(SENTENCE_ENDS):
            if is_whole and MIN_WORDS <= len(words) <= MAX_WORDS:
                yield " ".join(words)
            words, is_whole = [], True


def _subject_verb(between: str) -> Iterator[MinimalPair]:
    for number, forms in enumerate(_NOUNS):
        # The noun between has the other number, so that the nearest noun misleads.
        other = _NOUNS[(number + 1) % len(_NOUNS)]
        for verbs in _VERBS:
            for rest in _REST[verbs[0]]:
                for right in (0, 1):
                    subject = f"The {forms[right]}{between.format(other[1 - right])}"
                    good, bad = (f"{subject} {verbs[n]} {rest}." for n in (right, 1 - right))
                    name = "subject_verb_across_noun" if between else "subject_verb"
                    yield MinimalPair(good, bad, name)


def _determiner_noun() -> Iterator[MinimalPair]:
    frames = ("They know {} {}.", "I have seen {} {} before.", "What do you think of {} {}?")
    for frame in frames:
        for forms in _NOUNS:
            for determiners in _DETERMINERS:
                for right in (0, 1):
                    noun = forms[right]
                    good, bad = (frame.format(determiners[n], noun) for n in (right, 1 - right))
                    yield MinimalPair(good, bad, "determiner_noun")

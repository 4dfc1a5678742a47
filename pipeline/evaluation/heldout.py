"""Bits per byte on masked words, which can be compared between models of different tokenizers.

The words are the same stretches of the same texts for all models (`pipeline.evaluation.words`). A
share of them is masked, every token of a chosen word; their log-probabilities are divided by the
UTF-8 bytes of the words, not by the number of tokens, which is the tokenizer's. Within a word the
tokens are predicted from left to right, each with those before it given and all other chosen words
masked (the chain rule, as Kauf & Ivanova 2023 do for pseudo-log-likelihoods): predicted all at
once, a word of several tokens would be a product of marginals, which puts tokenizers of short
tokens at a disadvantage. What is left: the number of masks tells a model how many tokens a word
has.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.config import HeldoutConfig
from pipeline.evaluation.intervals import ratio_interval, wilson
from pipeline.evaluation.models import FoundModel
from pipeline.evaluation.results import CheckResult, Measure
from pipeline.evaluation.sample_sizes import Sample
from pipeline.evaluation.texts import Texts
from pipeline.evaluation.words import Encoded, Word, common_words, encode

if TYPE_CHECKING:
    from model.heads import MaskedLanguageModel
    from pipeline.evaluation.scoring import Query

MASK_SEED = 0
MIN_TEXT_KEPT = 0.99
"""A tokenizer that gives back fewer words as they were is named: its model is asked for less."""


@dataclass(frozen=True)
class MaskedText:
    """A text with the words that are masked in it."""

    text: str
    encodings: tuple[Encoded, ...]
    """By model."""
    words: tuple[Word, ...]
    """Those that are masked; their tokens are by model."""


@dataclass(frozen=True)
class MaskedTexts:
    """What all models are asked for."""

    sources: Mapping[str, tuple[MaskedText, ...]]
    left_out: Mapping[str, int]
    samples: Mapping[str, Sample]
    """The documents that the texts of each source are of."""


def mask_texts(texts: Texts, models: Sequence[FoundModel], config: HeldoutConfig) -> MaskedTexts:
    """The masked words of `texts`, the same for all `models`.

    Which ones depends on the text and on where words are, which for scripts with spaces is the same
    for any models.
    """
    left_out: Counter[str] = Counter()
    sources = {
        name: tuple(
            masked
            for text in of_source
            if (masked := _mask_text(text, models, config, left_out)).words
        )
        for name, of_source in texts.sources.items()
    }
    return MaskedTexts(sources, dict(left_out), texts.samples)


def heldout_check(
    model: FoundModel,
    number: int,
    module: "MaskedLanguageModel",
    masked: MaskedTexts,
    batch_tokens: int,
) -> CheckResult:
    """The measures of model `number` of those that `masked` was made for."""
    measures: list[Measure] = []
    total = np.concatenate(
        [
            _scores(model, number, module, texts, batch_tokens)
            for texts in masked.sources.values()
            if texts
        ]
    )  # [texts, 6]
    documents = {name: masked.samples[name].documents for name in masked.sources}
    measures += _measures(total, "", sum(documents.values()))
    first = 0
    if len(masked.sources) > 1:
        for name, texts in masked.sources.items():
            if texts:
                of_source = total[first : first + len(texts)]
                measures += _measures(of_source, name, documents[name])[:2]
            first += len(texts)
    kept = total[:, 5].sum() / total[:, 4].sum()
    notes = []
    if kept < MIN_TEXT_KEPT:
        notes.append(
            f"{model.name}: its tokenizer gives back {kept:.1%} of the masked words as they were "
            "(case or characters are lost): it predicts less than the others, so that its bits per "
            "byte are too low beside theirs"
        )
    return CheckResult(tuple(measures), masked.left_out, tuple(notes))


def _mask_text(
    text: str, models: Sequence[FoundModel], config: HeldoutConfig, left_out: Counter[str]
) -> MaskedText:
    encodings = tuple(encode(model.tokenizer, text) for model in models)
    unknown = [
        {n for n, token in enumerate(one.ids) if token == model.special.unk}
        for model, one in zip(models, encodings, strict=True)
    ]
    usable = []
    for word in common_words(text, encodings):
        if any(len(tokens) > config.max_word_tokens for tokens in word.tokens):
            left_out["words of more than heldout.max_word_tokens tokens"] += 1
        elif any(known & set(t) for known, t in zip(unknown, word.tokens, strict=True)):
            left_out["words unknown to a tokenizer"] += 1
        else:
            usable.append(word)
    count = min(len(usable), max(1, round(config.mask_rate * len(usable))))
    key = hashlib.sha256(f"{MASK_SEED} {text}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(key[:16], "big"))
    chosen = sorted(generator.permutation(len(usable))[:count].tolist())
    return MaskedText(text, encodings, tuple(usable[n] for n in chosen))


def _scores(
    model: FoundModel,
    number: int,
    module: "MaskedLanguageModel",
    texts: Sequence[MaskedText],
    batch_tokens: int,
) -> NDArray[np.float64]:
    """[texts, 6]: nats, bytes, tokens, words right, words, words that the tokenizer keeps."""
    from pipeline.evaluation.scoring import answers

    queries: list[Query] = []
    places: list[tuple[int, list[int]]] = []
    """Of each query, its text and the masked word of each position."""
    for at, masked in enumerate(texts):
        for query, words in _queries(model, number, masked):
            queries.append(query)
            places.append((at, words))
    rows = np.zeros((len(texts), 6))
    wrong: set[tuple[int, int]] = set()
    for (at, words), answer in zip(places, answers(module, queries, batch_tokens), strict=True):
        rows[at, 0] -= answer.log_probabilities.sum()
        wrong |= {(at, word) for word, rank in zip(words, answer.ranks, strict=True) if rank}
    for at, masked in enumerate(texts):
        stretches = [masked.text[word.start : word.end] for word in masked.words]
        rows[at, 1] = sum(len(stretch.encode()) for stretch in stretches)
        rows[at, 2] = sum(len(word.tokens[number]) for word in masked.words)
        rows[at, 3] = len(stretches) - sum(text == at for text, _ in wrong)
        rows[at, 4] = len(stretches)
        rows[at, 5] = sum(
            _is_kept(model, [masked.encodings[number].ids[n] for n in word.tokens[number]], stretch)
            for word, stretch in zip(masked.words, stretches, strict=True)
        )
    return rows


def _is_kept(model: FoundModel, ids: Sequence[int], text: str) -> bool:
    """Whether `ids` are decoded to `text`, but for spaces that a decoder puts between tokens."""
    return "".join(model.tokenizer.decode(ids).split()) == text


def _queries(model: FoundModel, number: int, masked: MaskedText) -> list[tuple["Query", list[int]]]:
    """The rows that ask for all tokens of the masked words, with the word of each position.

    The first row asks for the first token of every word; every further token needs a row of its
    own, in which the tokens before it in its word are seen.
    """
    from pipeline.evaluation.scoring import Query

    ids = model.row(masked.encodings[number].ids)
    words = [[place + 1 for place in word.tokens[number]] for word in masked.words]
    hidden = list(ids)
    for place in (place for word in words for place in word):
        hidden[place] = model.special.mask
    firsts = [word[0] for word in words]
    found = [(Query(hidden, firsts, [ids[p] for p in firsts]), list(range(len(words))))]
    for word_number, word in enumerate(words):
        for count in range(1, len(word)):
            row = list(hidden)
            for place in word[:count]:
                row[place] = ids[place]
            found.append((Query(row, [word[count]], [ids[word[count]]]), [word_number]))
    return found


def _measures(rows: NDArray[np.float64], group: str, documents: int) -> list[Measure]:
    """The measures of texts [n, 6], see `_scores`, of so many documents; bits per byte and accuracy
    first."""
    nats, num_bytes, tokens, right, words, kept = rows.sum(axis=0)
    low, high = ratio_interval(rows[:, 0] / math.log(2), rows[:, 1])
    accuracy_low, accuracy_high = wilson(right / words, int(words))
    count = int(words)
    loss = nats / tokens
    measures = [
        Measure("bits_per_byte", nats / math.log(2) / num_bytes, group, low, high, count),
        Measure("word_accuracy", right / words, group, accuracy_low, accuracy_high, count),
        Measure("token_loss", loss, group, count=int(tokens)),
        Measure("token_perplexity", math.exp(min(loss, 700.0)), group, count=int(tokens)),
        Measure("tokens_per_word", tokens / words, group, count=count),
        Measure("text_kept", kept / words, group, count=count),
    ]
    return [replace(one, documents=documents) for one in measures]

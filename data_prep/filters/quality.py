"""Which documents are kept: the filters, in the order in which they are applied.

A filter is a function that measures all texts of a batch (words.py, lines.py, repetition.py,
language.py). To add one, write the function in an obvious file, add its limit to `FiltersConfig`,
and add a line to `judged`, with the reason under which its drops are counted.

The rules and their default limits are those of Gopher (Rae et al. 2021, "Scaling Language Models",
section A.1.1 and table A1), on the words of `data_prep.text.batch`, and a language rule. What
differs between languages is in `data_prep.filters.languages`.
"""

import logging
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from xxhash import xxh3_64_intdigest

from configs.load import Config
from data_prep.filters.custom import CustomFilterConfig, settings_of
from data_prep.filters.language import DETECTION, LanguageConfig, detected_languages
from data_prep.filters.languages import LanguageCode, LanguageLimits, StopWords, limits_of
from data_prep.filters.lines import marked_line_shares
from data_prep.filters.repetition import (
    RepeatedNgrams,
    RepetitionConfig,
    drop_common_ngrams,
    drop_repeated_lines,
    drop_repeated_ngrams,
)
from data_prep.filters.verdicts import SAMPLED_WEIGHT, Flags, Verdicts
from data_prep.filters.words import (
    different_stop_words,
    letter_share,
    mean_word_characters,
    symbols_per_word,
)
from data_prep.text.batch import TextBatch

logger = logging.getLogger(__name__)
_OLD_NAMES = {
    "min_mean_word_bytes": "min_mean_word_characters",
    "max_mean_word_bytes": "max_mean_word_characters",
}


class FiltersConfig(Config):
    """Limits outside which a document is dropped.

    In scripts without spaces, two characters of Han count as a word, three of Kana, and four of
    Thai, Lao, Khmer, Myanmar and the like.
    """

    document_language: Literal["detect", "unknown"] | LanguageCode = "detect"
    """The language of the documents, as a two-letter code, whose limits hold where one below is not
    given. detect: that of each document; unknown: wide limits and no stop words."""
    min_words: int = Field(default=50, ge=0)
    """Fewest words of a text."""
    max_words: int = Field(default=100_000, ge=1)
    """Most words of a text. Note that a whole book may have more."""
    min_mean_word_characters: float | None = None
    """Least mean length of a text's words, characters; null: that of the language (English: 3)."""
    max_mean_word_characters: float | None = None
    """Greatest mean length of a text's words, characters; null: that of the language (English:
    10)."""
    min_alphabetic_share: float | None = Field(default=None, ge=0, le=1)
    """Least share of the words that start with a letter; null: that of the language (English: .8).
    """
    max_symbol_share: float = Field(default=0.1, ge=0)
    """Greatest number of hash signs, and of ellipses, per word; what stands between white space
    counts as a word here, even without a letter or digit."""
    max_bullet_line_share: float = Field(default=0.9, ge=0, le=1)
    """Greatest share of the lines that start with a bullet."""
    max_ellipsis_line_share: float = Field(default=0.3, ge=0, le=1)
    """Greatest share of the lines that end with an ellipsis."""
    min_stop_words: int = Field(default=2, ge=0)
    """Fewest different `stop_words` of a text; 0 turns the rule off."""
    stop_words: StopWords | None = None
    """Words that any running text of the language has: a list, or the code of a language, such as
    en; null: those of the language, no rule where there are none."""
    repetition: RepetitionConfig | None = RepetitionConfig()
    """Limits of self-repetition; null turns the rules off."""
    language: LanguageConfig | None = None
    """Languages to keep; null keeps all."""
    apply: bool = True
    """false: the filters measure all documents for the report, and drop none but empty ones. To
    choose limits by the histograms in report.html."""
    custom: tuple[CustomFilterConfig, ...] = ()
    """Filters of your own, applied after the others: by a score of the records (`score`), or by a
    Python function (`python`)."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, tree: Any) -> Any:
        """Keys of version 0.1.0."""
        if not isinstance(tree, dict):
            return tree
        for old in _OLD_NAMES.keys() & tree.keys():
            logger.warning("filters: %s is now %s, and counts characters", old, _OLD_NAMES[old])
        return {_OLD_NAMES.get(key, key): value for key, value in tree.items()}

    def settings(self) -> dict[str, Any]:
        """What results depend on, as JSON values; without keys that are not used and that version
        0.1.0 did not have."""
        dumped = self.model_dump(mode="json", exclude={"apply", "custom"})
        if not self.apply:
            dumped["apply"] = False
        if self.custom:
            dumped["custom"] = settings_of(self.custom)
        return dumped

    def of_language(self, code: str) -> LanguageLimits:
        """The limits for documents in a language, those of the language where none are given."""
        given = {
            "stop_words": self.stop_words,
            "min_mean_word_characters": self.min_mean_word_characters,
            "max_mean_word_characters": self.max_mean_word_characters,
            "min_alphabetic_share": self.min_alphabetic_share,
        }
        own = {name: value for name, value in given.items() if value is not None}
        return limits_of(code)._replace(**own)  # type: ignore[arg-type]


def drop_reasons(batch: TextBatch, limits: FiltersConfig) -> list[str]:
    """The reason to drop each text, that of the first filter that drops it, or KEPT: [D]."""
    return judged(batch, limits).reasons


def judged(batch: TextBatch, limits: FiltersConfig, statistics: bool = False) -> Verdicts:
    """The verdict on each text: that of the first filter that drops it. With `statistics`, also
    what every filter measures of the texts that others drop."""
    sampled = _sampled(batch, limits) if statistics else None
    verdicts = Verdicts(len(batch.texts), apply=limits.apply, sampled=sampled)
    above, below = verdicts.drop_above, verdicts.drop_below
    verdicts.drop_empty(batch.word_counts)
    below("too few words", batch.word_counts, limits.min_words)
    above("too many words", batch.word_counts, limits.max_words)
    languages = _languages(batch, limits, verdicts)
    drop_by_words(batch, limits, languages, verdicts)
    bullets, ellipses = marked_line_shares(batch)
    above("mostly bullets", bullets, limits.max_bullet_line_share)
    above("too many cut-off lines", ellipses, limits.max_ellipsis_line_share)
    if limits.repetition is not None:
        drop_repeated_lines(batch, limits.repetition, verdicts)
        ngrams = RepeatedNgrams(batch, verdicts.to_measure)
        drop_common_ngrams(ngrams, limits.repetition, verdicts)
        drop_repeated_ngrams(ngrams, limits.repetition, verdicts)
    if limits.language is not None:
        if limits.document_language != "detect":
            numbers = np.flatnonzero(verdicts.undecided).tolist()
            languages = detected_languages(batch, numbers, limits.language)
        for number in np.flatnonzero(verdicts.undecided).tolist():
            if languages[number] not in limits.language.keep:
                verdicts.drop_one(f"language {languages[number]}", number)
    verdicts.text_languages = languages
    return verdicts


def _sampled(batch: TextBatch, limits: FiltersConfig) -> Flags:
    """The texts that all filters measure, whatever others drop: [D]."""
    if not limits.apply:
        return np.ones(len(batch.texts), dtype=bool)
    hashes = (xxh3_64_intdigest(text) for text in batch.texts)
    return np.fromiter((h % SAMPLED_WEIGHT == 0 for h in hashes), bool, len(batch.texts))


def drop_by_words(
    batch: TextBatch, limits: FiltersConfig, languages: dict[int, str], verdicts: Verdicts
) -> None:
    """Drops texts by what their words are like, under the limits of the language of each."""
    mean, letters = mean_word_characters(batch), letter_share(batch)
    num_texts = len(batch.texts)
    least, greatest, least_letters = (np.zeros(num_texts) for _ in range(3))
    stop_words = np.full(num_texts, np.nan)
    for code in sorted(set(languages.values())):
        of_language = limits.of_language(code)
        texts = np.zeros(num_texts, dtype=bool)
        texts[[number for number, language in languages.items() if language == code]] = True
        least[texts] = of_language.min_mean_word_characters
        greatest[texts] = of_language.max_mean_word_characters
        least_letters[texts] = of_language.min_alphabetic_share
        words = of_language.stop_words
        if limits.min_stop_words and (words or limits.stop_words is not None):
            stop_words[texts] = different_stop_words(batch, words, texts)[texts]
    weights = verdicts.weights
    verdicts.drop_below("words too short", mean, least, weights)
    verdicts.drop_above("words too long", mean, greatest, weights)
    verdicts.drop_below("too few letters", letters, least_letters, weights)
    symbols = symbols_per_word(batch, limits.max_symbol_share)
    verdicts.drop_above("too many symbols", symbols, limits.max_symbol_share)
    verdicts.drop_below("too few stop words", stop_words, limits.min_stop_words, weights)


def _languages(batch: TextBatch, limits: FiltersConfig, verdicts: Verdicts) -> dict[int, str]:
    """The language of each text that has to be measured, by its number."""
    numbers = np.flatnonzero(verdicts.to_measure).tolist()
    if limits.document_language != "detect":
        return dict.fromkeys(numbers, limits.document_language)
    languages = detected_languages(batch, numbers, limits.language or DETECTION)
    verdicts.note_languages(languages)
    return languages

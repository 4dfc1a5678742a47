"""Evaluation texts in training documents are found in every script, short ones as a whole."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.evaluation import Excluded, excluded_of
from data_prep.dedup.exclusion_table import (
    NGRAMS_SUFFIX,
    SHORT_SUFFIX,
    ExcludedFiles,
    ExclusionTable,
    Matches,
    write_exclusion_table,
)
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.overlap_files import SharedCounts, sets_of_document
from data_prep.engine.costs import measured_costs
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise

RULES = DecontaminateConfig()


def table_of(
    folder: Path, sets: Sequence[Sequence[str]], range_hashes: int = 1 << 20
) -> tuple[ExclusionTable, list[list[int]], list[Excluded]]:
    files, found = [], []
    for number, texts in enumerate(sets):
        excluded = excluded_of([normalise(texts)], RULES)
        found.append(excluded)
        for suffix, array in ((NGRAMS_SUFFIX, excluded.ngrams), (SHORT_SUFFIX, excluded.short)):
            save_array(folder / f"{number}{suffix}", array)
        files.append(ExcludedFiles(f"{number}{NGRAMS_SUFFIX}", f"{number}{SHORT_SUFFIX}", number))
    num_hashes = sum(len(e.ngrams) + e.short.shape[1] for e in found)
    limits = DedupLimits(table_ngrams=range_hashes)
    _, combinations, _ = write_exclusion_table(folder, "table", folder, files, num_hashes, limits)
    table = ExclusionTable(folder, "table", RULES.ngram_words, RULES.min_text_words)
    return table, combinations, found


def matches_in(table: ExclusionTable, texts: Sequence[str]) -> Matches:
    return table.matches(TextBatch(normalise(texts)))


def words_of(script: range, joint: str, number: int, seed: int) -> str:
    """A text of `number` words of random letters; of characters, in a script without spaces."""
    generate = random.Random(seed)
    letters = [chr(code) for code in script]
    lengths = [generate.randint(2, 7) if joint else 1 for _ in range(number)]
    return joint.join("".join(generate.choices(letters, k=length)) for length in lengths)


SCRIPTS = {
    # Letters, what stands between words, letters of a word without spaces.
    "English": (range(0x61, 0x7B), " ", 1),
    "Russian": (range(0x430, 0x450), " ", 1),
    "Hindi": (range(0x915, 0x93A), " ", 1),
    "Arabic": (range(0x628, 0x64B), " ", 1),
    "Korean": (range(0xAC00, 0xACFF), " ", 1),
    "Chinese": (range(0x4E00, 0x5600), "", 2),
    "Japanese": (range(0x3041, 0x3096), "", 3),
    "Thai": (range(0x0E01, 0x0E2E), "", 4),
    "Khmer": (range(0x1780, 0x17A2), "", 4),
}


@pytest.mark.parametrize("language", SCRIPTS)
def test_short_and_long_texts_are_found_in_every_script(tmp_path: Path, language: str) -> None:
    script, joint, letters = SCRIPTS[language]
    lengths = [7, 8, 9, 11, 12, 13, 20, 60]
    evaluation = [
        words_of(script, joint, words * letters, seed) for seed, words in enumerate(lengths)
    ]
    table, _, (excluded,) = table_of(tmp_path, [evaluation])
    counts = excluded.counts
    assert (counts["too_short"], counts["short_texts"], counts["texts"]) == (1, 4, 8)
    assert len(excluded.ngrams) == sum((n - 13) * letters + 1 for n in (13, 20, 60))
    before, after = (words_of(script, joint, 80 * letters, seed) for seed in (90, 91))
    documents = [f"{before}{joint}{text}{joint}{after}" for text in evaluation]
    # At the beginning and at the end of a document, and as a whole one.
    documents += [f"{evaluation[3]}{joint}{after}", f"{before}{joint}{evaluation[3]}"]
    documents += [evaluation[3], f"{before}{joint}{after}"]
    found = matches_in(table, documents).counts() > 0
    assert found.tolist() == [False, *[True] * 10, False]
    # A text without its last word or character is no such text.
    cut = [text[: text.rindex(joint)] if joint else text[:-1] for text in evaluation[1:5]]
    assert not matches_in(table, [f"{before}{joint}{t}{joint}{after}" for t in cut]).counts().any()


def test_short_texts_are_found_at_word_boundaries_whatever_the_punctuation(tmp_path: Path) -> None:
    text = "Who wrote the book of the two cities?"
    table, _, _ = table_of(tmp_path, [[text]])
    texts = {
        "He asked: 'who wrote the book -- of the two cities'.": 1,
        "who wrote the book of the two cities who wrote the book of the two cities": 2,
        "who wrote the book of the two citiesque": 0,
        "awho wrote the book of the two cities": 0,
        "who wrote the book of the three cities": 0,
    }
    matches = matches_in(table, list(texts))
    assert np.bincount(matches.texts, minlength=len(texts)).tolist() == list(texts.values())


def test_texts_that_occur_everywhere_are_counted_and_not_looked_for(tmp_path: Path) -> None:
    answers = ["yes", "New York", "The United States of America", "42", "", "\u200b", "?!", "北京"]
    table, _, (excluded,) = table_of(tmp_path, [answers])
    assert excluded.counts == {"texts": 5, "empty": 3, "short_texts": 0, "too_short": 5}
    assert not matches_in(
        table, ["Yes, New York in The United States of America: 42, 北京"]
    ).totals.any()
    assert not matches_in(table, [" ".join(answers)]).counts().any()


def test_files_are_opened_once_whatever_the_number_of_ranges(tmp_path: Path) -> None:
    english = SCRIPTS["English"][:2]
    sets = [[words_of(*english, 30, seed), words_of(*english, 9, seed)] for seed in range(30)]
    opens, contents = [], []
    for range_hashes in (1 << 20, 7):
        folder = tmp_path / str(range_hashes)
        folder.mkdir()
        with measured_costs() as costs:
            table_of(folder, sets, range_hashes)
        opens.append(costs.opens)
        contents.append([path.read_bytes() for path in sorted(folder.glob("table.*"))])
    assert opens[0] == opens[1]
    assert contents[0] == contents[1]
    assert len(contents[0]) > 4


def test_the_sets_of_each_match_are_known_in_ranges_of_any_size(tmp_path: Path) -> None:
    english = SCRIPTS["English"][:2]
    texts = [words_of(*english, 30, seed) for seed in range(12)]
    short = [words_of(*english, 9, seed) for seed in range(20, 24)]
    sets = [texts[:8] + short[:2], texts[4:] + short[1:], [texts[5]]]
    for range_hashes in (1 << 20, 7):
        folder = tmp_path / str(range_hashes)
        folder.mkdir()
        table, combinations, _ = table_of(folder, sets, range_hashes)
        shared = SharedCounts(["a", "b", "c"], combinations)
        matches = matches_in(table, [*texts, *short, words_of(*english, 300, 99)])
        dropped = matches.counts() / np.maximum(matches.totals, 1) > 0
        assert dropped.tolist() == [True] * 16 + [False]
        shared.add(matches, 100, dropped)
        assert shared.found == [["a", 10, 10], ["b", 11, 11], ["c", 1, 1]]
        shared.write(folder / "sets")
        assert sets_of_document(folder / "sets", 105) == [
            {"set": name, "ngrams": 18, "share": 1.0} for name in "abc"
        ]
        assert [row["set"] for row in sets_of_document(folder / "sets", 113)] == ["a", "b"]
        assert sets_of_document(folder / "sets", 116) == []


def test_a_short_text_counts_as_one_ngram(tmp_path: Path) -> None:
    text, rest = (words_of(range(0x61, 0x7B), " ", n, n) for n in (9, 203))
    table, _, _ = table_of(tmp_path, [[text]])
    matches = matches_in(table, [f"{rest} {text}", text])
    assert matches.totals.tolist() == [200, 0]
    assert matches.counts().tolist() == [1, 1]

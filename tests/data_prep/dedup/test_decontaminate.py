"""Evaluation texts in training documents are found in every script, short ones as a whole."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.evaluation import Excluded, HeldoutPart, excluded_of
from data_prep.dedup.exclusion import exclusion_files, exclusion_stage
from data_prep.dedup.exclusion_table import (
    ExclusionFiles,
    ExclusionTable,
    Matches,
    combination_hash,
)
from data_prep.dedup.hash_table import HashTable
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.overlap_files import SharedCounts, sets_of_document
from data_prep.engine.costs import measured_costs
from data_prep.engine.stage import StageResult
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise

RULES = DecontaminateConfig()
LIMITS = DedupLimits()
HIGHEST = 2**64 - 1


def exclusion_of(folder: Path, found: Sequence[Excluded], limits: DedupLimits) -> ExclusionFiles:
    """The tables of what was found in sets "0", "1" and so on, a part of each."""
    parts = [HeldoutPart(name=f"part{k}", set_name=f"{k}", files=[]) for k in range(len(found))]
    for part, excluded in zip(parts, found, strict=True):
        excluded.write(folder, part.name)
    records = [excluded.counts for excluded in found]
    result = StageResult(folder=folder, parts=parts, records=records, content_fingerprint="")
    stage = exclusion_stage([part.set_name for part in parts], result, limits)
    made = [stage.run_part(folder, part).counts for part in stage.parts]
    return exclusion_files(
        StageResult(folder=folder, parts=stage.parts, records=made, content_fingerprint="")
    )


def table_of(
    folder: Path, sets: Sequence[Sequence[str]], limits: DedupLimits = LIMITS
) -> tuple[ExclusionTable, ExclusionFiles, list[Excluded]]:
    found = [excluded_of([normalise(texts)], RULES) for texts in sets]
    files = exclusion_of(folder, found, limits)
    return ExclusionTable(files, RULES.ngram_words, RULES.min_text_words), files, found


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
    counts = {"texts": 5, "empty": 3, "short_texts": 0, "too_short": 5}
    assert excluded.counts == counts | {"ngrams": 0, "short": 0, "prefixes": 0}
    assert not matches_in(
        table, ["Yes, New York in The United States of America: 42, 北京"]
    ).totals.any()
    assert not matches_in(table, [" ".join(answers)]).counts().any()


RANGES = {
    "one range": (LIMITS, 1, 1),
    "one range, a few hashes at a time": (DedupLimits(table_ngrams=7, table_ranges=1), 1, 1),
    "few ranges": (DedupLimits(table_ngrams=7, table_ranges=4), 4, 4),
    "as many as there are": (DedupLimits(table_ngrams=7, table_ranges=1 << 10), 128, 16),
}
"""Limits; ranges of the n-grams and of the prefixes that follow, of the sets below."""


@pytest.mark.parametrize("name", RANGES)
def test_tables_do_not_depend_on_the_number_of_ranges(tmp_path: Path, name: str) -> None:
    limits, num_ngrams, num_prefixes = RANGES[name]
    english = SCRIPTS["English"][:2]
    texts = [words_of(*english, 30, seed) for seed in range(30)]
    short = [words_of(*english, 9, seed) for seed in range(100, 140)]
    sets = [texts[:20] + short[:30], texts[10:] + short[20:], [texts[15], *short[25:35]]]
    (tmp_path / "whole").mkdir()
    whole, whole_files, _ = table_of(tmp_path / "whole", sets)
    table, files, _ = table_of(tmp_path, sets, limits)
    assert (len(files.ngrams), len(files.prefixes)) == (num_ngrams, num_prefixes)
    for column in ("0", "1"):
        contents = [(tmp_path / f"{part}.{column}.u64").read_bytes() for part in files.ngrams]
        (of_whole,) = whole_files.ngrams
        assert b"".join(contents) == (tmp_path / f"whole/{of_whole}.{column}.u64").read_bytes()
    assert files.combinations == whole_files.combinations
    assert len(files.combinations) > 3
    assert files.lengths == whole_files.lengths == [9]
    documents = [*texts, *short, words_of(*english, 300, 999), "\n".join(texts[::7] + short[::7])]
    expected, found = matches_in(whole, documents), matches_in(table, documents)
    assert len(expected.texts) > 500
    for of_whole_table, of_table in zip(expected, found, strict=True):
        np.testing.assert_array_equal(of_whole_table, of_table)


def test_a_range_opens_each_file_once(tmp_path: Path) -> None:
    english = SCRIPTS["English"][:2]
    sets = [[words_of(*english, 30, seed), words_of(*english, 9, seed)] for seed in range(30)]
    opens = []
    for number, at_once in enumerate((1 << 20, 7)):
        (tmp_path / str(number)).mkdir()
        with measured_costs() as costs:
            table_of(
                tmp_path / str(number), sets, DedupLimits(table_ngrams=at_once, table_ranges=1)
            )
        opens.append(costs.opens)
    assert opens[0] == opens[1]


def excluded_with(ngrams: Sequence[int]) -> Excluded:
    """N-grams of these hashes."""
    hashes = np.unique(np.array(ngrams, dtype=np.uint64))
    counts = {"ngrams": len(hashes), "short": 0, "prefixes": 0}
    texts, nothing = np.zeros(len(hashes), np.uint32), np.empty((3, 0), np.uint64)
    return Excluded(hashes, texts, nothing, nothing[0], counts)


@given(
    st.lists(st.lists(st.integers(0, HIGHEST) | st.integers(0, 9) | st.just(HIGHEST)), max_size=4),
    st.integers(1, 9),
    st.sampled_from([1, 2, 8]),
)
@example([[0, HIGHEST], [0, HIGHEST]], 1, 8)  # and nothing in all ranges between them
@example([[], [5]], 4, 8)
@example([], 4, 8)
def test_each_hash_has_the_sets_that_have_it(
    tmp_path_factory: pytest.TempPathFactory,
    sets: list[list[int]],
    at_once: int,
    most_ranges: int,
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    limits = DedupLimits(table_ngrams=at_once, table_ranges=most_ranges)
    files = exclusion_of(folder, [excluded_with(hashes) for hashes in sets], limits)
    expected = {
        hash_: {k for k, of in enumerate(sets) if hash_ in of} for of in sets for hash_ in of
    }
    asked = np.array([*expected, *(hash_ ^ 1 for hash_ in expected)], dtype=np.uint64)
    positions, values = HashTable(folder, files.ngrams, window_bytes=64).find(asked)
    sets_of = {combination_hash(sets): set(sets) for sets in files.combinations}
    found = {int(asked[k]): sets_of[int(v)] for k, v in zip(positions, values, strict=True)}
    assert found == expected


def test_the_sets_of_each_match_are_known(tmp_path: Path) -> None:
    english = SCRIPTS["English"][:2]
    texts = [words_of(*english, 30, seed) for seed in range(12)]
    short = [words_of(*english, 9, seed) for seed in range(20, 24)]
    sets = [texts[:8] + short[:2], texts[4:] + short[1:], [texts[5]]]
    for at_once in (1 << 20, 7):
        folder = tmp_path / str(at_once)
        folder.mkdir()
        table, files, _ = table_of(folder, sets, DedupLimits(table_ngrams=at_once))
        shared = SharedCounts(["a", "b", "c"], files.combinations)
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


def test_tables_that_fill_the_memory_of_a_node_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = HeldoutPart(name="heldout", files=[])
    records = [{"ngrams": 4_000_000_000, "short": 0, "prefixes": 0}]
    found = StageResult(folder=tmp_path, parts=[part], records=records, content_fingerprint="")
    stage = exclusion_stage([part.set_name], found, LIMITS)
    monkeypatch.setattr("data_prep.dedup.exclusion.node_memory_bytes", lambda: 100 * 10**9)
    assert list(stage.notices()) == []
    monkeypatch.setattr("data_prep.dedup.exclusion.node_memory_bytes", lambda: 64 * 10**9)
    (notice,) = stage.notices()
    for words in ("4,000,000,000 n-grams", "40.0 GB", "64.0 GB in all", "lower heldout_share"):
        assert words in notice


def test_a_short_text_counts_as_one_ngram(tmp_path: Path) -> None:
    text, rest = (words_of(range(0x61, 0x7B), " ", n, n) for n in (9, 203))
    table, _, _ = table_of(tmp_path, [[text]])
    matches = matches_in(table, [f"{rest} {text}", text])
    assert matches.totals.tolist() == [200, 0]
    assert matches.counts().tolist() == [1, 1]

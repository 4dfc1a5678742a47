"""What the filters measured: counted, packed into records, and shown."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.filters.quality import FiltersConfig
from data_prep.filters.statistics import counts_in
from data_prep.report.filter_values import filter_sections, filter_values
from tests.data_prep.corpora import random_texts
from tests.data_prep.documents.ingesting import SIZES, ingested_source, jsonl, stored, write


def test_filters_that_are_not_applied_are_measured(tmp_path: Path) -> None:
    texts = [*random_texts(30, words=40), *random_texts(20, words=6, seed=1), ""]
    pattern = write(tmp_path / "raw", [{"text": text} for text in texts])
    tree = {"min_words": 10, "min_stop_words": 0, "document_language": "en"}
    found = []
    for apply in (False, True):
        for part_bytes in SIZES:
            limits = FiltersConfig.model_validate({**tree, "apply": apply})
            work = tmp_path / f"{apply}{part_bytes}"
            result = ingested_source(work, {"reader": jsonl(pattern)}, limits, part_bytes)
            kept = stored(result)["text"]
            values = filter_values(result.records)["filters"]
            assert len(kept) == (30 if apply else 50)
            words = values["too few words"]
            assert words["documents"] == 51
            assert words["dropped_alone"] == 21
            assert words["limits"] == [(10.0, 51)]
            assert sum(count for first, _, count in words["bins"] if first < 10) == 21
            assert "repeated 5-grams" in values
            found.append(values)
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[0]["repeated 5-grams"]["documents"] == 51


def test_the_record_of_a_part_is_small(tmp_path: Path) -> None:
    generate = np.random.default_rng(0)
    words = ["the", "of", "and", "that", "people", "country", "state", "right", "own", "#", "..."]
    sizes = generate.lognormal(5, 1, 2000).astype(int) + 1
    texts = [" ".join(generate.choice(words, size)) for size in sizes]
    source = {"reader": jsonl(write(tmp_path / "raw", [{"text": text} for text in texts]))}
    (record,) = ingested_source(tmp_path / "work", source, FiltersConfig(), 1 << 30).records
    assert filter_values([record])["filters"]["too few words"]["documents"] == 2000
    assert len(json.dumps(record)) < 12_000  # the process that runs the job holds those of all


ENGLISH = "The people of this country have long had the right to a state that is their own. " * 5
GERMAN = "Die Menschen in diesem Land haben seit langem ein Recht auf einen eigenen Staat. " * 5


@pytest.mark.parametrize(
    ("limits", "read", "kept"),
    [
        ({}, {"en": 4, "de": 2}, {"en": 3, "de": 2}),
        ({"language": {"keep": ["de"]}}, {"en": 4, "de": 2}, {"de": 2}),
        ({"document_language": "en"}, {}, {"en": 5}),
        ({"document_language": "en", "language": {"keep": ["de"]}}, {}, {"de": 2}),
    ],
)
def test_the_languages_of_kept_documents_are_counted(
    tmp_path: Path, limits: dict[str, Any], read: dict[str, int], kept: dict[str, int]
) -> None:
    texts = [*(f"{ENGLISH}{n}" for n in range(4)), f"{GERMAN}1", f"{GERMAN}2", "too short"]
    records = [{"text": text, "score": int(n > 0)} for n, text in enumerate(texts)]
    score = {"type": "score", "field": "score", "min": 1}
    tree = {"min_words": 10, "min_stop_words": 0, "repetition": None, **limits}
    source = {"reader": jsonl(write(tmp_path / "raw", records), metadata_fields=["score"])}
    for part_bytes in SIZES:
        filters = FiltersConfig.model_validate({**tree, "custom": [score]})
        result = ingested_source(tmp_path / f"{part_bytes}", source, filters, part_bytes)
        of_parts = [dict(record) for record in result.records]
        values = filter_values(of_parts)
        assert {code: values["languages"].get(code) for code in read} == read
        assert values["kept_languages"] == kept
    older = counts_in(of_parts[0]["filter_values"])  # records of older versions are JSON values
    of_parts[0]["filter_values"] = older
    assert filter_values(of_parts) == values
    del older["kept_languages"]  # which still older ones lack
    assert filter_values(of_parts)["kept_languages"] is None


def test_the_report_names_no_more_documents_than_there_are() -> None:
    exact = {
        "documents": 349,
        "without_value": 1,
        "dropped_alone": 7,
        "limit_is": "least",
        "limits": [[50, 349]],
        "bins": [[0, 50, 7], [50, 100, 342]],
    }
    sampled = exact | {"documents": 428, "without_value": 0, "dropped_alone": 107}
    values = {"filters": {"too few words": exact, "repeated 5-grams": sampled}, "languages": {}}
    shown = "".join(filter_sections({"web": values}))
    assert "too few words</b><br>at least 50, drops alone 2.0%; 1 without a value of 349<" in shown
    assert "repeated 5-grams</b><br>at least 50, drops alone 25.0% of 350 (estimated)<" in shown

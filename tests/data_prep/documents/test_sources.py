"""What a source's own settings do to its documents."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.load import ConfigError, UserError
from data_prep.documents.config import SourceConfig
from data_prep.documents.ingest import ingest_stage
from data_prep.filters.quality import FiltersConfig
from data_prep.run import prepare
from data_prep.text.scrub import ScrubConfig
from tests.data_prep.corpora import config_of, random_texts
from tests.data_prep.documents.ingesting import (
    ANY_TEXT,
    SIZES,
    ingested_source,
    jsonl,
    stored,
    write,
)


@pytest.mark.parametrize("part_bytes", SIZES)
def test_a_limit_takes_the_first_documents(tmp_path: Path, part_bytes: int) -> None:
    texts = random_texts(60)
    pattern = write(tmp_path / "raw", [{"text": text} for text in texts])
    for limit in (1, 20, 21, 59, 60, 100):
        source = {"reader": jsonl(pattern), "limit": limit}
        result = ingested_source(tmp_path / f"{limit}", source, part_bytes=part_bytes)
        assert stored(result)["text"] == texts[:limit]
        assert result.total("documents_read") == min(limit, 60)


def test_a_sample_is_the_same_however_the_input_is_cut(tmp_path: Path) -> None:
    texts = [*random_texts(400, words=8), *random_texts(400, words=8)]
    pattern = write(tmp_path / "raw", [{"text": text} for text in texts])
    found = []
    for part_bytes in SIZES:
        source = {"reader": jsonl(pattern), "sample": 0.25}
        result = ingested_source(tmp_path / f"{part_bytes}", source, part_bytes=part_bytes)
        found.append(stored(result)["text"])
        (skipped,) = {kind for record in result.records for kind in record["skipped"]}
        assert skipped == "not in the sample"
        assert sum(r["skipped"].get(skipped, 0) for r in result.records) + len(found[-1]) == 800
    assert found[0] == found[1]
    assert 120 < len(found[0]) < 280
    assert found[0][: len(found[0]) // 2] == found[0][len(found[0]) // 2 :]  # copies alike
    more = ingested_source(tmp_path / "more", {"reader": jsonl(pattern), "sample": 0.5})
    assert set(found[0]) < set(stored(more)["text"])
    first = ingested_source(
        tmp_path / "first", {"reader": jsonl(pattern), "sample": 0.25, "limit": 30}
    )
    assert stored(first)["text"] == found[0][:30]


def test_scrubbing_and_the_normal_form_are_those_of_the_source(tmp_path: Path) -> None:
    text = "def f():\n\n\n    return  1  \n\t# ﬁ jane@x.org 4111111111111111\n"
    pattern = write(tmp_path / "raw", [{"text": text}], 1)
    measured = FiltersConfig(apply=False)
    plain = stored(ingested_source(tmp_path / "a", {"reader": jsonl(pattern)}, measured))["text"]
    assert plain == ["def f():\n\nreturn 1\n# ﬁ [email] 4111111111111111"]
    source = {
        "reader": jsonl(pattern),
        "scrub": {"cards": True},
        "normalise": {"whitespace": "keep", "unicode": "nfkc"},
    }
    result = ingested_source(tmp_path / "b", source)
    assert stored(result)["text"] == [
        "def f():\n\n\n    return  1\n\t# fi jane@x.org [card number]"
    ]
    assert result.records[0]["scrubbed"] == {"card numbers": 1}


@pytest.mark.parametrize("part_bytes", SIZES)
def test_metadata_is_stored_beside_the_text(tmp_path: Path, part_bytes: int) -> None:
    records = [{"text": t, "n": n, "q": {"s": n / 9}} for n, t in enumerate(random_texts(30))]
    pattern = write(tmp_path / "raw", records)
    source = {"reader": jsonl(pattern, metadata_fields=["n", "q.s"])}
    columns = stored(ingested_source(tmp_path / "a", source, part_bytes=part_bytes))
    assert [json.loads(m) for m in columns["metadata"]] == [
        {"n": n, "q.s": n / 9} for n in range(30)
    ]
    without = stored(ingested_source(tmp_path / "b", {"reader": jsonl(pattern)}))
    assert without.keys() == {"text", "id"}


def test_documents_are_dropped_by_a_score(tmp_path: Path) -> None:
    values = [0.1, 0.5, 0.9, None, "0.7", "good", True]
    records = [{"text": t, "quality": v} for t, v in zip(random_texts(7), values, strict=True)] + [
        {"text": random_texts(1, seed=9)[0]}
    ]
    pattern = write(tmp_path / "raw", records)
    score = {"type": "score", "field": "quality", "min": 0.4, "max": 0.8}
    filters = ANY_TEXT.model_copy(
        update={"custom": FiltersConfig.model_validate({"custom": [score]}).custom}
    )
    reader = jsonl(pattern, metadata_fields=["quality"])
    result = ingested_source(tmp_path / "a", {"reader": reader}, filters)
    assert stored(result)["text"] == [records[1]["text"], records[4]["text"]]
    assert result.records[0]["dropped"] == {
        "quality missing": 4,
        "quality too high": 1,
        "quality too low": 1,
    }
    with pytest.raises(ConfigError, match=r"'quality' needs it in\s+reader\.metadata_fields"):
        config_of(tmp_path, filters={"custom": [score]})


MODULE = """
def keep(text, metadata):
    if metadata["n"] == 3:
        return "is three"
    if metadata["n"] == 4:
        return False
    return metadata["n"] * 1.0 if metadata["n"] > 5 else None

def batched(texts, metadata):
    return [len(text) for text in texts]

def broken(text, metadata):
    return 1 / (metadata["n"] - 7)

def wrong(text, metadata):
    return {}
"""


def python_filter(folder: Path, function: str, **settings: Any) -> FiltersConfig:
    path = folder / "my_filters.py"
    if not path.exists():
        path.write_text(MODULE)
    custom = {"type": "python", "function": f"{path}:{function}", **settings}
    return ANY_TEXT.model_copy(
        update={"custom": FiltersConfig.model_validate({"custom": [custom]}).custom}
    )


def test_a_function_of_the_user_drops_documents(tmp_path: Path) -> None:
    texts = random_texts(10)
    pattern = write(tmp_path / "raw", [{"text": t, "n": n} for n, t in enumerate(texts)])
    source = {"reader": jsonl(pattern, metadata_fields=["n"])}
    result = ingested_source(tmp_path / "a", source, python_filter(tmp_path, "keep", max=8))
    assert stored(result)["text"] == [t for n, t in enumerate(texts) if n not in (3, 4, 9)]
    assert result.records[0]["dropped"] == {"keep": 1, "keep too high": 1, "keep: is three": 1}
    middle = sorted(map(len, texts))[5]
    limits = python_filter(tmp_path, "batched", per="batch", min=middle, name="length")
    result = ingested_source(tmp_path / "b", source, limits)
    assert stored(result)["text"] == [t for t in texts if len(t) >= middle]
    assert list(result.records[0]["dropped"]) == ["length too low"]


def test_errors_of_a_function_name_it_and_the_document(tmp_path: Path) -> None:
    records = [{"text": t, "n": n} for n, t in enumerate(random_texts(10))]
    source = {"reader": jsonl(write(tmp_path / "raw", records, 1), metadata_fields=["n"])}
    with pytest.raises(UserError, match=r"my_filters\.py:broken: ZeroDivision.*0\.jsonl:\d+'"):
        ingested_source(tmp_path / "a", source, python_filter(tmp_path, "broken"))
    with pytest.raises(UserError, match=r"my_filters\.py:wrong: returned dict for document"):
        ingested_source(tmp_path / "b", source, python_filter(tmp_path, "wrong"))
    with pytest.raises(UserError, match="has no function 'nothing'"):
        ingested_source(tmp_path / "c", source, python_filter(tmp_path, "nothing"))
    missing = FiltersConfig.model_validate(
        {"custom": [{"type": "python", "function": "no_such_module:f"}]}
    )
    with pytest.raises(UserError, match="no module 'no_such_module' is found"):
        ingested_source(tmp_path / "d", source, missing)


def test_a_changed_function_is_a_changed_plan(tmp_path: Path) -> None:
    records = [{"text": t, "n": n} for n, t in enumerate(random_texts(10))]
    source = {"reader": jsonl(write(tmp_path / "raw", records), metadata_fields=["n"])}
    ingested_source(tmp_path / "a", source, python_filter(tmp_path, "keep"))
    (tmp_path / "my_filters.py").write_text(MODULE.replace("== 3", "== 5"))
    with pytest.raises(UserError, match=r"different plan:\n.*filters\.custom"):
        ingested_source(tmp_path / "a", source, python_filter(tmp_path, "keep"))


def test_an_older_plan_without_the_new_settings_is_continued(tmp_path: Path) -> None:
    source = SourceConfig.model_validate(
        {"reader": jsonl(write(tmp_path / "raw", [{"text": "a"}]))}
    )
    stage = ingest_stage(
        {"forum": source},
        {"forum": FiltersConfig()},
        scrub=ScrubConfig(),
        max_document_bytes=1 << 20,
        on_bad_record="skip",
        part_bytes=1 << 30,
    )
    settings = stage.plan()["settings"]
    assert settings["scrub"] == {"emails": False, "ip_addresses": False}
    assert settings["sources"]["forum"].keys() == {"reader", "filters"}
    assert not settings["sources"]["forum"]["filters"].keys() & {"apply", "custom"}
    assert "metadata_fields" not in settings["sources"]["forum"]["reader"]


def test_metadata_and_indentation_survive_the_removal_of_lines(tmp_path: Path) -> None:
    notice = "    subscribe to our weekly letter"
    texts = [f"{text}\n\n\n\tmore  {n}\n{notice}" for n, text in enumerate(random_texts(40))]
    pattern = write(tmp_path / "raw", [{"text": t, "n": n} for n, t in enumerate([*texts, notice])])
    source = {
        "reader": jsonl(pattern, metadata_fields=["n"]),
        "normalise": {"whitespace": "keep"},
        "filters": {"apply": False},
    }
    lines = {"max_documents": 10, "keep_first": False, "min_words": 4}
    prepare(config_of(tmp_path, sources={"forum": source}, dedup={"lines": lines}))
    (path,) = (tmp_path / "work/clean").glob("*.parquet")
    columns = pq.read_table(path).to_pydict()
    assert columns["text"] == [text.removesuffix(f"\n{notice}") for text in texts]
    assert [json.loads(m)["n"] for m in columns["metadata"]] == list(range(40))

"""Errors that would stop a run late are found before the work, all of them at once."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import UserError
from data_prep import first_records
from data_prep.checks import check
from data_prep.dry_run import describe
from data_prep.first_records import MAX_KINDS, MAX_READ, first_of_files
from data_prep.folders import would_match
from data_prep.readers.jsonl import JsonLinesReaderConfig
from data_prep.run import prepare, restart
from data_prep.stages import STAGES
from tests.data_prep.corpora import config_of, forum_config, random_texts, write_forum


def written(folder: Path, records: list[Any], name: str = "a.jsonl") -> dict[str, Any]:
    """A reader config of a file of JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"type": "jsonl", "files": [str(folder / name)]}


def good(folder: Path) -> dict[str, Any]:
    return written(folder, [{"text": text} for text in random_texts(30)], "good.jsonl")


def problems(folder: Path, **changes: Any) -> list[str]:
    """The lines of the message for a config; none if there are no problems."""
    sources = {"good": {"reader": good(folder / "raw")}}
    try:
        check(config_of(folder, **{"sources": sources, **changes}))
    except UserError as error:
        head, *lines = str(error).splitlines()
        assert head == f"{len(lines)} problem(s) found before the work"
        return [line.removeprefix("  ") for line in lines]
    return []


def test_a_right_config_has_no_problems(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    assert not (tmp_path / "work").exists()


def test_all_problems_are_reported_at_once_in_the_order_of_the_config(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    pq.write_table(pa.table({"body": ["a"]}), written(raw, [], "b.parquet")["files"][0])
    (raw / "c.csv").write_text("id,content\n1,a\n")
    sources = {
        "good": {"reader": good(raw)},
        "field": {"reader": written(raw, [{"body": "a", "id": 1}] * 3)},
        "parquet": {"reader": {"type": "parquet", "files": [str(raw / "b.parquet")]}},
        "csv": {"reader": {"type": "csv", "files": [str(raw / "c.csv")]}},
        "kind": {"reader": {"type": "text", "files": [str(raw / "b.parquet")]}},
        "none": {"reader": {"type": "text", "files": [str(raw / "missing*")]}},
        "filter": {
            "reader": good(raw),
            "filters": {"custom": [{"type": "python", "function": "no_such_module:keep"}]},
        },
    }
    evaluation = {
        "quiz": written(raw, [{"question": "a b c"}], "quiz.jsonl"),
        "exam": {"type": "jsonl", "files": [str(raw / "missing.jsonl")]},
    }
    found = problems(
        tmp_path,
        output=str(tmp_path / "work"),
        sources=sources,
        decontaminate={"evaluation": evaluation},
        tokenizer={"type": "file", "path": str(tmp_path / "tokenizer.json")},
    )
    expected = [
        ("output", "is the work folder"),
        ("sources.field.reader", "the field 'text' is missing (3); fields with text: body"),
        ("sources.parquet.reader", "no column 'text'"),
        ("sources.csv.reader", "no column 'text'"),
        ("sources.kind.reader", "is a Parquet file"),
        ("sources.none.reader.files", "matches no file"),
        ("sources.filter.filters", "no module 'no_such_module' is found"),
        ("decontaminate.evaluation.quiz", "fields with text: question"),
        ("decontaminate.evaluation.exam.files", "matches no file"),
        ("tokenizer.path", "no such file"),
    ]
    assert len(found) == len(expected), found
    for line, (key, text) in zip(found, expected, strict=True):
        assert line.startswith(f"{key}: ")
        assert text in line


def test_a_run_and_a_dry_run_check_before_any_work(tmp_path: Path) -> None:
    write_forum(tmp_path / "raw", random_texts(30))
    quiz = written(tmp_path, [{"question": "a b c"}], "quiz.jsonl")
    config = forum_config(tmp_path, decontaminate={"evaluation": {"quiz": quiz}})
    for action in (prepare, describe):
        with pytest.raises(UserError, match="the field 'text' is missing"):
            action(config)
    assert not any((tmp_path / "work").glob("*"))


def test_what_was_checked_before_is_not_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_forum(tmp_path / "raw", random_texts(60))
    quiz = written(tmp_path, [{"text": random_texts(1, seed=9)[0]}], "quiz.jsonl")
    config = forum_config(tmp_path, decontaminate={"evaluation": {"quiz": quiz}})
    prepare(config)
    read: list[str] = []
    original = first_records.first_records

    def noted(file: Any, *settings: Any) -> Any:
        read.append(file.name)
        return original(file, *settings)

    monkeypatch.setattr(first_records, "first_records", noted)
    check(config, only_new=True)
    assert read == []
    restart(config, "excluded_ngrams")
    check(config, only_new=True)
    assert read == ["quiz.jsonl"]
    read.clear()
    check(config, only_new=True, again=[entry.name for entry in STAGES])
    assert read == ["forum.jsonl", "quiz.jsonl"]


def test_few_of_many_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        written(tmp_path, [{"text": "a"}], f"{number:03d}.jsonl")
    opened: list[str] = []
    original: Any = vars(first_records)["open_content"]

    def noted(file: Any, *settings: Any) -> Any:
        opened.append(file.name)
        return original(file, *settings)

    monkeypatch.setattr(first_records, "open_content", noted)
    reader = JsonLinesReaderConfig(type="jsonl", files=(str(tmp_path / "*.jsonl"),))
    found = first_of_files(reader, "sources.a.reader", 1000)
    assert (len(found.files), len(opened), len(found.read)) == (200, MAX_KINDS, MAX_READ)
    assert {"000.jsonl", "199.jsonl"} <= set(opened)


def test_of_long_documents_only_the_start_is_kept(tmp_path: Path) -> None:
    reader = written(tmp_path, [{"text": " \n" * 10**5 + "word " * 10**5}] * 30)
    found = first_of_files(JsonLinesReaderConfig(**reader), "sources.a.reader", 10**7)
    texts = [document.text for records in found.read for document in records.documents]
    assert len(texts) == 20
    assert {(text[:5], len(text)) for text in texts} == {("word ", 1000)}


def test_a_text_of_an_evaluation_set_may_start_without_a_word(tmp_path: Path) -> None:
    frame = written(tmp_path / "raw", [{"text": "=" * 1500 + " the question"}] * 3, "quiz.jsonl")
    hidden = written(tmp_path / "raw", [{"text": "\u200b" * 1500 + "the exam"}] * 3, "exam.jsonl")
    assert problems(tmp_path, decontaminate={"evaluation": {"quiz": frame, "exam": hidden}}) == []


def test_files_without_documents_among_others_are_noticed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    written(raw, [{"body": "x"}] * 5, "b.jsonl")
    good(raw)
    sources = {"mixed": {"reader": {"type": "jsonl", "files": [str(raw / "*.jsonl")]}}}
    (notice,) = check(config_of(tmp_path, sources=sources)).notices
    assert "b.jsonl: no document in the file: the field 'text' is missing (5)" in notice


def test_bad_records_between_good_ones_at_the_start_are_noticed(tmp_path: Path) -> None:
    lines = ["Für Leser.", "For readers.", "Größe über alles.", "All."] * 5
    (tmp_path / "a.txt").write_bytes("\n".join(lines).encode("cp1252"))
    reader = {"type": "text", "files": [str(tmp_path / "a.txt")], "document": "line"}
    config = config_of(tmp_path, sources={"a": {"reader": reader}})
    (notice,) = check(config).notices
    assert "a.txt: 10 of its first 20 records cannot be used: not UTF-8 (10)" in notice


def test_a_table_whose_header_is_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("编号,正文\n1,文本\n".encode("gb18030"))
    reader = {"type": "csv", "files": [str(tmp_path / "a.csv")], "text_field": "正文"}
    (problem,) = problems(tmp_path, sources={"a": {"reader": reader}})
    assert "no column '正文'; its header is not in UTF-8: set `encoding`" in problem


@pytest.mark.parametrize(
    ("text", "notices"),
    [
        ('{"text": "of a record"}\n', ["starts as JSON", "`type: jsonl`"]),
        ("<!DOCTYPE html>\n<html><p>A page", ["starts as HTML", "extract the text"]),
        ("A text of <html> and {}.\n", []),
    ],
)
def test_markup_in_files_of_plain_text_is_noticed(
    tmp_path: Path, text: str, notices: list[str]
) -> None:
    (tmp_path / "a.txt").write_text(text)
    sources = {"web": {"reader": {"type": "text", "files": [str(tmp_path / "a.txt")]}}}
    found = check(config_of(tmp_path, sources=sources)).notices
    assert len(found) == bool(notices)
    for notice in notices:
        assert notice in found[0]


def test_a_source_with_a_bad_start_is_read_further(tmp_path: Path) -> None:
    reader = written(tmp_path / "raw", [{"body": "x"}] * 900 + [{"text": "a"}])
    assert problems(tmp_path, sources={"a": {"reader": reader}}) == []
    reader = written(tmp_path / "raw", [{"body": "x"}] * 5000)
    (found,) = problems(tmp_path, sources={"a": {"reader": reader}})
    assert "no document in its first 1,000 records" in found


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"work": "{}/file/work"}, "work: .*/file is no folder"),
        ({"output": "{}/work/rows"}, "output: .* is inside the folder of a stage"),
        ({"output": "{}/raw", "work": "{}/raw/work"}, r"matches files that the run writes to work"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, folders: dict[str, str], message: str) -> None:
    (tmp_path / "file").write_text("")
    reader = good(tmp_path / "raw") | {"files": [str(tmp_path / "raw/**/*.json*")]}
    changes = {key: folder.format(tmp_path) for key, folder in folders.items()}
    found = problems(tmp_path, sources={"a": {"reader": reader}}, **changes)
    assert any(re.search(message, line) for line in found), found


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    allowed = os.access

    def access(path: Any, mode: int) -> bool:  # root may write everywhere
        return path != locked and allowed(path, mode)

    monkeypatch.setattr(os, "access", access)
    (found,) = problems(tmp_path, output=str(locked / "a/rows"))
    assert found.startswith("output: ")
    assert "locked cannot be written" in found


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("/data/**/*.parquet", True),
        ("/data/work/*/*", True),
        ("/data/*/*.parquet", False),
        ("/data/**", True),
        ("/data/raw/**/*.parquet", False),
        ("/data/**/.*", False),
        ("/data/work/ingest/a.parquet", True),
        ("s3://data/**/*.parquet", False),
    ],
)
def test_whether_a_glob_would_match(pattern: str, matches: bool) -> None:
    assert would_match(pattern, Path("/data/work"), ["ingest/a.parquet"]) == matches


def test_a_dry_run_shows_the_first_document_of_each_source(tmp_path: Path) -> None:
    long = "line one\nline\ttwo \x1b[31m" + "x" * 100
    reader = written(tmp_path / "raw", [{"text": long, "id": 7}]) | {"id_field": "id"}
    quiz = written(tmp_path, [{"q": "Which one is it?", "a": "This one."}], "quiz.jsonl")
    rules = {"evaluation": {"quiz": quiz}, "fields": {"quiz": ["q", "a"]}}
    config = config_of(tmp_path, sources={"a": {"reader": reader}}, decontaminate=rules)
    shown = describe(config)
    assert r"  7: line one line two \x1b[31mxxxx" in shown
    assert "x" * 60 not in shown
    assert "quiz.jsonl:0: Which one is it?" in shown
    assert "quiz.jsonl:0: This one." in shown
    assert not (tmp_path / "work").exists()


def test_every_file_of_an_evaluation_set_is_checked(tmp_path: Path) -> None:
    for number in range(30):
        key = "question" if number == 7 else "text"
        written(tmp_path / "exam", [{key: "one two three"}], f"{number:02d}.jsonl")
    exam = {"type": "jsonl", "files": [str(tmp_path / "exam/*.jsonl")]}
    (found,) = problems(tmp_path, decontaminate={"evaluation": {"exam": exam}})
    assert "07.jsonl: no text to look for" in found


def test_many_files_of_the_wrong_kind_are_a_few_lines(tmp_path: Path) -> None:
    for number in range(30):
        written(tmp_path / "raw", [{"text": "a"}], f"{number:02d}.jsonl")
    reader = {"type": "parquet", "files": [str(tmp_path / "raw/*.jsonl")]}
    found = problems(tmp_path, sources={"a": {"reader": reader}})
    assert len(found) == 4
    assert "13 more of the opened files cannot be read" in found[-1]

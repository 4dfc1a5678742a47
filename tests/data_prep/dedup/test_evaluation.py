"""Evaluation files: every field of every reader type, and errors for files without texts."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.load import ConfigError, UserError, validate
from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.decontaminate import ExcludedNgramsStage
from data_prep.dedup.evaluation import evaluation_parts
from data_prep.dedup.overlap_files import TEXTS_SUFFIX, text_names
from data_prep.dedup.selection import Selection

QUESTION = "Which of the many old towns near the river is the largest one of all"
ANSWER = "the town of the bridges that stands at the mouth"


def rules_of(reader: dict[str, Any], *fields: str) -> DecontaminateConfig:
    tree: dict[str, Any] = {"evaluation": {"quiz": reader}, "heldout": False}
    if fields:
        tree["fields"] = {"quiz": list(fields)}
    return validate(tree, DecontaminateConfig, "test")


def run(folder: Path, rules: DecontaminateConfig) -> list[dict[str, Any]]:
    """The counts of each part of the stage, and the names of its texts."""
    parts = [part for _, part in evaluation_parts(rules)]
    stage = ExcludedNgramsStage(
        parts=parts,
        inputs={},
        rules=rules,
        heldout_share=0.0,
        on_bad_record="skip",
        selection=cast(Selection, None),
    )
    found = []
    for part in parts:
        counts = stage.run_part(folder, part).counts
        names = text_names(folder / f"{part.name}{TEXTS_SUFFIX}")
        found.append({**counts, "names": [name["text"] for name in names]})
    return found


def written(folder: Path, content: str | bytes, name: str = "quiz.jsonl") -> dict[str, Any]:
    """The config of a reader of JSON lines with this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return {"type": "jsonl", "files": [str(path)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"question": "a b", "answer": {"text": ["c"]}, "n": 1}\n' * 3,
            r"quiz\.jsonl: no text to look for: the field 'text' is missing \(3\); fields with "
            r"text: question, answer\.text; set its text_field, or decontaminate\.fields\.quiz",
        ),
        ("", r"no text to look for: (no records|empty file)"),
        ("no JSON\n" * 4, r"no text to look for: not JSON \(4\)"),
        ('{"text": ""}\n{"text": " ?! "}\n', r"no text to look for: texts without words \(2\)"),
        ('{"text": null}\n', r"no text to look for: the field 'text' is no text \(1\)"),
    ],
)
def test_a_file_without_texts_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"decontaminate\.evaluation\.quiz: .*{message}"):
        run(tmp_path, rules_of(written(tmp_path, content)))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_without_the_column_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"quiz.{kind}"
    if kind == "csv":
        path.write_text("question,answer\na b,c\n")
    else:
        pq.write_table(pa.table({"question": ["a b"], "answer": ["c"]}), path)
    with pytest.raises(UserError, match=r"no column 'text'.* it has .*question"):
        run(tmp_path, rules_of({"type": kind, "files": [str(path)]}))


def test_one_file_of_a_group_without_texts_is_an_error(tmp_path: Path) -> None:
    written(tmp_path, json.dumps({"text": QUESTION}) + "\n", "a.jsonl")
    written(tmp_path, json.dumps({"question": QUESTION}) + "\n", "b.jsonl")
    reader = {"type": "jsonl", "files": [str(tmp_path / "*.jsonl")]}
    with pytest.raises(UserError, match=r"quiz: .*b\.jsonl: no text to look for"):
        run(tmp_path, rules_of(reader))


def test_every_named_field_is_read(tmp_path: Path) -> None:
    record = {"question": QUESTION, "answer": {"text": ANSWER}, "id": 7}
    reader = written(tmp_path, json.dumps(record) + "\n") | {"id_field": "id"}
    of_question, of_answer = run(tmp_path, rules_of(reader, "question", "answer.text"))
    assert (of_question["names"], of_question["ngrams"]) == ([QUESTION], 3)
    assert (of_answer["names"], of_answer["short_texts"], of_answer["texts"]) == ([ANSWER], 1, 1)
    with pytest.raises(UserError, match="'choices' is missing"):
        run(tmp_path, rules_of(reader, "question", "choices"))


def test_each_text_of_a_list_is_a_text(tmp_path: Path) -> None:
    record = {"choices": [QUESTION, ANSWER, "yes"], "turns": [{"text": ANSWER}, {"text": "no"}]}
    reader = written(tmp_path, json.dumps(record) + "\n")
    choices, turns = run(tmp_path, rules_of(reader, "choices", "turns.text"))
    assert choices["names"] == [QUESTION, ANSWER, "yes"]
    assert (choices["ngrams"], choices["short_texts"], choices["too_short"]) == (3, 1, 1)
    assert turns["names"] == [ANSWER, "no"]


def test_texts_are_read_by_any_reader(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": [QUESTION, "yes"]}), tmp_path / "quiz.parquet")
    (tmp_path / "quiz.tsv").write_text(f"q\tn\n{QUESTION}\t1\nyes\t2\n")
    (tmp_path / "quiz.txt").write_text(f"{QUESTION}\nyes\n")
    readers: list[tuple[str, dict[str, Any]]] = [
        ("parquet", {"text_field": "q"}),
        ("tsv", {"text_field": "q"}),
        ("text", {"document": "line", "files": [str(tmp_path / "quiz.txt")]}),
    ]
    for kind, keys in readers:
        reader = {"type": kind, "files": [str(tmp_path / f"quiz.{kind}")], **keys}
        (counts,) = run(tmp_path, rules_of(reader))
        assert (counts["texts"], counts["too_short"], counts["ngrams"]) == (2, 1, 3)
    with pytest.raises(UserError, match="the reader of type 'text' reads no fields"):
        run(tmp_path, rules_of(reader, "q"))


def test_fields_of_a_set_that_does_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no evaluation set is named exam; there are quiz"):
        validate(
            {"evaluation": {"quiz": written(tmp_path, "")}, "fields": {"exam": ["q"]}},
            DecontaminateConfig,
            "test",
        )


def test_bad_records_and_text_numbers_are_kept(tmp_path: Path) -> None:
    lines = [json.dumps({"text": QUESTION}), "no JSON", json.dumps({"text": ANSWER})]
    (counts,) = run(tmp_path, rules_of(written(tmp_path, "\n".join(lines) + "\n")))
    assert counts["bad"] == {"not JSON": 1}
    assert counts["names"] == [QUESTION, ANSWER]
    assert np.load(tmp_path / "evaluation-quiz-000000.short.npy")[2].tolist() == [1]


@pytest.mark.parametrize("kind", ["parquet", "hf_dataset"])
def test_lists_and_nested_columns_are_texts(tmp_path: Path, kind: str) -> None:
    answers = [{"text": [ANSWER, "no"]}]
    table = pa.table({"choices": [[QUESTION, ANSWER, "yes"]], "answers": answers})
    path = tmp_path / "quiz.file"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    reader = {"type": kind, "files": [str(path)]}
    choices, answer = run(tmp_path, rules_of(reader, "choices", "answers.text"))
    assert choices["names"] == [QUESTION, ANSWER, "yes"]
    assert answer["names"] == [ANSWER, "no"]

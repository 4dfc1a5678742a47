"""Lines of a fine-tuning file that no text can be made of are named, never a traceback."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from configs.load import UserError
from data_prep.tokenization.tokenizer import roberta_places
from data_prep.tokenization.train import train_tokenizer
from pipeline.finetuning.examples import ExampleFile, RowEncoder
from pipeline.finetuning.tasks.task import TaskConfig
from pipeline.finetuning.tasks.union import FinetuneTask
from tests.pipeline.finetuning.finetune_run import SENTENCE, TASKS

HALF = r"\ud800"
GOOD_LINES = {
    "animal": '{"text": "the cat", "label": "cat"}',
    "length": '{"text": "the cat", "value": 1}',
    "tags": '{"words": ["cat"], "labels": ["yes"]}',
    "where": '{"question": "who", "context": "a cat", "answers": []}',
    "next": '{"text": "the", "choices": ["cat", "dog"], "label": 1}',
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> RowEncoder:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer([SENTENCE] * 60, 270).to_str())
    return RowEncoder(path, roberta_places(270), 16)


def read(name: str, path: Path, encoder: RowEncoder) -> ExampleFile:
    task: TaskConfig = TypeAdapter(FinetuneTask).validate_python(
        {**TASKS[name], "train": str(path)}
    )
    return task.read(path, encoder)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("animal", f'{{"text": "x{HALF}", "label": "cat"}}', r"text: not Unicode: \\ud800 is half"),
        ("animal", f'{{"text": "x", "second_text": "{HALF}", "label": "cat"}}', "second_text: not"),
        ("animal", f'{{"text": "x", "label": "{HALF}"}}', "label: not Unicode"),
        ("length", r'{"text": "\uDFFF", "value": 1}', r"text: not Unicode: \\udfff is half"),
        ("length", '{"text": "x", "value": 1e39}', "value: Input should be less"),
        ("length", '{"text": "x", "value": ' + "9" * 5000 + "}", "not valid JSON"),
        ("length", '{"text": "x", "value": NaN}', "value: Input should be a finite number"),
        ("tags", f'{{"words": ["x{HALF}"], "labels": ["yes"]}}', r"words\.0: not Unicode"),
        ("where", f'{{"question": "{HALF}", "context": "a", "answers": []}}', "question: not"),
        ("where", f'{{"question": "q", "context": "{HALF}", "answers": []}}', "context: not"),
        ("next", f'{{"text": "x", "choices": ["a", "{HALF}"], "label": 0}}', r"choices\.1: not"),
        ("animal", "[" * 100_000, "nested too deeply"),
        ("animal", "[1]", "not a JSON object"),
    ],
)
def test_a_bad_line_is_named(
    tmp_path: Path, encoder: RowEncoder, name: str, line: str, message: str
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(f"{GOOD_LINES[name]}\n{line}\n")
    with pytest.raises(UserError, match=message) as error:
        read(name, path, encoder)
    assert str(error.value).startswith(f"{path}: 1 error(s)\n  line 2: ")
    str(error.value).encode()  # it can be printed


@pytest.mark.parametrize("name", GOOD_LINES)
@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc3"], ids=repr)
def test_bytes_that_are_not_utf_8_are_named_by_line(
    tmp_path: Path, encoder: RowEncoder, name: str, bad: bytes
) -> None:
    path = tmp_path / "lines.jsonl"
    good = GOOD_LINES[name].encode()
    path.write_bytes(good + b"\n" + good.replace(b"cat", b"c" + bad) + b"\n")
    with pytest.raises(UserError, match="line 2: not UTF-8, from character"):
        read(name, path, encoder)


def test_a_pair_of_surrogates_and_a_byte_order_mark_are_fine(
    tmp_path: Path, encoder: RowEncoder
) -> None:
    path = tmp_path / "lines.jsonl"
    line = r'{"text": "\ud83d\ude00", "value": 1}'
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\n")
    assert len(read("length", path, encoder).examples) == 1


def test_what_is_no_file_is_named(tmp_path: Path, encoder: RowEncoder) -> None:
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "file" / "none", "not a directory"),
    ):
        with pytest.raises(UserError, match=message):
            read("animal", path, encoder)

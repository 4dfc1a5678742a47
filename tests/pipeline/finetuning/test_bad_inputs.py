"""What is wrong with the files of a task is named before training, or left out and counted."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from configs.load import ConfigError, UserError, validate
from pipeline.finetuning.account import account, account_lines, account_parameters
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.examples import RowEncoder
from tests.pipeline.finetuning.task_files import CLASSES, labels_of, make_encoder, read
from tests.pipeline.finetuning.test_inputs import QUESTIONS, TAGS, save_to_disk, written

HEADERLESS = {"type": "tsv", "header": False}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> RowEncoder:
    return make_encoder(tmp_path_factory.mktemp("tokenizer"), 16)


@pytest.mark.parametrize(
    ("name", "content", "keys", "message"),
    [
        (
            "a.tsv",
            "sentnce\tlabel\nx\t1\n",
            {"fields": {"text": "sentence"}},
            "did you mean 'sentnce'?",
        ),
        ("a.tsv", "cat\t1\nx\t1\n", {}, "no column 'text' for text; there are cat, 1; set fields"),
        ("a.tsv", "cat\t1\nx\t1\n", {}, "no column 'label' for label"),
        ("a.tsv", "cat\t1\n", {"format": HEADERLESS}, "the file has no header: number it, 1 to 2"),
        (
            *("a.tsv", "cat\t1\n", {"format": HEADERLESS, "fields": {"text": 3, "label": 2}}),
            "no column 3 for text",
        ),
        ("a.tsv", "text\tlabel\ttext\n", {}, "line 1 names columns twice: text"),
        ("a.tsv", "text\tlabel\nx\n", {}, "line 2: 1 columns, the header has 2"),
        ("a.tsv", "text\tlabel\nx\ty\t1\n", {}, "line 2: 3 columns, the header has 2"),
        ("a.tsv", b"text\tlabel\nx\xff\t1\n", {}, "line 2: not UTF-8, from character 1 on"),
        ("a.tsv", b"te\xffxt\tlabel\nx\t1\n", {}, "line 1: not UTF-8"),
        ("a.tsv", "text\tlabel\n", {}, "holds no examples"),
        ("a.tsv", "", {}, "holds no examples"),
        ("a.tsv", "text\tlabel\nx\t\n", {}, "line 2: label: required, but missing"),
        ("a.csv", 'text,label\n"x,1\n', {}, "line 2: not valid CSV: unexpected end of data"),
        (
            "a.csv",
            "text,label\nx,maybe\n",
            {},
            "label 'maybe' is not one of 0, 1\nunknown labels: 'maybe' 1",
        ),
        (
            "a.jsonl",
            '{"text": "x", "lable": 1}\n',
            {},
            "label: required, but missing; did you mean 'lable'?",
        ),
        ("a.jsonl", '{"text": "x", "label": null}\n', {}, "label: required, but missing"),
        (
            "a.jsonl",
            '{"text": "x", "label": 1}\n',
            {"fields": {"text": "texte"}},
            "no field 'texte' for text; did you mean 'text'? There are text, label; set fields: ",
        ),
        ("a.jsonl", '{"text": "x", "label": ""}\n', {}, "label: required, but missing"),
        ("a.json", '{"data": 7}', {}, "required, but missing"),
        ("a.json", "[1, 2]", {}, "record 1: not a JSON object"),
        ("a.json", '["', {}, "not valid JSON"),
        ("a.xml", "<a/>", {}, "set the task's format: {type: ...}"),
        ("a.parquet", b"PAR1 and nothing else", {}, "cannot be read"),
        ("a.arrow", b"nothing", {}, "cannot be read"),
        (
            "a.tsv.gz",
            gzip.compress(b"text\tlabel\n" * 9, mtime=0)[:-9],
            {},
            "damaged or incomplete",
        ),
        ("a.conll", "cat B-ANI\nsat\n", TAGS, "line 2: 1 column(s), labels are in column -1"),
        (
            *("a.conll", "# cat\ncat B-ANI\n", {**TAGS, "fields": {"labels": 2}}),
            "no such thing",
        ),
        ("a.conll", "cat B-DOG\n", TAGS, "line 1: label 'B-DOG' is not one of O, B-ANI, I-ANI"),
        (
            "a.conll",
            "cat O\n",
            {**TAGS, "fields": {"words": "form"}},
            "columns of CoNLL files have no names",
        ),
        ("a.json", '{"data": [{"paragraphs": 1}]}', QUESTIONS, "data[0]: an article without"),
        (
            *("a.json", '{"data": [{"paragraphs": [{"context": "a"}]}]}', QUESTIONS),
            "data[0].paragraphs[0]: a paragraph without a list of qas",
        ),
        (
            *(
                "a.jsonl",
                '{"question": "q", "context": "a", "answers": {"text": ["a"]}}',
                QUESTIONS,
            ),
            "a list each of text and answer_start",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path,
    encoder: RowEncoder,
    name: str,
    content: str | bytes,
    keys: dict[str, Any],
    message: str,
) -> None:
    path = written(tmp_path, name, content)
    if message == "no such thing":
        message = 'set format: {type: conll, comments: "#"}'
        path = written(tmp_path, name, "#\ncat B-ANI\n")
    with pytest.raises(UserError) as caught:
        read(encoder, path, **keys)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_column_that_does_not_exist_in_parquet(tmp_path: Path, encoder: RowEncoder) -> None:
    pq.write_table(pa.table({"sentence": ["x"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="no column 'text' for text; there are sentence, label"):
        read(encoder, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="no column 'lab' for label; did you mean 'label'"):
        read(encoder, tmp_path / "a.parquet", fields={"text": "sentence.en", "label": "lab"})


def test_folders_that_are_no_split(tmp_path: Path, encoder: RowEncoder) -> None:
    table = pa.table({"text": ["x"], "label": [1]})
    save_to_disk(tmp_path / "sst/train", table, shards=1)
    save_to_disk(tmp_path / "sst/validation", table, shards=1)
    (tmp_path / "sst/dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(ConfigError, match=r"several splits \(train, validation\): name one"):
        read(encoder, tmp_path / "sst")
    (tmp_path / "sst/train/data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match="arrow: missing, "):
        read(encoder, tmp_path / "sst/train")
    state = {"_data_files": [{"filename": "x"}], "_indices_data_files": [{"filename": "y"}]}
    (tmp_path / "sst/train/state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="flatten_indices"):
        read(encoder, tmp_path / "sst/train")
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ConfigError, match=r"several splits \(test, train\): name one"):
        read(encoder, tmp_path)
    with pytest.raises(UserError, match="no file matches"):
        read(encoder, str(tmp_path / "dev-*.parquet"))
    with pytest.raises(UserError, match="no such file or directory"):
        read(encoder, [str(tmp_path / "train-00000-of-00001.parquet"), str(tmp_path / "x.tsv")])


def test_the_errors_of_all_files_are_named(tmp_path: Path, encoder: RowEncoder) -> None:
    for number in range(2):
        written(tmp_path, f"{number}.tsv", "text\tlabel\n" + "x\tmaybe\n" * 12)
    with pytest.raises(UserError) as caught:
        read(encoder, str(tmp_path / "*.tsv"))
    text = str(caught.value)
    assert text.count("12 error(s)") == text.count("and 2 more") == 2
    assert "unknown labels: 'maybe' 24" in text
    assert "by reason: unknown_label (24); to leave such records out" in text


def test_bad_records_are_left_out_and_counted_on_request(
    tmp_path: Path, encoder: RowEncoder
) -> None:
    content = "text\tlabel\nx\t1\nx\t-\nx\ny\t0\nz\t\n"
    path = written(tmp_path, "a.tsv", content)
    with pytest.raises(UserError, match="line 4: 1 columns"):
        read(encoder, path, skip=["unknown_label", "missing"])
    file = read(encoder, path, skip=["unknown_label", "missing", "syntax"])
    assert labels_of(file) == [1, 0]
    assert file.counts == {
        "skipped: missing": 1,
        "skipped: syntax": 1,
        "skipped: unknown_label": 1,
    }
    assert [record.place for record in file.records] == ["line 2", "line 5"]
    with pytest.raises(UserError, match="holds no examples, 1 were skipped"):
        read(encoder, written(tmp_path, "b.tsv", "text\tlabel\nx\t-\n"), skip=["unknown_label"])


def test_answers_that_do_not_stand_at_their_character_are_counted(
    tmp_path: Path, encoder: RowEncoder
) -> None:
    lines = [
        {"question": "q", "context": "a cat", "answers": [{"text": "cat", "start": start}]}
        for start in (2, 1)
    ]
    path = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=r"line 2: answers: 'cat' does not stand at character 1"):
        read(encoder, path, **QUESTIONS)
    file = read(encoder, path, **QUESTIONS, skip=["answer_offset"])
    assert file.counts == {"skipped: answer_offset": 1}


def test_what_is_suspicious_is_counted(tmp_path: Path, encoder: RowEncoder) -> None:
    rows = [("1", "the cat " * 9, 1), ("2", " ", 0), ("2", "a dog", 1), ("3", "a hat", 0)]
    table = "".join(f"{a}\t{text}\t{label}\n" for a, text, label in rows)
    train = read(encoder, written(tmp_path, "a.tsv", "id\ttext\tlabel\n" + table))
    assert train.counts == {
        "truncated to max_row_tokens": 1,
        "empty texts": 1,
        "duplicate ids": 1,
    }
    dev = read(encoder, written(tmp_path, "b.tsv", "text\tlabel\na dog\t0\na  dog\t0\na hat\t0\n"))
    splits = {"train": {"t": train}, "dev": {"t": dev}}
    assert account(splits)["t", "dev"] == {"texts that are in train too": 2}
    assert account_lines(splits) == [
        "t, train: 1 truncated to max_row_tokens, 1 empty texts, 1 duplicate ids (of 4 records)",
        "t, dev: 2 texts that are in train too (of 3 records)",
    ]
    assert account_parameters(splits)["data.t.dev.texts_that_are_in_train_too"] == 2


def test_tags_that_fit_no_scheme_and_words_that_are_cut_off_are_counted(
    tmp_path: Path, encoder: RowEncoder
) -> None:
    sentence = "the I-ANI\ncat B-ANI\nsat O\nx I-ANI\n" + "xyzzy O\n" * 9
    file = read(encoder, written(tmp_path, "a.conll", sentence), **TAGS)
    assert file.counts["tags that do not fit the tag before"] == 2
    words = file.examples[0].word_places
    assert file.counts["words without a prediction"] == words.count(None) > 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metric": "pearson"}, "metric 'pearson' does not fit this task; choose one of accuracy,"),
        ({"metric": "f1", "labels": ["a", "b", "c"]}, "metric 'f1' does not fit this task"),
        (
            {"fields": {"txt": "sentence"}},
            "'txt' is no field of this task; did you mean 'text'? There are id, text,",
        ),
        ({"fields": {"text": True}}, "the name or the number of a column is expected"),
        ({"skip": ["typos"]}, "skip"),
        ({"format": {"type": "excel"}}, "format"),
        ({"labels": [True, False]}, "put the label in quotation marks"),
        ({"label_names": {"x": "2"}}, "label_names: 2 not among labels: 0, 1"),
        ({"train": []}, "train"),
        ({**TAGS, "metric": "f1"}, "choose one of accuracy, macro_f1, entity_f1"),
        (
            {"type": "token_classification", "labels": ["a", "b"], "metric": "entity_f1"},
            "does not fit this task; choose one of accuracy, macro_f1",
        ),
        ({**TAGS, "tagging": "iob2", "labels": ["O", "S-X"]}, "tagging iob2 has no label 'S-X'"),
        ({"type": "regression", "metric": "mean_squared_error"}, "choose one of pearson, spearman"),
        (
            {
                **{"type": "multi_label_classification", "labels": ["a", "b"]},
                "fields": {"labels": ["a", "b", "c"]},
            },
            "fields.labels names 3 columns for 2 labels",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    task = {"train": "a.tsv", **(keys if "type" in keys else {**CLASSES, **keys})}
    tree = {
        **{"name": "test", "output": "runs/x", "steps": 1, "tasks": {"t": task}},
        "start": {"type": "run", "path": "x"},
    }
    with pytest.raises(ConfigError) as caught:
        validate(tree, FinetuneConfig, origin="test")
    assert message in str(caught.value)
    assert "tasks.t" in str(caught.value)


def test_the_tasks_of_the_docs_are_valid() -> None:
    page = (Path(__file__).parents[3] / "docs/finetune.md").read_text()
    block = page.partition("## Files")[2].partition("```yaml\n")[2].partition("```")[0]
    tree = {
        **{"name": "test", "output": "runs/x", "steps": 1, **yaml.safe_load(block)},
        "start": {"type": "run", "path": "x"},
    }
    config = validate(tree, FinetuneConfig, origin="docs")
    assert len(config.tasks) == 7
    assert config.tasks["cola"].main_metric == "matthews"

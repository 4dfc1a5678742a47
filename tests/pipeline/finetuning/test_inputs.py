"""Every input format gives the records that are in it, however the file is named or compressed."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.load import UserError
from pipeline.finetuning.examples import ExampleFile, RowEncoder
from tests.pipeline.finetuning.task_files import labels_of, make_encoder, read, task_of

TAGS = {"type": "token_classification", "labels": ["O", "B-ANI", "I-ANI"]}
QUESTIONS = {"type": "span_question_answering", "stride_tokens": 4}
TEXTS = ["the cat sat", "a dog\tand a hat", 'the "rat" ate']
COLA = 'gj04\t1\t\tThe cat sat on the mat.\ngj04\t0\t*\tThe cat sat "on mat.\n'
SST = "sentence\tlabel\nthe cat's \"red bed \t1\na dog 'on the mat\t0\n"
CONLL_2003 = """-DOCSTART- -X- -X- O

the DT B-NP O
red NN I-NP B-ANI
cat NN I-NP I-ANI

dog NN B-NP B-ANI
sat VB B-VP O
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> RowEncoder:
    return make_encoder(tmp_path_factory.mktemp("tokenizer"))


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(file: ExampleFile) -> list[list[list[int]]]:
    return [[row.tolist() for row in example.rows] for example in file.examples]


def ids(encoder: RowEncoder, *texts: str) -> list[list[int]]:
    return [encoder.row(text).ids for text in texts]


def test_glue_with_a_header_is_not_unquoted(tmp_path: Path, encoder: RowEncoder) -> None:
    path = written(tmp_path, "train.tsv", SST)
    file = read(encoder, path, fields={"text": "sentence"})
    assert labels_of(file) == [1, 0]
    texts = ids(encoder, "the cat's \"red bed ", "a dog 'on the mat")
    assert rows_of(file) == [[row] for row in texts]
    assert [str(record) for record in file.records] == [f"{path}: line 2", f"{path}: line 3"]


def test_cola_has_no_header(tmp_path: Path, encoder: RowEncoder) -> None:
    path = written(tmp_path, "train.tsv", COLA.replace("\n", "\r\n"))
    file = read(
        encoder, path, format={"type": "tsv", "header": False}, fields={"text": 4, "label": 2}
    )
    assert labels_of(file) == [1, 0]
    expected = ids(encoder, "The cat sat on the mat.", 'The cat sat "on mat.')
    assert rows_of(file) == [[row] for row in expected]
    last = {"text": -1, "label": 2}
    again = read(encoder, path, format={"type": "tsv", "header": False}, fields=last)
    assert rows_of(again) == rows_of(file)


def test_csv_has_quoted_cells_with_ends_of_lines(tmp_path: Path, encoder: RowEncoder) -> None:
    long = "the cat " * 20_000  # more than csv's own limit
    content = f'id,a,b,label\n7,"one, ""two""\r\nthree",x,1\n8,y,{long},0\n'
    path = written(tmp_path, "train.csv", content)
    file = read(encoder, path, fields={"text": "a", "second_text": "b"})
    assert labels_of(file) == [1, 0]
    assert rows_of(file)[0] == [encoder.row('one, "two"\r\nthree', "x").ids]
    assert [record.place for record in file.records] == ["line 2", "line 4"]
    assert [record.id for record in file.records] == ["7", "8"]
    assert file.counts == {"truncated to max_row_tokens": 1}
    semicolons = written(tmp_path, "de.csv", "text;label\n'a;b';1\n")
    dialect = {"type": "csv", "delimiter": ";", "quote": "'"}
    assert rows_of(read(encoder, semicolons, format=dialect)) == [ids(encoder, "a;b")]


def test_json_lines_with_names_of_the_users_choice(tmp_path: Path, encoder: RowEncoder) -> None:
    lines = [
        {"body": {"en": "the cat"}, "gold": 1, "hypothesis": "a dog"},
        {"body": {"en": "the hat"}, "gold": 0, "hypothesis": None},
    ]
    text = "\n\n".join(map(json.dumps, lines)) + "\n"
    fields = {"text": "body.en", "label": "gold", "second_text": "hypothesis"}
    for name in ("a.jsonl", "a.ndjson", "a.txt", "a.json"):
        file = read(encoder, written(tmp_path, name, text), fields=fields)
        assert labels_of(file) == [1, 0]
        expected = [encoder.row("the cat", "a dog").ids, encoder.row("the hat").ids]
        assert rows_of(file) == [[row] for row in expected]
        assert [record.place for record in file.records] == ["line 1", "line 3"]
    for tree in (lines, {"version": 1, "data": lines}):
        path = written(tmp_path, "list.json", json.dumps(tree, indent=1))
        assert labels_of(read(encoder, path, fields=fields)) == [1, 0]


def zstd_of_two_frames(content: bytes) -> bytes:
    half = len(content) // 2
    return b"".join(zstandard.compress(part) for part in (content[:half], content[half:]))


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstd_of_two_frames),
        ("", gzip.compress),  # known by its first bytes
    ],
)
def test_compressed_files(
    tmp_path: Path, encoder: RowEncoder, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    path = written(tmp_path, f"train.tsv{ending}", compress(SST.encode()))
    assert labels_of(read(encoder, path, fields={"text": "sentence"})) == [1, 0]
    squad = written(tmp_path, f"train.json{ending}", compress(json.dumps(SQUAD).encode()))
    assert len(read(encoder, squad, **QUESTIONS).records) == 4


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Cats",
            "paragraphs": [
                {
                    "context": "the cat sat on the mat",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "who sat",
                            "is_impossible": False,
                            "answers": [
                                {"text": "cat", "answer_start": 4},
                                {"text": "the cat", "answer_start": 0},
                            ],
                        },
                        {
                            "id": "q2",
                            "question": "who ate",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "cat", "answer_start": 4}],
                        },
                    ],
                },
                {
                    "context": "a dog",
                    "qas": [
                        {
                            "id": "q3",
                            "question": "who",
                            "answers": [{"text": "dog", "answer_start": 2}],
                        }
                    ],
                },
            ],
        },
        {
            "title": "Hats",
            "paragraphs": [
                {
                    "context": "the hat of the rat",
                    "qas": [
                        {
                            "id": "q4",
                            "question": "what",
                            "answers": [{"text": "hat", "answer_start": 4}],
                        }
                    ],
                }
            ],
        },
    ],
}


def answers_of(file: ExampleFile) -> list[tuple[str, ...]]:
    return [example.window.answers for example in file.examples if example.window is not None]


def test_squad_as_published(tmp_path: Path, encoder: RowEncoder) -> None:
    path = written(tmp_path, "dev-v2.0.json", json.dumps(SQUAD))
    file = read(encoder, path, **QUESTIONS)
    assert answers_of(file) == [("cat", "the cat"), (), ("dog",), ("hat",)]
    assert [record.id for record in file.records] == ["q1", "q2", "q3", "q4"]
    assert file.examples[1].label == (0, 0)
    for example, answer in zip(file.examples, ("cat", "", "dog", "hat"), strict=True):
        assert example.window is not None
        first, last = example.label
        spans = example.window.spans
        found = example.window.context[spans[first, 0] : spans[last, 1]]
        assert found == answer or (answer == "" and example.label == (0, 0))


def test_squad_of_datasets_has_lists_of_answers(tmp_path: Path, encoder: RowEncoder) -> None:
    rows = [
        {
            "id": "1",
            "question": "who",
            "context": "a cat",
            "answers": {"text": ["cat"], "answer_start": [2]},
        },
        {
            "id": "2",
            "question": "who",
            "context": "a dog",
            "answers": {"text": [], "answer_start": []},
        },
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "squad.parquet")
    file = read(encoder, tmp_path / "squad.parquet", **QUESTIONS)
    assert answers_of(file) == [("cat",), ()]


def test_a_window_is_labelled_by_the_first_answer_inside_it(
    tmp_path: Path, encoder: RowEncoder
) -> None:
    context = "a cat " + "the mat " * 30 + "a dog"
    answers = [{"text": "cat", "start": 2}, {"text": "dog", "start": context.index("dog")}]
    line = {"question": "who", "context": context, "answers": answers}
    small = make_encoder(tmp_path, 24)
    file = read(small, written(tmp_path, "a.jsonl", json.dumps(line)), **QUESTIONS)
    found = {
        context[e.window.spans[e.label[0], 0] : e.window.spans[e.label[1], 1]]
        for e in file.examples
        if e.window is not None and e.label != (0, 0)
    }
    assert found == {"cat", "dog"}


def test_conll_2003(tmp_path: Path, encoder: RowEncoder) -> None:
    spaces = written(tmp_path, "eng.conll", CONLL_2003)
    file = read(encoder, spaces, **TAGS)
    assert [example.words for example in file.examples] == [("the", "red", "cat"), ("dog", "sat")]
    classes = [example.label[example.label >= 0].tolist() for example in file.examples]
    assert classes == [[0, 1, 2], [1, 0]]
    assert [record.place for record in file.records] == ["line 3", "line 7"]
    chunks = {**TAGS, "labels": ["B-NP", "I-NP", "B-VP"], "fields": {"labels": 3}}
    file = read(encoder, spaces, **chunks)
    assert [e.label[e.label >= 0].tolist() for e in file.examples] == [[0, 1, 1], [0, 2]]


def test_columns_between_tabs_with_comments(tmp_path: Path, encoder: RowEncoder) -> None:
    content = "# id 7\nB-ANI\tred cat\nO\t#\n\t\n \nO\tsat\u00a0on\n"
    path = written(tmp_path, "a.bio", content)
    keys = {
        **TAGS,
        "format": {"type": "conll", "separator": "tab", "comments": "# "},
        "fields": {"words": 2, "labels": 1},
    }
    file = read(encoder, path, **keys)
    assert [e.words for e in file.examples] == [("red cat", "#"), ("sat\u00a0on",)]


def test_conll_u_without_ranges_and_empty_nodes(tmp_path: Path, encoder: RowEncoder) -> None:
    rows = [
        ("1-2", "doesn't", "_"),
        ("1", "does", "AUX"),
        ("2", "n't", "PART"),
        ("2.1", "eat", "VERB"),
        ("3", "#", "SYM"),
    ]
    lines = ["# text = doesn't #", *("\t".join((n, w, "_", tag, "_")) for n, w, tag in rows), ""]
    path = written(tmp_path, "a.conllu", "\n".join(lines))
    task = {"type": "token_classification", "labels": ["AUX", "PART", "SYM"]}
    (example,) = read(encoder, path, **task).examples
    assert example.words == ("does", "n't", "#")
    assert example.label[example.label >= 0].tolist() == [0, 1, 2]


def features(**columns: Any) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


CLASS_LABEL = {"names": ["neg", "pos"], "_type": "ClassLabel"}
WORD_LABELS = {"feature": {"names": TAGS["labels"], "_type": "ClassLabel"}, "_type": "List"}


def save_to_disk(folder: Path, table: pa.Table, shards: int = 2) -> Path:
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    for number, name in enumerate(names):
        part = table.slice(number * len(table) // shards, len(table) // shards)
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            out.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.fixture
def table() -> pa.Table:
    columns = {"sentence": ["the cat", "a dog", "the hat", "a rat"], "label": [1, 0, 0, 1]}
    return pa.table(columns).replace_schema_metadata(features(label=CLASS_LABEL))


def test_a_folder_of_datasets_with_names_of_classes(
    tmp_path: Path, encoder: RowEncoder, table: pa.Table
) -> None:
    folder = save_to_disk(tmp_path / "sst/train", table)
    keys: dict[str, Any] = {"labels": ["pos", "neg"], "fields": {"text": "sentence"}}
    file = read(encoder, folder, **keys)
    assert labels_of(file) == [0, 1, 1, 0]
    assert rows_of(file) == [[row] for row in ids(encoder, *table["sentence"].to_pylist())]
    assert [path.name for path in file.files] == [
        "data-00000-of-00002.arrow",
        "data-00001-of-00002.arrow",
    ]
    assert [record.place for record in file.records] == ["row 1", "row 2"] * 2
    assert [example.line for example in file.examples] == [1, 2, 3, 4]
    pyarrow.feather.write_feather(table, tmp_path / "a.feather")
    assert labels_of(read(encoder, tmp_path / "a.feather", **keys)) == [0, 1, 1, 0]
    pq.write_table(table, tmp_path / "a.parquet")
    assert labels_of(read(encoder, tmp_path / "a.parquet", **keys)) == [0, 1, 1, 0]


def test_a_folder_of_parquet_files_of_one_split(
    tmp_path: Path, encoder: RowEncoder, table: pa.Table
) -> None:
    for number in range(2):
        pq.write_table(table, tmp_path / f"train-{number:05}-of-00002.parquet")
    keys: dict[str, Any] = {"labels": ["pos", "neg"], "fields": {"text": 1, "label": 2}}
    assert labels_of(read(encoder, tmp_path, **keys)) == [0, 1, 1, 0] * 2


def test_words_with_numbers_of_classes(tmp_path: Path, encoder: RowEncoder) -> None:
    rows = {"tokens": [["the", "red", "cat"]], "ner_tags": [[0, 1, 2]]}
    table = pa.table(rows).replace_schema_metadata(features(ner_tags=WORD_LABELS))
    folder = save_to_disk(tmp_path / "train", table, shards=1)
    keys = {**TAGS, "labels": ["I-ANI", "B-ANI", "O"]}
    file = read(encoder, folder, **keys, fields={"words": "tokens", "labels": "ner_tags"})
    (example,) = file.examples
    assert example.label[example.label >= 0].tolist() == [2, 1, 0]


def test_choices_from_several_columns(tmp_path: Path, encoder: RowEncoder) -> None:
    path = written(tmp_path, "swag.csv", "sent,end0,end1,label\nthe cat,sat,ate,1\n")
    fields = {"text": "sent", "choices": ["end0", "end1"]}
    file = read(encoder, path, type="multiple_choice", num_choices=2, fields=fields)
    assert labels_of(file) == [1]
    expected = [encoder.row("the cat", end).ids for end in ("sat", "ate")]
    assert rows_of(file) == [expected]


def test_lists_and_globs_of_files(tmp_path: Path, encoder: RowEncoder) -> None:
    for number in range(3):
        written(tmp_path, f"part-{number}.tsv", f"text\tlabel\ncat {number}\t{number % 2}\n")
    other = written(tmp_path, "more.jsonl", '{"text": "dog", "label": 1}\n')
    file = read(encoder, [str(tmp_path / "part-*.tsv"), str(other)])
    assert labels_of(file) == [0, 1, 0, 1]
    assert [path.name for path in file.files] == [
        *("part-0.tsv", "part-1.tsv", "part-2.tsv"),
        "more.jsonl",
    ]
    assert [example.line for example in file.examples] == [1, 2, 3, 4]
    single = read(encoder, str(other))
    assert single.sha256 != file.sha256
    assert file.source(file.examples[3]).file == other


def test_labels_may_be_written_differently_in_the_files(
    tmp_path: Path, encoder: RowEncoder
) -> None:
    path = written(
        tmp_path,
        "a.jsonl",
        "".join(
            json.dumps({"text": "cat", "label": label}) + "\n"
            for label in (0, 1.0, "2", "entailment")
        ),
    )
    keys = {
        "labels": ["entailment", "not"],
        "label_names": {0: "entailment", 1: "not", "2": "not"},
    }
    assert labels_of(read(encoder, path, **keys)) == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("name", "content", "keys"),
    [
        ("a.tsv", "s\tgold\nthe cat\t1\n", {"fields": {"text": "s", "label": "gold"}}),
        ("a.csv", "s\nthe cat\n", {"fields": {"text": "s", "label": "gold"}}),
        ("a.jsonl", '{"s": "the cat"}\n', {"fields": {"text": "s", "label": "gold"}}),
        ("a.conll", "the\ncat\n", {**TAGS, "fields": {"labels": 4}}),
        ("a.conll", "the\ncat\n", TAGS),
        ("a.json", '[{"question": "q", "context": "the cat", "id": 7}]', QUESTIONS),
        (
            *("a.csv", "text,b\nthe cat,0\n"),
            {
                **{"type": "multi_label_classification", "labels": ["a", "b"]},
                "fields": {"labels": ["a", "b"]},
            },
        ),
    ],
)
def test_files_to_predict_may_lack_the_columns_of_labels(
    tmp_path: Path, encoder: RowEncoder, name: str, content: str, keys: dict[str, Any]
) -> None:
    task = task_of(written(tmp_path, name, content), **keys)
    (example,) = task.read(task.train, encoder, needs_labels=False).examples
    assert example.label == (1 if "gold\nthe" in content else None)
    if example.label is None:
        with pytest.raises(UserError):
            task.read(task.train, encoder)

"""Labels of words and answers find their tokens, whatever spaces the tokenizer counts to them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from data_prep.dataset.special_tokens import find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer
from pipeline.finetuning.examples import ExampleFile, RowEncoder
from pipeline.finetuning.tasks.task import UNUSED, TaskConfig
from pipeline.finetuning.tasks.union import FinetuneTask
from tests.pipeline.finetuning.finetune_run import write_lines
from tests.tokenizer_kinds import KINDS, save

WORDS = ["the", "oven", "хлеб", "(yes)", "面包", "don't", "hot"]
CONTEXT = "the oven was хлеб hot"


def read(folder: Path, kind: str, task: dict[str, Any], line: dict[str, Any]) -> ExampleFile:
    path = save(kind, folder)
    special = find_special_tokens(load_tokenizer(path), path)
    file = write_lines(folder / "lines.jsonl", [line])
    config: TaskConfig = TypeAdapter(FinetuneTask).validate_python({**task, "train": str(file)})
    return config.read(file, RowEncoder(path, special, 96))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_token_of_every_word_has_its_class(kind: str, tmp_path: Path) -> None:
    classes = [str(number) for number in range(len(WORDS))]
    task = {"type": "token_classification", "labels": classes}
    (example,) = read(tmp_path, kind, task, {"words": WORDS, "labels": classes}).examples
    labels = example.label[example.label != UNUSED]
    assert labels.tolist() == list(range(len(WORDS)))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    encoding = tokenizer.encode(" ".join(WORDS))
    assert encoding.ids == example.rows[0].tolist()
    text = " ".join(WORDS)
    for place, number in enumerate(example.label.tolist()):
        if number != UNUSED:
            start, end = encoding.offsets[place]
            word = text[start:end].strip()
            assert WORDS[number].startswith(word)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["the", "oven", "was хлеб", "hot"])
def test_an_answer_is_found_without_the_space_before_it(
    kind: str, answer: str, tmp_path: Path
) -> None:
    task = {"type": "span_question_answering", "stride_tokens": 2}
    start = CONTEXT.index(answer)
    line = {
        "question": "the oven",
        "context": CONTEXT,
        "answers": [{"text": answer, "start": start}],
    }
    (example,) = read(tmp_path, kind, task, line).examples
    assert example.window is not None
    first, last = example.label
    assert first > 0
    spans = example.window.spans
    assert CONTEXT[spans[first, 0] : spans[last, 1]] == answer

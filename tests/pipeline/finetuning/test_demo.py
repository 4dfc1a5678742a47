"""The demo's two tasks, made of packed rows."""

import json

import numpy as np
import pytest

from configs.load import UserError
from data_prep.dataset.manifest import read_manifest
from data_prep.tokenization.train import train_tokenizer
from pipeline.finetuning import demo as finetune_demo
from tests.pipeline.finetuning.finetune_run import SENTENCE
from tests.pipeline.training_run import make_rows


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Rows whose text is made of words, every third with a capital letter."""
    folder = tmp_path / "rows"
    tokenizer = train_tokenizer([SENTENCE] * 60, 270)
    make_rows(folder, rows=64, tokenizer=tokenizer, row_tokens=128)
    words = [w.title() if n % 3 == 0 else w for n, w in enumerate(sorted(set(SENTENCE.split())))]

    class Reader:
        """In place of the row reader, which would give random tokens."""

        def __init__(self, folder, manifest, split):
            self.split = split

        def read(self, source, numbers):
            result = np.full((len(numbers), 128), 1, dtype=np.uint16)
            for place, number in enumerate(numbers):
                seed = [int(number), len(self.split), len(source)]
                some = np.random.default_rng(seed).choice(words, 25)
                ids = tokenizer.encode(" ".join(some)).ids[:128]
                result[place, : len(ids)] = ids
            return result

    monkeypatch.setattr(finetune_demo, "RowReader", Reader)
    monkeypatch.setattr(finetune_demo, "PASSAGES_PER_SOURCE", {"train": 10, "heldout": 4})
    return folder


def test_both_tasks_come_from_the_rows_and_twice_the_same(rows, tmp_path):
    written = finetune_demo.write_tasks(rows, tmp_path / "tasks")
    assert {path.name for path in written} == {
        f"{task}-{split}.jsonl" for task in ("source", "capitals") for split in ("train", "dev")
    }
    lines = [json.loads(line) for line in (tmp_path / "tasks" / "source-train.jsonl").open()]
    assert {line["label"] for line in lines} == set(read_manifest(rows).splits["train"])
    assert all(len(line["text"].split()) == finetune_demo.PASSAGE_WORDS for line in lines)
    capitals = [json.loads(line) for line in (tmp_path / "tasks" / "capitals-dev.jsonl").open()]
    for line in capitals:
        assert line["words"] == [word.lower() for word in line["words"]]
        assert {"small", "capital"} == set(line["labels"])
    again = finetune_demo.write_tasks(rows, tmp_path / "again")
    for path in again:
        assert path.read_bytes() == (tmp_path / "tasks" / path.name).read_bytes()


def test_rows_without_plain_text_are_refused(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_demo, "PASSAGES_PER_SOURCE", {"train": 10**6, "heldout": 10**6})
    with pytest.raises(UserError, match="too little plain text in the train rows of a"):
        finetune_demo.write_tasks(rows, tmp_path / "tasks")

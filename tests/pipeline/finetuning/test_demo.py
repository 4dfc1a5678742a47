"""The demo's two tasks, made of packed rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.load import UserError
from data_prep.dataset.manifest import Manifest, Split, read_manifest
from data_prep.tokenization.train import train_tokenizer
from pipeline.finetuning import demo as finetune_demo
from tests.pipeline.finetuning.finetune_run import SENTENCE
from tests.pipeline.training_run import make_rows

FEW_PASSAGES: dict[Split, int] = {"train": 10, "heldout": 4}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows whose text is made of words, every third with a capital letter."""
    folder = tmp_path / "rows"
    tokenizer = train_tokenizer([SENTENCE] * 60, 270)
    make_rows(folder, rows=64, tokenizer=tokenizer, row_tokens=128)
    words = [w.title() if n % 3 == 0 else w for n, w in enumerate(sorted(set(SENTENCE.split())))]

    class Reader:
        """In place of the row reader, which would give random tokens."""

        def __init__(self, folder: Path, manifest: Manifest, split: Split) -> None:
            self.split = split

        def read(self, source: str, numbers: NDArray[np.int64]) -> NDArray[np.uint16]:
            result = np.full((len(numbers), 128), 1, dtype=np.uint16)
            for place, number in enumerate(numbers):
                seed = [int(number), len(self.split), len(source)]
                some = np.random.default_rng(seed).choice(words, 25)
                ids = tokenizer.encode(" ".join(some)).ids[:128]
                result[place, : len(ids)] = ids
            return result

    monkeypatch.setattr(finetune_demo, "RowReader", Reader)
    return folder


def test_both_tasks_come_from_the_rows_and_twice_the_same(rows: Path, tmp_path: Path) -> None:
    written = finetune_demo.write_tasks(rows, tmp_path / "tasks", FEW_PASSAGES)
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
    again = finetune_demo.write_tasks(rows, tmp_path / "again", FEW_PASSAGES)
    for path in again:
        assert path.read_bytes() == (tmp_path / "tasks" / path.name).read_bytes()


def test_rows_without_plain_text_are_refused(rows: Path, tmp_path: Path) -> None:
    too_many: dict[Split, int] = {"train": 10**6, "heldout": 10**6}
    with pytest.raises(UserError, match="too little plain text in the train rows of a"):
        finetune_demo.write_tasks(rows, tmp_path / "tasks", too_many)

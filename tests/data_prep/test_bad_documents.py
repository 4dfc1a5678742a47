"""Bad documents in a whole run: too long, just within the limit, or an unexpected error."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import UserError
from data_prep.readers import jsonl
from data_prep.run import prepare
from tests.data_prep.corpora import forum_config, random_texts, write_forum

ROOT = Path(__file__).parents[2]


def test_a_huge_document_is_skipped_in_little_memory(tmp_path: Path) -> None:
    write_forum(tmp_path / "raw", random_texts(80))
    sentence = "It was the best of times, it was the worst of times. "
    with open(tmp_path / "raw/forum.jsonl", "a") as file:
        file.write('{"text": "')
        for _ in range(200):
            file.write(sentence * (1_000_000 // len(sentence)))
        file.write('"}\n{"text": "The last one is of ten words or perhaps of more."}\n')
    config = tmp_path / "config.yaml"
    # Nearly all bytes of the file are in the one bad record.
    config.write_text(forum_config(tmp_path, max_bad_share=1).model_dump_json())
    command = [sys.executable, "-m", "data_prep.run", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    report = json.loads((tmp_path / "rows/report.json").read_text())
    assert 400e6 < report["costs"]["ingest"]["peak_bytes"] < 1_500e6
    entry = report["sources"]["forum"]
    assert entry["bad"] == {"longer than max_document_mb": 1}
    assert entry["read_documents"] == 81
    (example,) = entry["bad_examples"]
    assert re.fullmatch(r"\d+,\d+,\d+ or more bytes", example["detail"])
    assert example["offset"] > 0


def test_a_document_just_within_the_limit_is_kept(tmp_path: Path) -> None:
    texts = random_texts(80)
    texts[5] = " ".join(random_texts(30, words=200, seed=9))
    write_forum(tmp_path / "raw", texts)
    megabytes = len(texts[5]) / 1e6
    prepare(forum_config(tmp_path, max_document_mb=megabytes))
    report = json.loads((tmp_path / "rows/report.json").read_text())
    assert report["sources"]["forum"]["bad"] == {}
    for name in ("work", "rows"):
        subprocess.run(["rm", "-r", str(tmp_path / name)], check=True)
    with pytest.raises(UserError, match=r"forum.jsonl: longer than max_document_mb at offset \d+"):
        prepare(forum_config(tmp_path, max_document_mb=megabytes - 1e-6, on_bad_record="stop"))


def test_an_unexpected_error_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_forum(tmp_path / "raw", random_texts(8))

    def fail(line: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(jsonl, "parse_json", fail)
    with pytest.raises(ZeroDivisionError) as error:
        prepare(forum_config(tmp_path))
    (note,) = pickle.loads(pickle.dumps(error.value)).__notes__  # as it arrives from a worker
    assert re.fullmatch(rf"while reading {tmp_path}/raw/forum.jsonl, \[0, \d+\)", note)

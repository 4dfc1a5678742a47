"""Files of probes: bad lines, compressed and damaged files."""

import gzip
import json
from pathlib import Path

import pytest

from configs.load import UserError
from pipeline.evaluation.config import FileTexts
from pipeline.evaluation.json_lines import read_records
from pipeline.evaluation.minimal_pairs import MinimalPair, read_pair
from pipeline.evaluation.texts import texts_of_files


def test_compressed_files_are_read_and_damage_is_named(tmp_path: Path) -> None:
    line = json.dumps({"sentence_good": "a b", "sentence_bad": "b a"}).encode() + b"\n"
    path, text = tmp_path / "pairs.jsonl.gz", tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + line + b"\xff\n"))
    (found,) = read_records([path], read_pair, "skip")
    assert found.name == "pairs"
    assert found.records == (MinimalPair("a b", "b a", ""),)
    assert [*found.bad] == ["not UTF-8, from character 0 on"]
    path.write_bytes(gzip.compress(line * 99)[:-9])
    with pytest.raises(UserError, match=r"pairs.jsonl.gz: damaged or incomplete"):
        read_records([path], read_pair, "skip")
    text.write_bytes(gzip.compress("één\ntwo\n\nthree".encode()))
    config = FileTexts(files=[str(text)])
    assert list(texts_of_files(config, "refuse")[0]["text"]) == ["één\ntwo", "three"]


def test_bad_lines_are_named_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    good = json.dumps({"sentence_good": "a b", "sentence_bad": "b a", "linguistics_term": "x"})
    bad = ["{", "[1]", json.dumps({"sentence_good": "a"}), json.dumps({"sentence_good": 1})]
    bad += [json.dumps({"sentence_good": "a", "sentence_bad": text}) for text in ("a", " ")]
    path.write_text("\n".join(["", good, *bad]) + "\n")
    with pytest.raises(UserError) as caught:
        read_records([path], read_pair, "refuse")
    message = str(caught.value)
    assert message.startswith("6 bad record(s)")
    for number, reason in enumerate(
        ("no JSON", "no JSON object but list", "no 'sentence_bad'", "'sentence_good' is no text"), 3
    ):
        assert f"{path}:{number}: {reason}" in message
    assert f"{path}:7: sentence_good and sentence_bad are equal" in message
    assert f"{path}:8: 'sentence_bad' is empty" in message
    (found,) = read_records([path], read_pair, "skip")
    assert found.records == (MinimalPair("a b", "b a", "x"),)
    assert found.bad.total() == 6
    path.write_text("{}\n")
    with pytest.raises(UserError, match="no usable record"):
        read_records([path], read_pair, "skip")

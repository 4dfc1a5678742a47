"""The ledger has a row for every record, with what became of it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.documents import ledger
from tests.data_prep.corpora import random_texts
from tests.data_prep.documents.ingesting import ANY_TEXT, ingested


@pytest.mark.parametrize("part_bytes", [1 << 30, 700])
def test_every_record_has_a_row(tmp_path: Path, part_bytes: int) -> None:
    texts = random_texts(30)
    lines = [json.dumps({"text": text, "key": f"k{n}"}) for n, text in enumerate(texts)]
    lines[7] = json.dumps({"text": "too short", "key": "short"})
    lines[9] = "no JSON"
    lines[20] = json.dumps({"text": "", "key": "k20"})
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jsonl").write_text("".join(line + "\n" for line in lines[:15]))
    (raw / "b.jsonl").write_text("".join(line + "\n" for line in lines[15:]))
    reader = {"type": "jsonl", "files": [f"{raw}/*.jsonl"], "id_field": "key"}
    filters = ANY_TEXT.model_copy(update={"min_words": 5})
    result = ingested(tmp_path / "work", {"forum": reader}, filters, part_bytes)
    assert (len(result.parts) == 1) == (part_bytes > 700)
    rows = []
    for part, path in zip(result.parts, result.files(ledger.SUFFIX), strict=True):
        for row in pq.read_table(path).to_pylist():
            row["file"] = part.spans[row.pop("span")].file.name
            rows.append(row)
    starts = {"a.jsonl": lines[:15], "b.jsonl": lines[15:]}
    expected = {
        (name, sum(len(line) + 1 for line in of_file[:number])): line
        for name, of_file in starts.items()
        for number, line in enumerate(of_file)
    }
    found = {(row["file"], row["offset"]): row for row in rows}
    assert found.keys() == expected.keys()
    assert len(rows) == 30
    states = {expected[place]: (row["state"], row["reason"]) for place, row in found.items()}
    assert states[lines[0]] == ("kept", None)
    assert states[lines[7]] == ("dropped", "too few words")
    assert states[lines[9]] == ("bad", "not JSON")
    assert states[lines[20]] == ("dropped", "empty")
    (short,) = [row for row in rows if row["reason"] == "too few words"]
    assert (short["value"], short["limit"], short["id"]) == (2, 5, "short")
    assert short["num_bytes"] == len("too short")
    assert all(row["id"] is None for row in rows if row["state"] == "kept")


def test_ids_that_are_places_are_not_stored(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "short"}) + "\n")
    filters = ANY_TEXT.model_copy(update={"min_words": 5})
    reader = {"type": "jsonl", "files": [f"{tmp_path}/a.jsonl"]}
    result = ingested(tmp_path / "work", {"forum": reader}, filters)
    (row,) = pq.read_table(result.files(ledger.SUFFIX)[0]).to_pylist()
    assert (row["state"], row["id"], row["offset"]) == ("dropped", None, 0)

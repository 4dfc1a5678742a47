"""Records are found by their place or id, whatever state they are in."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.documents.lookup import FinishedPart, close_matches, examples, find, offsets_around
from tests.data_prep.corpora import random_texts
from tests.data_prep.documents.ingesting import ingested
from tests.data_prep.readers.test_archives import warc_record


def finished_parts(
    work: Path, reader: Mapping[str, Any], part_bytes: int = 1 << 30
) -> list[FinishedPart]:
    """The parts of a source with this reader."""
    result = ingested(work, {"forum": reader}, part_bytes=part_bytes)
    return [FinishedPart(result.folder, part, record) for part, record in result.with_records()]


def states(parts: list[FinishedPart], queries: list[str]) -> list[list[tuple[str, str | None]]]:
    return [
        [(found.row["state"], found.row["reason"]) for found in records]
        for records in find(parts, queries).values()
    ]


@pytest.mark.parametrize("part_bytes", [1 << 30, 900])
def test_a_file_is_named_by_its_path_or_the_end_of_it(tmp_path: Path, part_bytes: int) -> None:
    folder = tmp_path / "raw/2024/a"
    folder.mkdir(parents=True)
    lines = [json.dumps({"text": text}) + "\n" for text in random_texts(20)]
    (folder / "x.jsonl").write_text("".join(lines[:10]))
    (folder / "y.jsonl").write_text("".join(lines[10:]))
    reader = {"type": "jsonl", "files": [f"{tmp_path}/raw/**/*.jsonl"]}
    parts = finished_parts(tmp_path / "work", reader, part_bytes)
    at = sum(map(len, lines[10:14]))
    for name in ("2024/a/y.jsonl", "y.jsonl", "a/y.jsonl", str(folder / "y.jsonl")):
        ((query, (found,)),) = find(parts, [f"{name}:{at}"]).items()
        assert query == f"{name}:{at}"
        assert found.kept_number is not None
        assert found.part.part.spans[found.row["span"]].file.name == "2024/a/y.jsonl"
    assert find(parts, [f"z.jsonl:{at}"]) == {f"z.jsonl:{at}": []}
    last = at - len(lines[13])
    assert offsets_around(parts, f"y.jsonl:{at - 1}") == [f"y.jsonl:{last}", f"y.jsonl:{at}"]
    assert offsets_around(parts, "y.jsonl:99999999") == [f"y.jsonl:{sum(map(len, lines[10:19]))}"]
    close = close_matches(parts, "2024/a/z.jsonl:5")
    assert sorted(close[:2]) == ["2024/a/x.jsonl:5", "2024/a/y.jsonl:5"]
    assert examples(parts)["forum"][0] == "2024/a/x.jsonl:0"


def test_skipped_records_of_a_web_archive_are_found(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    records = [
        warc_record("response", head + b"One text.", "http://a/1"),
        warc_record("request", b"GET /1 HTTP/1.1\r\n\r\n", "http://a/1"),
        warc_record("response", head + b"Another.", "http://a/2"),
    ]
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(records))
    parts = finished_parts(tmp_path / "work", {"type": "warc", "files": [str(path)]})
    places = [0, len(records[0]), len(records[0] + records[1])]
    found = states(parts, [f"a.warc:{place}" for place in places])
    assert [state for ((state, _),) in found] == ["kept", "skipped", "kept"]
    assert states(parts, ["http://a/2"]) == [[("kept", None)]]


def test_records_in_members_of_an_archive_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    good = json.dumps({"text": "Some words of a text."}) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.jsonl", good + "no JSON\n")
        archive.writestr("two.jsonl", "no JSON\n" + good)
    parts = finished_parts(tmp_path / "work", {"type": "jsonl", "files": [str(path)]})
    bad = ("bad", "not JSON")
    queries = ["a.zip!one.jsonl:0", f"{path}!one.jsonl:{len(good)}", "a.zip!two.jsonl:0"]
    assert states(parts, queries) == [[("kept", None)], [bad], [bad]]
    assert len(find(parts, ["a.zip:0"])["a.zip:0"]) == 1  # the record of the file itself


def test_names_that_are_not_utf_8_are_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    path = Path(str(folder) + "/\udcff.jsonl")
    path.write_text(json.dumps({"text": "Some words of a text."}) + "\nno JSON\n")
    parts = finished_parts(tmp_path / "work", {"type": "jsonl", "files": [f"{folder}/*"]})
    found = states(parts, [f"{path}:0", f"{path}:34", "\udcff.jsonl:0"])
    assert found == [[("kept", None)], [("bad", "not JSON")], [("kept", None)]]
    assert states(parts, ["\udcff"]) == [[]]

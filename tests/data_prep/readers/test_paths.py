"""Names and links of files: found as they are written, read once, and never a reason to crash."""

import json
import logging
import os
from pathlib import Path

import pytest

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.documents.ingest import ingest_stage
from data_prep.readers.files import list_files
from data_prep.run import prepare
from tests.data_prep.corpora import config_of, random_texts
from tests.data_prep.readers.reading import read_documents


def write(folder: Path, *names: str) -> None:
    """Files that hold their names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


def names_of(*patterns: str | Path) -> list[str]:
    return [file.name for file in list_files([str(pattern) for pattern in patterns], "files")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("corpus [2023]/*.txt", ["a.txt", "b[1].txt"]),
        ("corpus [2023]/b[1].txt", ["b[1].txt"]),
        ("*/b[1].txt", ["corpus [2023]/b[1].txt", "other/b1.txt"]),
        ("*/corpus [2023]/*.txt", ["deep/corpus [2023]/d.txt"]),
        (
            "**/corpus [2023]/*",
            ["corpus [2023]/a.txt", "corpus [2023]/b[1].txt", "deep/corpus [2023]/d.txt"],
        ),
        ("corpus [[]2023]/a*", ["a.txt"]),
        ("oth?r/b[0-9].txt", ["other/b1.txt"]),
        ("what?/e.txt", ["e.txt"]),
    ],
)
def test_a_name_that_exists_as_it_is_written_is_no_wildcard(
    tmp_path: Path, pattern: str, names: list[str]
) -> None:
    """At every level of a pattern."""
    write(tmp_path, "corpus [2023]/a.txt", "corpus [2023]/b[1].txt", "corpus 2/a.txt")
    write(tmp_path, "deep/corpus [2023]/d.txt", "other/b1.txt", "what?/e.txt", "whats/e.txt")
    if pattern.startswith("corpus [[]"):
        names = ["corpus [2023]/a.txt"]
    assert sorted(names_of(tmp_path / pattern)) == sorted(names)
    if not pattern.startswith("*"):  # fsspec's own wildcards come first
        assert sorted(names_of(f"file://{tmp_path / pattern}")) == sorted(names)


def test_links_in_circles_end(tmp_path: Path) -> None:
    write(tmp_path, "a/x.txt", "a/b/y.txt", "c/z.txt")
    (tmp_path / "a/b/up").symlink_to("../..")
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "0_link").symlink_to("c")
    assert names_of(tmp_path / "**/*.txt") == ["a/b/y.txt", "a/x.txt", "c/z.txt"]
    assert names_of(tmp_path / "**") == ["a/b/y.txt", "a/x.txt", "c/z.txt"]
    assert names_of(tmp_path / "a/self/**/*.txt") == ["b/up/c/z.txt", "b/y.txt", "x.txt"]


def test_a_file_in_several_spellings_is_read_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, "raw/a/x.txt", "raw/a/y.txt")
    (tmp_path / "raw/link.txt").symlink_to("a/x.txt")
    monkeypatch.chdir(tmp_path)
    spellings = ("raw/link.txt", "./raw/a/*.txt", "raw/a/../a/x.txt", "raw/**/*.txt")
    for patterns in (spellings, spellings[::-1], [f"{tmp_path}/raw/a/x.txt", *spellings]):
        caplog.clear()
        files = list_files(patterns, "files")
        assert sorted(Path(file.path).name for file in files) in (
            ["x.txt", "y.txt"],
            ["link.txt", "y.txt"],
        )
        assert "are matched more than once" in caplog.text
    (tmp_path / "raw/a/hard.txt").hardlink_to(tmp_path / "raw/a/x.txt")
    assert len(list_files(["raw/a/*"], "files")) == 3


def test_a_file_of_two_sources_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "a.txt", "b.txt")
    (tmp_path / "link").symlink_to(".")
    sources = {
        "one": {"reader": {"type": "text", "files": f"{tmp_path}/*.txt"}},
        "two": {"reader": {"type": "text", "files": f"{tmp_path}/link/a.txt"}},
    }
    tree = {"output": tmp_path / "rows", "work": tmp_path / "work", "sources": sources}
    config = DataConfig.model_validate(tree)
    ingest_stage(
        config.sources,
        dict.fromkeys(sources, config.filters),
        scrub=config.scrub,
        max_document_bytes=1000,
        on_bad_record="skip",
        part_bytes=1000,
    )
    assert "1 files of source 'two' are also files of source 'one'" in caplog.text


def test_markers_of_other_tools_are_not_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, "part-0.txt", "_SUCCESS", "._SUCCESS.crc", ".part-0.txt.crc", "_notes.txt")
    write(tmp_path, "_temporary/0/part-1.txt", "_delta_log/0.json", "_metadata")
    assert names_of(tmp_path / "*") == ["_notes.txt", "part-0.txt"]
    assert "4 files or folders such as _SUCCESS" in caplog.text
    assert names_of(tmp_path / "**/*") == ["_notes.txt", "part-0.txt"]
    assert names_of(tmp_path / "_SUCCESS") == ["_SUCCESS"]
    assert names_of(tmp_path / ".*.crc") == ["._SUCCESS.crc", ".part-0.txt.crc"]


@pytest.mark.parametrize("pattern", ["*.txt", "broken.txt", "**/*.txt"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "broken.txt").symlink_to("gone/b.txt")
    with pytest.raises(
        UserError, match=r"broken\.txt is a link to gone/b\.txt, which does not exist"
    ):
        names_of(tmp_path / pattern)
    (tmp_path / "broken.txt").unlink()
    (tmp_path / "broken.txt").symlink_to("broken.txt")
    with pytest.raises(UserError, match=r"is a link to broken\.txt"):
        names_of(tmp_path / pattern)


def test_a_file_that_cannot_be_read_is_an_error_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.txt", "b.txt")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("b.txt"))
    with pytest.raises(UserError, match=r"b\.txt cannot be read: Permission denied.*permissions"):
        names_of(tmp_path / "*.txt")


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"is a folder; write a pattern such as .*/inner/\*"):
        names_of(tmp_path / "inner/")
    with pytest.raises(UserError, match="pipe' is no regular file"):
        names_of(tmp_path / "pipe")
    with pytest.raises(UserError, match="matches no file"):
        names_of(tmp_path / "*")


def test_a_name_that_is_not_utf_8_is_readable_everywhere(tmp_path: Path) -> None:
    """From the plan to the report, whose text has an escape for each such byte."""
    name = os.fsdecode(b"na\xffme-\xc3\xa4.jsonl")
    lines = [json.dumps({"text": text}) for text in random_texts(40)]
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / name
    path.write_text("\n".join([*lines, "{broken", ""]))
    documents, _ = read_documents(tmp_path / "raw/*", type="jsonl")
    assert documents[0][1] == "na\\xffme-ä.jsonl:0"
    sources = {"a": {"reader": {"type": "jsonl", "files": f"{tmp_path}/raw/*"}}}
    config = config_of(tmp_path, sources=sources, filters={"apply": False})
    prepare(config)
    report = (tmp_path / "rows/report.html").read_text(encoding="utf-8")
    assert "na\\udcffme-ä.jsonl" in report
    prepare(config)  # finds it finished

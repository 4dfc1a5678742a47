"""Data preparation from an object store, by its real protocol: same rows, nothing read twice."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError, UserError
from data_prep.config import DataConfig
from data_prep.documents.ingest import IngestPart, IngestStage
from data_prep.engine.stage import PartOutput
from data_prep.first_records import MAX_KINDS, spread
from data_prep.readers.files import list_files
from data_prep.run import prepare
from tests.data_prep.corpora import config_of, hashes_of, random_texts, write_corpus
from tests.s3_server import S3Server


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "raw")
    return tmp_path


def uploaded(s3: S3Server, corpus: Path) -> str:
    """The URL of the files of a corpus."""
    bucket = s3.new_bucket()
    for path in (corpus / "raw").iterdir():
        s3.files.put_file(str(path), f"{bucket}/raw/{path.name}")
    s3.reset()
    return bucket


def remote_config(folder: Path, bucket: str, **changes: Any) -> DataConfig:
    sources = config_of(folder).model_dump(mode="json")["sources"]
    for source in sources.values():
        source["reader"]["files"] = [f"{bucket}/raw/{Path(source['reader']['files'][0]).name}"]
    return config_of(folder, sources=sources, **changes)


def test_rows_are_those_of_local_files_and_a_finished_run_reads_nothing(
    s3: S3Server, corpus: Path
) -> None:
    prepare(config_of(corpus))
    bucket = uploaded(s3, corpus)
    config = remote_config(corpus / "remote", bucket)
    prepare(config)
    assert hashes_of(corpus / "remote/rows") == hashes_of(corpus / "rows")
    s3.reset()
    prepare(config)
    assert not s3.requests("GET", "/raw/")


def test_a_resumed_run_reads_only_the_parts_that_are_missing(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").mkdir()
    for number, text in enumerate(random_texts(40, words=200)):
        (tmp_path / f"raw/{number:02d}.txt").write_text(text)
    bucket = uploaded(s3, tmp_path)
    reader = {"type": "text", "files": [f"{bucket}/raw/*.txt"]}
    sources = {"books": {"reader": reader}}
    filters = {"min_stop_words": 0, "repetition": None}
    config = config_of(tmp_path, sources=sources, filters=filters, part_mb=0.001)  # a file a part
    run_part, num_left = IngestStage.run_part, 25

    def interrupted(stage: IngestStage, folder: Path, part: IngestPart) -> PartOutput:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            raise UserError("interrupted")
        return run_part(stage, folder, part)

    monkeypatch.setattr(IngestStage, "run_part", interrupted)
    with pytest.raises(UserError, match="interrupted"):
        prepare(config)
    monkeypatch.setattr(IngestStage, "run_part", run_part)
    finished = {path.name.split(".")[0] for path in (tmp_path / "work/ingest").glob("*.ledger")}
    assert len(finished) == 25
    s3.reset()
    prepare(config)
    checked = {Path(file.path).name for file in spread(list_files(reader["files"], ""), MAX_KINDS)}
    read = {Path(request.path).name for request in s3.requests("GET", "/raw/")} - checked
    missing = {f"{number:02d}.txt" for number in range(25, 40)} - checked
    assert read == missing


def test_folders_of_a_run_are_no_urls(tmp_path: Path) -> None:
    for key in ("output", "work"):
        with pytest.raises(ConfigError, match=rf"{key}: 's3://b/x' is a URL; .*data_prep.upload"):
            config_of(tmp_path, **{key: "s3://b/x"})

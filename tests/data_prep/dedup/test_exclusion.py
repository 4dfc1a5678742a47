"""The tables of n-grams in a run: in many ranges, killed and resumed, of an older version."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.dedup.exclusion import ExclusionStage
from data_prep.dedup.hash_ranges import HashRangePart
from data_prep.dedup.limits import DedupLimits
from data_prep.engine.records import read_checked, write_checked
from data_prep.engine.stage import PartOutput
from data_prep.limits import Limits
from data_prep.run import prepare, restart
from tests.data_prep.corpora import config_of, hashes_of, write_corpus

RANGES = 8
LIMITS = Limits(dedup=DedupLimits(table_ngrams=50, table_ranges=RANGES))


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and its rows, of one range."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus(folder / "raw")
    prepare(config(folder, folder))
    return folder


def config(made: Path, folder: Path) -> DataConfig:
    rules: dict[str, Any] = {"ngram_words": 2, "max_share": 0.15}
    if folder != made:
        (folder / "raw").symlink_to(made / "raw")
    return config_of(folder, decontaminate=rules, part_mb=0.2)


def outputs_of(work: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in (work / "overlap").iterdir()
        if path.suffix != ".json"
    }


def test_ranges_that_were_finished_before_a_run_was_killed_are_kept(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_part, ran = ExclusionStage.run_part, list[str]()

    def killed(self: ExclusionStage, folder: Path, part: HashRangePart) -> PartOutput:
        if part.number == 5:
            raise Killed
        ran.append(part.name)
        return run_part(self, folder, part)

    resumed = config(made, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ExclusionStage, "run_part", killed)
        with pytest.raises(Killed):
            prepare(resumed, LIMITS)
    assert ran == [f"ngrams-{number:06d}" for number in range(5)]
    records = [tmp_path / f"work/exclusion/{name}.record.json" for name in ran]
    before = [record.stat().st_mtime_ns for record in records]
    prepare(resumed, LIMITS)
    assert [record.stat().st_mtime_ns for record in records] == before
    tables = list((tmp_path / "work/exclusion").glob("ngrams-*.0.u64"))
    assert len(tables) == RANGES
    assert outputs_of(tmp_path / "work") == outputs_of(made / "work")
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")


def test_the_table_of_an_older_version_is_refused(made: Path, tmp_path: Path) -> None:
    old = config(made, tmp_path)
    prepare(old)
    shutil.rmtree(tmp_path / "rows")
    path = tmp_path / "work/exclusion/plan.json"
    plan = read_checked(path)
    assert plan is not None
    write_checked(path, {**plan, "version": 3, "parts": {"exclusion": {}}})
    with pytest.raises(UserError, match=r"(?s)'exclusion' was.*version: was 3, now 4\n.*--restart"):
        prepare(old)
    restart(old, "exclusion")
    prepare(old)
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")

"""What became of every record of a run can be explained, and adds up to the account of the run."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.dataset.manifest import Split, read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.engine.execution import restart_from
from data_prep.explain import explain
from data_prep.fates import OVER_MAX_TOKENS, Fate
from data_prep.report.accounts import CONTAMINATED, EXACT, NEAR
from data_prep.run import prepare
from tests.data_prep.corpora import (
    config_of,
    forum_config,
    random_texts,
    write_corpus,
    write_forum,
)
from tests.data_prep.drops import NOTICE, config_with_drops, write_corpus_with_drops


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which documents are dropped for every reason."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus_with_drops(folder)
    prepare(config_with_drops(folder))
    return folder


def lines_of(folder: Path) -> dict[str, bytes]:
    """The lines of the forum by the place of each, FILE:OFFSET."""
    places: dict[str, bytes] = {}
    offset = 0
    for line in (folder / "raw/forum.jsonl").read_bytes().splitlines(keepends=True):
        places[f"forum.jsonl:{offset}"] = line
        offset += len(line)
    return places


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_fates_of_all_records_add_up_to_the_account(made: Path) -> None:
    before = snapshot(made)
    places = lines_of(made)
    fates = explain(config_with_drops(made), list(places))
    assert [fate["query"] for fate in fates] == list(places)
    account = json.loads((made / "rows/report.json").read_text())["accounts"]["forum"]
    outcomes = Counter(fate["outcome"] for fate in fates)
    assert outcomes["kept"] == account["kept"]["documents"]
    for outcome in ("dropped", "bad"):
        reasons = Counter(fate["reason"] for fate in fates if fate["outcome"] == outcome)
        expected = {reason: amount["documents"] for reason, amount in account[outcome].items()}
        assert reasons == Counter({reason: n for reason, n in expected.items() if n})
    assert outcomes.total() == account["read"]["documents"] + outcomes["bad"]
    assert snapshot(made) == before


@pytest.mark.parametrize("mode", ["full_sentences", "doc_sentences", "best_fit", "mixed"])
def test_kept_documents_stand_in_the_named_rows(made: Path, tmp_path: Path, mode: str) -> None:
    is_mixed = mode == "mixed"
    pack: dict[str, Any] = {"row_tokens": 32, "block_rows": 8, "shard_mb": 1, "mixed": is_mixed}
    pack["mode"] = "best_fit" if is_mixed else mode
    config = config_with_drops(made, pack=pack, output=str(tmp_path / "rows"))
    shutil.copytree(made / "work", tmp_path / "work")
    config = config.model_copy(update={"work": tmp_path / "work"})
    restart_from(config.work, ["layout", "rows"])
    prepare(config)
    texts = {place: line for place, line in lines_of(made).items() if b'"id"' in line}
    texts |= {f"{path.name}:0": path.read_bytes() for path in (made / "raw").glob("book*.txt")}
    num_kept = 0
    for fate in explain(config, list(texts)):
        if fate["outcome"] == "kept":
            num_kept += 1
            line = texts[fate["query"]]
            text = json.loads(line)["text"] if line.startswith(b"{") else line.decode()
            shown = decoded(tmp_path / "rows", fate)
            assert " ".join(text.replace(NOTICE, "").split()[:9]) in shown
            assert fate["rows_of"] == ("mixed" if is_mixed else fate["source"])
    assert num_kept > 200


def decoded(folder: Path, fate: Fate) -> str:
    """The text of the rows that a fate names, in order; words separated by one space."""
    manifest = read_manifest(folder)
    split: Split = fate["split"]
    reader = RowReader(folder, manifest, split)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    numbers = np.array([n for a, b in fate["rows"] for n in range(a, b + 1)])
    rows = reader.read(fate["rows_of"], numbers)
    in_shards = sum(b - a + 1 for shard in fate["shards"] for a, b in shard["rows"])
    assert in_shards == len(numbers)
    assert all((folder / shard["shard"]).exists() for shard in fate["shards"])
    joined = rows[:, 1:].ravel()
    text: str = tokenizer.decode(joined[joined > 2].tolist())
    return " ".join(text.split())


def test_duplicates_name_the_kept_document(made: Path) -> None:
    fates = explain(config_with_drops(made), [str(number) for number in range(240)])
    for number, fate in enumerate(fates):
        if number % 4 or number < 4:
            assert fate["outcome"] == "kept"
            continue
        reason = NEAR if number % 8 == 0 else EXACT
        assert (fate["outcome"], fate["reason"]) == ("dropped", reason)
        assert fate["duplicate_of"]["id"] == str(number - 3)
        similarity = fate["duplicate_of"]["similarity"]
        assert similarity == 1 if reason == EXACT else 0.75 <= similarity < 1.01


def test_values_removed_lines_and_evaluation_sets_are_named(made: Path) -> None:
    config = config_with_drops(made)
    tiny, only = explain(config, ["tiny", "only"])
    assert (tiny["reason"], tiny["value"], tiny["limit"]) == ("too few words", 2, 10)
    assert (only["stage"], only["value"], only["limit"]) == ("clean", 0, 10)
    assert (only["removed_lines"], only["removed_bytes"]) == (1, len(NOTICE))
    news = explain(config, [f"new{number}" for number in range(40)])
    assert sum("same_name" in fate for fate in news) == 10
    known = [fate for fate in news if fate["outcome"] != "unknown"]
    contaminated = [fate for fate in known if fate.get("reason") == CONTAMINATED]
    shares = {
        entry["set"]: entry["share"] for fate in contaminated for entry in fate["contaminated_by"]
    }
    assert 0.2 < shares["exam"] < 0.6
    of_exam = contaminated[0]["contaminated_by"][0]
    assert of_exam["set"] == "exam"
    assert [text["id"] for text in of_exam["texts"]] == ["evaluation.txt:0"]
    assert 0 < shares["held-out documents"] < 0.1
    assert sum("removed_lines" in fate for fate in known) == 39


def test_unknown_documents_are_shown_with_similar_ones(made: Path) -> None:
    config = config_with_drops(made)
    places = list(lines_of(made))
    unknown, between, file = explain(config, ["newt3", "forum.jsonl:5", "forum.json:0"])
    assert {fate["outcome"] for fate in (unknown, between, file)} == {"unknown"}
    assert "new3" in unknown["close"]
    assert between["close"][:2] == places[:2]
    assert file["close"][0] == "forum.jsonl:0"
    assert unknown["examples"]["forum"] == ["0", "1", "2"]
    assert unknown["limits"] == {}
    assert "books" in unknown["without_ids"]
    assert "forum" not in unknown["without_ids"]


def test_sources_that_are_read_in_part_are_explained(tmp_path: Path) -> None:
    write_corpus(tmp_path / "raw", num_documents=120)
    sources = config_of(tmp_path).model_dump(mode="json")["sources"]
    sources["forum"] |= {"limit": 100, "max_tokens": 9000, "repeat": 2}
    sources["books"] |= {"sample": 0.5}
    pack = {"row_tokens": 32, "block_rows": 8, "shard_mb": 1, "mixed": True}
    config = config_of(tmp_path, sources=sources, pack=pack)
    prepare(config)
    books = [f"book{number}.txt:0" for number in range(12)]
    fates = explain(config, [*lines_of(tmp_path), *books])
    accounts = json.loads((tmp_path / "rows/report.json").read_text())["accounts"]
    outcomes = Counter(fate["outcome"] for fate in fates)
    reasons = Counter(fate.get("reason") for fate in fates)
    assert outcomes["unknown"] == 20
    assert fates[119]["limits"] == {"forum": 100}
    assert fates[119]["query"] not in fates[119]["close"]
    assert outcomes["skipped"] == reasons["not in the sample"] > 0
    beyond = accounts["forum"]["beyond_max_tokens"]["documents"]
    assert reasons[OVER_MAX_TOKENS] == beyond > 0
    kept = sum(account["kept"]["documents"] for account in accounts.values())
    assert outcomes["kept"] == kept - beyond
    twice = [fate for fate in fates if fate["outcome"] == "kept" and fate["source"] == "forum"]
    assert all(len(fate["rows"]) == 2 for fate in twice if fate["split"] == "train")


@pytest.mark.parametrize("stage", ["encode", "overlap", "verdicts", "clean", "ingest"])
def test_half_finished_work_is_explained_as_far_as_it_goes(
    made: Path, tmp_path: Path, stage: str
) -> None:
    config = half_finished(made, tmp_path, stage)
    before = snapshot(tmp_path)
    bad = next(place for place, line in lines_of(made).items() if line == b"no JSON\n")
    known, copy, tiny, broken = explain(config, ["1", "8", "tiny", bad])
    assert (known["outcome"], known["pending"]) == ("pending", stage)
    assert tiny["reason"] == "too few words"
    assert (broken["outcome"], broken["reason"]) == ("bad", "not JSON")
    assert copy["outcome"] == ("dropped" if stage in ("encode", "overlap") else "pending")
    assert snapshot(tmp_path) == before


def half_finished(made: Path, folder: Path, stage: str) -> DataConfig:
    """The config of a copy of a run of which `stage` and later ones are not finished."""
    shutil.copytree(made / "work", folder / "work")
    config = config_with_drops(made).model_copy(
        update={"work": folder / "work", "output": folder / "rows"}
    )
    if stage == "ingest":  # one part is missing
        (folder / "work/ingest/done.json").unlink()
        (folder / "work/ingest/books-000001.record.json").unlink()
    else:
        shutil.rmtree(folder / "work" / stage)
    return config


def test_the_command_prints_text_or_json(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_with_drops(made).model_dump_json())
    (tmp_path / "ids").write_text("1\ntiny\n")
    results = [
        run_command([str(path), *words])
        for words in (
            ["1", "tiny", "12"],
            ["--json", "--ids", str(tmp_path / "ids")],
            ["unheard-of"],
            [f"work={tmp_path}/none", "1"],
            [],
        )
    ]
    assert [result.returncode for result in results] == [0, 0, 1, 2, 2]
    shown = results[0].stdout
    assert "\ntiny\n" in shown
    assert "dropped by ingest: too few words (2; the limit is 10)" in shown
    assert "dropped by verdicts: exact duplicate\n    of 9 (source forum, estimated" in shown
    assert "kept, trained on" in shown or "kept, held out" in shown
    assert [fate["query"] for fate in json.loads(results[1].stdout)] == ["1", "tiny"]
    assert "unheard-of: not known" in results[2].stdout
    assert "holds no work of data preparation" in results[3].stderr
    assert "name at least one document" in results[4].stderr


def run_command(words: list[str]) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "data_prep.explain", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_deleted_work_folder_and_other_settings_are_clear_errors(
    made: Path, tmp_path: Path
) -> None:
    config = config_with_drops(made)
    with pytest.raises(UserError, match=r"is known only from the work folder, which was deleted"):
        explain(config.model_copy(update={"work": tmp_path}), ["1"])
    other = config_with_drops(made, scrub={"emails": False})
    with pytest.raises(
        UserError, match=r"different settings:\n  settings\.scrub\.emails: was true"
    ):
        explain(other, ["1"])


def test_a_damaged_work_folder_is_a_clear_error(made: Path, tmp_path: Path) -> None:
    config = half_finished(made, tmp_path, "rows")
    for path in (tmp_path / "work/ingest").glob("*.ledger"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="damaged"):
        explain(config, ["1"])


def test_a_duplicate_joined_through_others_names_them(tmp_path: Path) -> None:
    words = random_texts(1, words=400, seed=5)[0].split()
    fresh = random_texts(1, words=400, seed=6)[0].split()
    chain = [" ".join([*fresh[: 12 * step], *words[12 * step :]]) for step in range(12)]
    write_forum(tmp_path / "raw", [*random_texts(60), *chain, chain[-1].upper()])
    config = forum_config(tmp_path)
    prepare(config)
    places = list(lines_of(tmp_path))[60:]
    first, *duplicates, copy = explain(config, places)
    assert first["outcome"] == "kept"
    for number, fate in enumerate(duplicates, start=1):
        assert fate["reason"] == NEAR
        assert fate["duplicate_of"]["id"] == places[0]
        if fate["duplicate_of"]["similarity"] < 0.75:
            assert fate["through"]["similarity"] > 0.75
            neighbours = places[max(number - 2, 1) : number + 3]
            assert fate["through"]["id"] in [*neighbours, places[-1]]
    assert "through" in duplicates[-1]
    assert copy["reason"] == EXACT
    assert copy["duplicate_of"] == {"id": places[-2], "source": "forum", "similarity": 1}
    assert copy["kept"]["id"] == places[0]
    assert copy["kept"]["similarity"] < 0.75

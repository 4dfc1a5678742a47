"""Options of a data config, and the effect of bad input on a whole run."""

import errno
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.load import UserError, validate
from data_prep.config import DataConfig
from data_prep.dataset.manifest import read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.verify import verify_shards
from data_prep.dedup.limits import DedupLimits
from data_prep.limits import Limits
from data_prep.report.terminal import end_of_run
from data_prep.run import prepare
from tests.data_prep.corpora import decoded_documents, forum_config, random_texts, write_forum

NOTICE = "Subscribe to our weekly letter for more of the same."


@pytest.mark.parametrize("keep_first", [True, False])
def test_lines_that_many_documents_repeat_are_removed(tmp_path: Path, keep_first: bool) -> None:
    texts = random_texts(60)
    write_forum(tmp_path / "raw", [f"{text}\n{NOTICE}" for text in texts] + [NOTICE])
    lines = {"max_documents": 10, "keep_first": keep_first}
    for part_mb in (64, 0.002):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.rmtree(tmp_path / "rows", ignore_errors=True)
        prepare(forum_config(tmp_path, dedup={"lines": lines}, part_mb=part_mb))
        found = decoded_documents(tmp_path) + decoded_documents(tmp_path, "heldout")
        assert sorted(text.partition("\n")[0] for text in found) == sorted(texts)
        assert sum(NOTICE in text for text in found) == keep_first
        if keep_first:
            assert f"{texts[0]}\n{NOTICE}" in found
    data = json.loads((tmp_path / "rows/report.json").read_text())
    assert data["sources"]["forum"]["dropped"] == {"only repeated lines": 1}


def test_training_documents_that_overlap_evaluation_texts_are_dropped(tmp_path: Path) -> None:
    texts = random_texts(200)
    secret = random_texts(1, words=30, seed=1)[0]
    texts[7] = texts[7] + " " + " ".join(secret.split()[5:19])  # 14 words of it
    texts[8] = texts[8] + " " + " ".join(secret.split()[5:17])  # 12 words
    write_forum(tmp_path / "raw", texts)
    (tmp_path / "raw/eval.txt").write_text(secret)
    evaluation = {"secret": {"type": "text", "files": [str(tmp_path / "raw/eval.txt")]}}
    prepare(forum_config(tmp_path, decontaminate={"evaluation": evaluation}, part_mb=0.005))
    trained, held = decoded_documents(tmp_path), decoded_documents(tmp_path, "heldout")
    assert texts[8] in trained + held
    assert (texts[7] in trained) is False
    assert len(trained) + len(held) == 200 - (texts[7] not in held)
    sets = json.loads((tmp_path / "rows/report.json").read_text())["evaluation_sets"]
    found = 200 - len(trained) - len(held)
    assert sets["secret"] == {
        **{"texts": 1, "ngrams": 18, "short_texts": 0, "too_short": 0, "bad": 0},
        **{"overlapping": found, "dropped": found},
    }
    assert sets["held-out documents"]["texts"] == len(held)
    shown = end_of_run(tmp_path / "rows").splitlines()
    assert any(
        line.split() == ["secret", "1", "18", "0", "0", "0", *[str(found)] * 2] for line in shown
    )


def test_training_documents_that_quote_held_out_ones_are_dropped(tmp_path: Path) -> None:
    texts = random_texts(150)
    texts += [
        text + " " + more for text, more in zip(texts, random_texts(150, seed=2), strict=True)
    ]
    write_forum(tmp_path / "raw", texts)
    prepare(forum_config(tmp_path, decontaminate={}, dedup={"near": None}))
    trained, held = decoded_documents(tmp_path), decoded_documents(tmp_path, "heldout")
    assert held
    heldout_starts = {text[:60] for text in held}
    assert not heldout_starts & {text[:60] for text in trained}
    data = json.loads((tmp_path / "rows/report.json").read_text())
    contaminated = data["sources"]["forum"]["contaminated_documents"]
    assert contaminated == 300 - len(held) - len(trained) > 5


def test_addresses_are_scrubbed_and_counted(tmp_path: Path) -> None:
    texts = random_texts(80)
    texts[3] += " write to jane.doe@example.org or 10.0.0.1 not 1.2.3.4.5 today"
    write_forum(tmp_path / "raw", texts)
    prepare(forum_config(tmp_path, scrub={"emails": True, "ip_addresses": True}))
    found = decoded_documents(tmp_path) + decoded_documents(tmp_path, "heldout")
    (scrubbed,) = [text for text in found if "write to" in text]
    assert scrubbed.endswith("write to [email] or [ip address] not 1.2.3.4.5 today")
    data = json.loads((tmp_path / "rows/report.json").read_text())
    assert data["sources"]["forum"]["scrubbed"] == {"emails": 1, "ip addresses": 1}


@pytest.mark.parametrize("part_mb", [64, 0.005])
def test_repeated_ids_are_counted_or_stop_the_job(tmp_path: Path, part_mb: float) -> None:
    limits = Limits(dedup=DedupLimits(join_ids=30))
    texts = random_texts(80)
    ids = [*range(76), 7, 7, 20, "seventy"]
    (tmp_path / "raw").mkdir()
    lines = [json.dumps({"text": t, "id": i}) + "\n" for t, i in zip(texts, ids, strict=True)]
    (tmp_path / "raw/forum.jsonl").write_text("".join(lines))
    config = forum_config(tmp_path, part_mb=part_mb).model_dump(mode="json")
    config["sources"]["forum"]["reader"]["id_field"] = "id"
    prepare(validate(config, DataConfig, "test"), limits)
    forum = json.loads((tmp_path / "rows/report.json").read_text())["sources"]["forum"]
    assert forum["kept_documents"] == 80
    assert forum["repeated_ids"] == 3
    assert sorted(forum["repeated_id_examples"]) == ["20", "7"]
    shutil.rmtree(tmp_path / "work")
    stopped = {**config, "on_bad_record": "stop"}
    with pytest.raises(UserError, match=r"'forum': 3 document.* earlier one, such as '(20|7)', '"):
        prepare(validate(stopped, DataConfig, "test"), limits)


def test_literal_special_tokens_are_text(tmp_path: Path) -> None:
    texts = [f"{text} </s> <mask> <s> <pad>" for text in random_texts(80)]
    write_forum(tmp_path / "raw", texts)
    prepare(forum_config(tmp_path))
    assert sorted(decoded_documents(tmp_path) + decoded_documents(tmp_path, "heldout")) == sorted(
        texts
    )
    manifest = read_manifest(tmp_path / "rows")
    entry = manifest.source("train", "forum")
    rows = RowReader(tmp_path / "rows", manifest, "train").read("forum", np.arange(entry.rows))
    assert manifest.special_tokens.mask not in rows
    assert (rows == 0).sum() == entry.rows


def test_too_many_bad_records_stop_the_job(tmp_path: Path) -> None:
    write_forum(tmp_path / "raw", random_texts(80))
    with open(tmp_path / "raw/forum.jsonl", "a") as file:
        file.write("not json\n" * 20)
    with pytest.raises(UserError, match=r"20 of 100 records \(20.0%\)(.|\n)*not JSON"):
        prepare(forum_config(tmp_path))
    shutil.rmtree(tmp_path / "work")
    prepare(forum_config(tmp_path, max_bad_share=0.3))
    data = json.loads((tmp_path / "rows/report.json").read_text())
    assert data["sources"]["forum"]["bad"] == {"not JSON": 20}
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(UserError, match=r"forum\.jsonl: not JSON at offset \d+"):
        prepare(forum_config(tmp_path, on_bad_record="stop"))


def test_a_full_disk_is_reported_with_the_file_and_leaves_no_partial_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_forum(tmp_path / "raw", random_texts(80))
    config = forum_config(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as error:
            prepare(config)
    assert error.value.filename is not None
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    prepare(config)
    verify_shards(tmp_path / "rows", read_manifest(tmp_path / "rows"), full=True)


def test_a_long_document_and_an_empty_file_are_accepted(tmp_path: Path) -> None:
    texts = [*random_texts(80), " ".join(random_texts(400, words=200, seed=5))]
    write_forum(tmp_path / "raw", texts)
    (tmp_path / "raw/empty.jsonl").touch()
    reader = {"type": "jsonl", "files": [str(tmp_path / "raw/*.jsonl")]}
    filters = {"min_words": 5, "min_stop_words": 0, "repetition": None}
    prepare(forum_config(tmp_path, sources={"forum": {"reader": reader, "filters": filters}}))
    found = decoded_documents(tmp_path) + decoded_documents(tmp_path, "heldout")
    assert sorted(found) == sorted(texts)


def test_a_source_without_a_kept_document_is_an_error_that_names_the_filter(
    tmp_path: Path,
) -> None:
    write_forum(tmp_path / "raw", random_texts(20))
    filters = {"min_words": 5, "stop_words": ["xyz", "zyx"]}
    with pytest.raises(UserError, match=r"'forum'.* 20 of 20 .*: too few stop words \(20\)"):
        prepare(forum_config(tmp_path, filters=filters))


def test_a_source_that_loses_more_than_half_is_a_warning(tmp_path: Path, logged: list[str]) -> None:
    write_forum(tmp_path / "raw", random_texts(20) + ["too short"] * 25)
    prepare(forum_config(tmp_path))
    assert (
        "source 'forum': the filters dropped 25 of 45 documents (55.6%): too few words (25)"
        in logged
    )


@pytest.mark.parametrize("script", [range(0x4E00, 0x4E90), range(0x0E01, 0x0E2F)])
def test_copied_evaluation_texts_are_found_in_scripts_without_spaces(
    tmp_path: Path, script: range
) -> None:
    generate = random.Random(0)
    texts = ["".join(map(chr, generate.choices(script, k=400))) for _ in range(40)]
    write_forum(tmp_path / "raw", [texts[0] + texts[39][100:250], *texts[1:38]])
    (tmp_path / "evaluation.jsonl").write_text(json.dumps({"text": texts[39]}) + "\n")
    reader = {"type": "jsonl", "files": [str(tmp_path / "evaluation.jsonl")]}
    rules = {"evaluation": {"exam": reader}, "heldout": False}
    prepare(forum_config(tmp_path, decontaminate=rules, heldout_share=0.0))
    report = json.loads((tmp_path / "rows/report.json").read_text())
    assert sum(len(text) for text in decoded_documents(tmp_path)) > 0
    assert all(texts[39][100:250] not in text for text in decoded_documents(tmp_path)), report

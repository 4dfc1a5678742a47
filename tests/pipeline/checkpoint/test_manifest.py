"""The manifest: one builder and one parser, readable across versions."""

import dataclasses
import json
from pathlib import Path

import pytest

from configs.load import UserError
from data_prep.dataset.manifest import SpecialTokens
from pipeline.checkpoint.build import build_manifest
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    Checkpoint,
    CheckpointManifest,
    find_checkpoint,
    list_checkpoints,
    manifest_json,
    newest_step,
    read_manifest,
    tree_sha256,
)
from pipeline.checkpoint.tokenizer import special_tokens_of
from tests.pipeline.checkpoint.saving import HIDDEN, ORIGIN, SPECS, make_manifest, save
from tests.tokenizer_kinds import save as save_tokenizer


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    save(tmp_path, [1], tp_size=2)
    tree = json.loads((tmp_path / "step-00000001" / MANIFEST_NAME).read_text())
    assert tree["consumed_rows"] == 4
    assert [record["path"] for record in tree["files"]] == [
        "state-tp000-of-002-dp00000-of-00001.safetensors",
        "state-tp001-of-002-dp00000-of-00001.safetensors",
    ]
    table = json.loads((tmp_path / "step-00000001" / "fragments.json").read_text())
    assert table["norm"] == {"keys": ["weight"], "pieces": [[0, 0, HIDDEN]]}  # a replica
    assert [file for file, _, _ in table["down"]["pieces"]] == [0, 1]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    save(tmp_path, [1], tp_size=2)
    manifest = read_manifest(tmp_path / "step-00000001")
    assert manifest.sha256 is not None
    assert manifest_json(manifest) == (tmp_path / "step-00000001" / MANIFEST_NAME).read_text()
    files = {"format_version": 1, "files": (), "fragments": None, "sha256": None}
    assert manifest.model_copy(update=files) == make_manifest(1, 2)


def write_tree(folder: Path, tree: dict[str, object]) -> CheckpointManifest:
    """The manifest that is read where an older version has written `tree`."""
    folder.mkdir()
    tree = {key: value for key, value in tree.items() if key != "sha256"}
    text = json.dumps({**tree, "sha256": tree_sha256(tree)})
    (folder / MANIFEST_NAME).write_text(text)
    return read_manifest(folder)


def test_fields_that_older_versions_do_not_know_are_written_only_where_they_are_used() -> None:
    assert not {"dev_error", "network"} & set(json.loads(manifest_json(make_manifest(1, 1))))
    origin = dataclasses.replace(ORIGIN, network={"num_layers": 2})
    finetuned = build_manifest(
        origin, SPECS, step=1, optimizer_step=1, consumed_rows=4, dev_error=0.25
    )
    tree = json.loads(manifest_json(finetuned))
    assert tree["dev_error"] == 0.25
    assert tree["heldout_loss"] is None
    assert finetuned.selection_score == 0.25
    assert finetuned.model_config_tree == tree["network"] == {"num_layers": 2}


def test_fine_tuned_checkpoints_of_older_versions_are_read(tmp_path: Path) -> None:
    tree = json.loads(manifest_json(make_manifest(1, 1)))
    config = {"model": {"pooler": "changed"}, "network": {"num_layers": 3}}
    old = write_tree(tmp_path / "step-00000001", {**tree, "config": config, "heldout_loss": 0.5})
    assert old.selection_score == 0.5
    assert old.model_config_tree == {"num_layers": 3}
    pretrained = write_tree(tmp_path / "step-00000002", {**tree, "config": {"model": {"a": 1}}})
    assert pretrained.model_config_tree == {"a": 1}


def test_a_manifest_of_a_future_format_is_refused(tmp_path: Path) -> None:
    tree = json.loads(manifest_json(make_manifest(1, 1)))
    with pytest.raises(UserError, match="format version 3, this program reads 1 and 2"):
        write_tree(tmp_path / "step-00000001", {**tree, "format_version": 3})
    with pytest.raises(UserError, match="format version 2 and fragments do not agree"):
        write_tree(tmp_path / "step-00000002", {**tree, "format_version": 2})


def test_checkpoints_are_ordered_by_step_and_not_by_name(tmp_path: Path) -> None:
    save(tmp_path, [7, 99_999_999, 100_000_000], tp_size=1)
    (tmp_path / "step-notes").mkdir()
    names = ["step-notes", "step-00000007", "step-99999999", "step-100000000"]
    assert [path.name for path in list_checkpoints(tmp_path)] == names
    assert newest_step(tmp_path) == 100_000_000
    assert newest_step(tmp_path / "none") == 0
    newest, _ = find_checkpoint(tmp_path)
    assert newest is not None
    assert newest.manifest.step == 100_000_000
    older, problems = find_checkpoint(tmp_path, before_step=100_000_000)
    assert older is not None
    assert older.manifest.step == 99_999_999
    assert not problems


def test_a_manifest_without_special_tokens_has_those_of_its_tokenizer(tmp_path: Path) -> None:
    """Checkpoints of version 0.1.0 do not name them."""
    path = save_tokenizer("camembert", tmp_path)
    manifest = build_manifest(ORIGIN, SPECS, step=1, optimizer_step=1, consumed_rows=1)
    assert "special_tokens" not in json.loads(manifest_json(manifest))
    found = special_tokens_of(Checkpoint(tmp_path, manifest), path)
    assert (found.bos, found.eos) == (5, 6)
    named = SpecialTokens(bos=1, pad=2, eos=3, mask=4)
    origin = dataclasses.replace(ORIGIN, special_tokens=named)
    manifest = build_manifest(origin, SPECS, step=1, optimizer_step=1, consumed_rows=1)
    assert special_tokens_of(Checkpoint(tmp_path, manifest), path) == named
    assert json.loads(manifest_json(manifest))["special_tokens"]["mask"] == 4

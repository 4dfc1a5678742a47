"""The exported folder computes what was trained, and an export that does not is never published."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.load import UserError, validate
from data_prep.dataset.manifest import read_manifest as read_rows_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.tokenization.train import train_tokenizer
from model.config import ModelConfig
from model.hugging_face.bert_style import BertStyle
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    Checkpoint,
    find_checkpoint,
    manifest_json,
    read_manifest,
)
from pipeline.checkpoint.reader import TensorReader
from pipeline.export import export_run
from pipeline.fill_mask import fill
from pipeline.hugging_face.compared_rows import compared_rows, piece_ranges
from pipeline.hugging_face.folder import load_exported
from pipeline.hugging_face.publish import publish
from pipeline.pretraining import export as pretraining_export
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import RankError, run_ranks
from tests.pipeline.checkpoint.saving import drop_tokenizer
from tests.pipeline.training_run import make_config, make_rows, pretrain

SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished tiny run at tensor parallel 2 whose tokenizer is a real one."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = train_tokenizer([SENTENCE] * 60, 270)
    make_rows(folder / "rows", tokenizer=tokenizer)
    config = make_config(folder / "rows", folder / "run", parallel={"tensor": 2})
    run_ranks(pretrain, 2, config)
    return config


def newest(config: TrainConfig) -> Checkpoint:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint


def forked_export(config: TrainConfig, folder: Path) -> float:
    """`export_run` in a process of its own: a world made here would hang ranks forked later."""
    (differences,) = run_ranks(export_run, 1, config, newest(config), folder)
    return float(differences[folder])


def copied(config: TrainConfig, output: Path, **changes: Any) -> TrainConfig:
    """A copy of a run in `output`, as if the config of its checkpoint had other top-level keys."""
    shutil.copytree(config.output, output)
    copy = config.model_copy(update={"output": output})
    tree = {**copy.model_dump(mode="json"), **changes}
    for step in (output / "checkpoints").iterdir():
        manifest = read_manifest(step).model_copy(update={"config": tree})
        (step / MANIFEST_NAME).write_text(manifest_json(manifest))
    return validate(tree, TrainConfig, origin="test")


def test_logits_of_the_export_are_those_of_the_checkpoint(
    trained: TrainConfig, tmp_path: Path
) -> None:
    difference = forked_export(trained, tmp_path / "hf")
    assert difference < 1e-5
    manifest = read_rows_manifest(trained.data.path)
    tokenizer, model = load_exported(tmp_path / "hf")
    assert model.config.vocab_size == manifest.vocab_size
    reader = TensorReader(newest(trained))
    word = reader.full("weight", "encoder.embeddings.word.weight")
    assert torch.equal(model.roberta.embeddings.word_embeddings.weight, word)
    assert model.lm_head.decoder.weight.data_ptr() == (
        model.roberta.embeddings.word_embeddings.weight.data_ptr()
    )
    assert tokenizer.mask_token_id == manifest.vocab_size - 1
    assert tokenizer("the cat")["input_ids"][0] == 0
    assert tokenizer("the cat")["input_ids"][-1] == 2
    rows = RowReader(trained.data.path, manifest, "heldout").read("a", np.arange(2))
    with torch.no_grad():
        assert model(torch.from_numpy(rows.astype(np.int64))).logits.isfinite().all()


def test_masks_are_filled_with_words(trained: TrainConfig, tmp_path: Path) -> None:
    forked_export(trained, tmp_path / "hf")
    (candidates,) = fill(*load_exported(tmp_path / "hf"), "the cat sat on <mask> mat")
    assert len(candidates) == 5
    assert 0 < sum(share for _, share in candidates) <= 1.001
    with pytest.raises(UserError, match="no <mask> in it"):
        fill(*load_exported(tmp_path / "hf"), "the cat")
    with pytest.raises(UserError, match="the model takes 32"):
        fill(*load_exported(tmp_path / "hf"), "<mask> cat " * 40)


def test_an_export_that_differs_is_refused_and_the_old_one_stays(
    trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hf"
    forked_export(trained, folder)
    before = json.loads((folder / "parity.json").read_text())

    def swapped(
        self: BertStyle, state: Mapping[str, torch.Tensor], config: ModelConfig
    ) -> dict[str, torch.Tensor]:
        tensors = real(self, state, config)
        query, key = (
            f"roberta.encoder.layer.0.attention.self.{n}.weight" for n in ("query", "value")
        )
        tensors[query], tensors[key] = tensors[key], tensors[query]
        return tensors

    real = BertStyle.to_hf
    monkeypatch.setattr(BertStyle, "to_hf", swapped)
    record = folder / "parity.json"
    record.write_text(json.dumps({**before, "step": 1}))  # as if made from an older checkpoint
    with pytest.raises(RankError, match="not exported: its logits differ"):
        forked_export(trained, folder)
    assert json.loads(record.read_text()) == {**before, "step": 1}


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 8}, {"pad_token_id": 0}, {"layer_norm_eps": 0.01}],
    ids=str,
)
def test_a_wrong_config_json_is_refused(
    trained: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, float],
) -> None:
    real = publish

    def with_changes(folder: Path, **given: Any) -> float:
        return real(folder, **{**given, "config": {**given["config"], **changes}})

    monkeypatch.setattr(pretraining_export, "publish", with_changes)
    with pytest.raises(RankError, match="not exported: its logits differ"):
        forked_export(trained, tmp_path / "hf")


def test_the_command_exports_a_checkpoint_once(trained: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    checkpoint = newest(trained)
    (first,) = run_ranks(export_run, 1, trained, checkpoint, folder)
    assert list(first) == [folder]
    before = (folder / "parity.json").stat().st_mtime_ns
    assert run_ranks(export_run, 1, trained, checkpoint, folder) == [{}]
    assert (folder / "parity.json").stat().st_mtime_ns == before
    earlier = json.loads((folder / "parity.json").read_text())
    (folder / "parity.json").write_text(json.dumps({**earlier, "step": 1}))
    (again,) = run_ranks(export_run, 1, trained, checkpoint, folder)
    assert list(again) == [folder]
    assert json.loads((folder / "parity.json").read_text()) == earlier


@pytest.mark.parametrize(
    "packed_rows",
    [
        {"type": "across"},
        {"type": "inside"},
        {"type": "inside", "restart_positions": False},
    ],
    ids=["across", "inside", "positions through the row"],
)
def test_padded_and_packed_rows_are_compared_as_hugging_face_reads_them(
    trained: TrainConfig, tmp_path: Path, packed_rows: dict[str, Any]
) -> None:
    model = {**trained.model.model_dump(mode="json"), "packed_rows": packed_rows}
    assert forked_export(copied(trained, tmp_path / "run", model=model), tmp_path / "hf") < 1e-5


@pytest.mark.parametrize("max_row_tokens", [1, 3, 32])
def test_compared_rows_hold_masks_padding_and_pieces(max_row_tokens: int) -> None:
    model = ModelConfig(
        num_layers=1,
        hidden_size=8,
        num_attention_heads=1,
        ffn_hidden_size=8,
        max_row_tokens=max_row_tokens,
    )
    for num_pieces in (1, 3):
        rows = compared_rows(model, 131, 8, num_pieces)
        assert rows.shape == (8, max_row_tokens)
        assert (rows[:, 0] == model.begin_token_id).all()
        padding = (rows == model.pad_token_id).sum(axis=1)
        assert (padding[::2] == 0).all()
        ranges = [piece_ranges(row, model) for row in rows]
        assert all(len(found) <= num_pieces for found in ranges)
        if max_row_tokens == 32:
            assert (padding[1::2] > 0).all()
            assert len(ranges[0]) == num_pieces
            assert (rows == 130).any()
        for row, found in zip(rows, ranges, strict=True):
            text = [place for start, end in found for place in range(start, end)]
            assert text == np.flatnonzero(row != model.pad_token_id).tolist()


def test_a_config_that_disagrees_with_the_checkpoint_is_refused(
    trained: TrainConfig, tmp_path: Path
) -> None:
    forked_export(trained, tmp_path / "hf")  # also where the export exists already
    model = {**trained.model.model_dump(), "num_attention_heads": 8, "layer_norm_eps": 1e-3}
    tree = {**trained.model_dump(), "model": model, "seed": 8}
    wrong = validate(tree, TrainConfig, origin="test")
    with pytest.raises(UserError) as error:
        export_run(wrong, newest(trained), tmp_path / "hf")
    message = str(error.value)
    assert "model.num_attention_heads: 4 in the checkpoint, 8 in the config" in message
    assert "model.layer_norm_eps" in message
    assert "seed: 7 in the checkpoint, 8 in the config" in message


def test_what_may_change_in_a_run_may_differ(trained: TrainConfig, tmp_path: Path) -> None:
    changes = {"parallel": {"tensor": 4}, "precision": "bf16", "total_rows": 32 * 16}
    tree = {**trained.model_dump(), **changes, "output": tmp_path / "run"}
    shutil.copytree(trained.output, tmp_path / "run")
    assert forked_export(validate(tree, TrainConfig, origin="test"), tmp_path / "hf") < 1e-5


@pytest.mark.parametrize("url", [None, "file:///nothing/is/here"])
def test_an_export_needs_no_data_set(trained: TrainConfig, tmp_path: Path, url: str | None) -> None:
    data = {"path": str(tmp_path / "deleted"), "url": url}
    if url:
        data["shuffle_unit"] = "shard"
    config = copied(trained, tmp_path / "run", data=data)
    assert forked_export(config, tmp_path / "hf") < 1e-5
    assert not (tmp_path / "deleted").exists()
    exported = (tmp_path / "hf" / "tokenizer.json").read_bytes()
    assert exported == (trained.data.path / "tokenizer.json").read_bytes()


def test_a_checkpoint_without_a_tokenizer_takes_that_of_its_rows(
    trained: TrainConfig, tmp_path: Path
) -> None:
    config = copied(trained, tmp_path / "run")
    drop_tokenizer(newest(config).path)
    assert forked_export(config, tmp_path / "hf") < 1e-5
    shutil.copytree(trained.data.path, tmp_path / "rows")
    tokenizer = tmp_path / "rows" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"c"', '"C"', 1))
    data = {**trained.data.model_dump(), "path": tmp_path / "rows"}
    config = validate({**config.model_dump(), "data": data}, TrainConfig, origin="test")
    with pytest.raises(UserError, match=r"not the tokenizer that .* was made with"):
        export_run(config, newest(config), tmp_path / "other")


def export_with_umask(config: TrainConfig, folder: Path, umask: int) -> None:
    os.umask(umask)
    export_run(config, newest(config), folder)


def test_exported_files_have_the_modes_of_the_umask(trained: TrainConfig, tmp_path: Path) -> None:
    config = copied(trained, tmp_path / "run")
    for path in newest(config).path.iterdir():
        path.chmod(0o600)
    for umask, mode in ((0o022, 0o644), (0o027, 0o640)):
        folder = tmp_path / f"hf{umask}"
        run_ranks(export_with_umask, 1, config, folder, umask)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {mode}


def test_a_changed_export_is_made_again(trained: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    forked_export(trained, folder)
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "parity.json"):
        content = bytearray(good[name])
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        forked_export(trained, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == good
    (folder / "README.md").write_text("a model card")
    assert run_ranks(export_run, 1, trained, newest(trained), folder) == [{}]


def test_a_folder_without_a_masked_lm_head_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model with a masked-language-model head there; run"):
        load_exported(tmp_path)

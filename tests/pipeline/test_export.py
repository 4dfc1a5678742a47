"""The exported folder computes what was trained, and an export that does not is never published."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from configs.load import UserError
from data_prep.dataset.manifest import read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.tokenization.train import train_tokenizer
from model.config import ModelConfig
from model.hugging_face.bert_style import BertStyle
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint
from pipeline.checkpoint.reader import TensorReader
from pipeline.export import export_run
from pipeline.fill_mask import fill
from pipeline.hugging_face.folder import load_exported
from pipeline.pretraining.export import export, parity_rows
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import RankError, run_ranks
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
    """`export` in a process of its own: a world made here would hang ranks forked later."""
    difference: float
    (difference,) = run_ranks(export, 1, config, newest(config), folder)
    return difference


def test_logits_of_the_export_are_those_of_the_checkpoint(
    trained: TrainConfig, tmp_path: Path
) -> None:
    difference = forked_export(trained, tmp_path / "hf")
    assert difference < 1e-5
    manifest = read_manifest(trained.data.path)
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
    with pytest.raises(RankError, match="not exported: its logits differ"):
        forked_export(trained, folder)
    assert json.loads((folder / "parity.json").read_text()) == before


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


class TwoDocumentsInARow:
    """In place of a `RowReader`: rows of two documents, every other one with padding."""

    def read(self, source: str, row_numbers: NDArray[np.int64]) -> NDArray[np.uint16]:
        shape = (len(row_numbers), 32)
        rows = np.random.default_rng(0).integers(4, 260, size=shape, dtype=np.uint16)
        rows[:, 0], rows[:, 9], rows[:, 10], rows[:, 19] = 0, 2, 0, 2
        rows[1::2, 20:] = 1
        return rows


@pytest.mark.parametrize("packed_rows", ["across", "inside"])
def test_padded_and_packed_rows_are_compared_as_hugging_face_reads_them(
    trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed_rows: str
) -> None:
    monkeypatch.setattr(
        "pipeline.pretraining.export.row_reader", lambda *arguments: TwoDocumentsInARow()
    )
    model = {**trained.model.model_dump(), "packed_rows": {"type": packed_rows}}
    config = trained.model_copy(update={"model": ModelConfig.model_validate(model)})
    manifest = read_manifest(config.data.path)
    rows = parity_rows(config, manifest)
    is_masked, is_padding = rows == manifest.special_tokens.mask, rows == 1
    assert is_masked[:, 5].all()
    assert is_padding[1::2, 20:].all()
    assert is_padding[:, 10:20].all() == (packed_rows == "inside")
    assert is_masked[:, 12].all() == (packed_rows == "across")
    assert forked_export(config, tmp_path / "hf") < 1e-5

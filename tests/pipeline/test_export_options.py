"""Any checkpoint is exported, with a model card, a vocabulary, sentence vectors and ONNX."""

import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from configs.load import UserError
from data_prep.dataset.manifest import SpecialTokens
from data_prep.tokenization.train import train_tokenizer
from model.config import ModelConfig
from pipeline import export
from pipeline.checkpoint.best import find_best
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.checkpoint.manifest import read_manifest
from pipeline.hugging_face.card_file import LICENSE_NOTE
from pipeline.hugging_face.options import ExportOptions
from pipeline.hugging_face.sentence_encoder import SentenceEncoder, written_embeddings
from pipeline.hugging_face.text_rows import TEXTS, text_rows
from pipeline.hugging_face.vocabulary_files import vocabulary_files
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import RankError, run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain
from tests.tokenizer_kinds import save

SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run with checkpoints of the steps 5, 10, 15 and 20, whose data are gone."""
    folder = tmp_path_factory.mktemp("trained")
    make_rows(folder / "rows", tokenizer=train_tokenizer([SENTENCE] * 60, 270))
    model = make_config(folder, folder).model.model_dump(mode="json")
    config = make_config(
        folder / "rows",
        folder / "run",
        model={**model, "pooler": {"type": "mean"}, "packed_rows": {"type": "inside"}},
        evaluation={"every_steps": 5, "rows_per_source": 12},
        checkpoint={"every_steps": 5, "keep_last": 9},
        export="hugging_face",
    )
    run_ranks(pretrain, 1, config)
    (folder / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    shutil.rmtree(folder / "rows")
    return config


def command(config: TrainConfig, *words: str) -> None:
    """The command line, in a process of its own."""
    argv = ["export", str(config.output.parent / "run.yaml"), *words]
    with mock.patch.object(sys, "argv", argv):
        run_ranks(export.main, 1)


def test_the_checkpoint_is_chosen(trained: TrainConfig, tmp_path: Path) -> None:
    folder = checkpoints_folder(trained)
    best = find_best(folder)
    assert best is not None
    assert choose_checkpoint(folder).manifest.step == 20
    assert choose_checkpoint(folder, step=10).manifest.step == 10
    assert choose_checkpoint(folder, best=True) == best
    with pytest.raises(UserError) as error:
        choose_checkpoint(folder, step=7)
    assert "no checkpoint of step 7; there are those of steps" in str(error.value)
    assert "10 (" in str(error.value)
    with pytest.raises(UserError, match="no complete checkpoint; train first"):
        choose_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no checkpoint with a held-out loss"):
        choose_checkpoint(tmp_path, best=True)
    (tmp_path / "step-00000003").mkdir()
    with pytest.raises(UserError, match=r"step 4; there is no complete one"):
        choose_checkpoint(tmp_path, step=4)


def test_a_folder_of_any_step_with_all_files(trained: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    command(trained, "--step", "10", "--output", str(folder), "--onnx")
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["step"] == 10
    assert parity["largest_logit_difference"] < 1e-5
    assert parity["other_differences"].keys() == {"embedding", "ONNX logit"}
    assert max(parity["other_differences"].values()) < 1e-5
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written - {"README.md", "parity.json"} == set(parity["files"])
    assert {"vocab.json", "merges.txt", "modules.json", "1_Pooling/config.json"} < written
    check_vocabulary(folder)
    check_card(folder / "README.md", trained)
    check_embeddings(folder)
    check_onnx(folder)
    before = (folder / "parity.json").stat().st_mtime_ns
    command(trained, "--step", "10", "--output", str(folder))  # has more than is asked for
    assert (folder / "parity.json").stat().st_mtime_ns == before
    command(trained, "--step", "10", "--output", str(folder), "--force")
    assert (folder / "parity.json").stat().st_mtime_ns > before
    assert not (folder / "README.edited.md").exists()


def check_vocabulary(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE.from_file(f"{folder}/vocab.json", f"{folder}/merges.txt"))
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab() == whole.get_vocab()
    tokenizer.pre_tokenizer = whole.pre_tokenizer
    ids = tokenizer.encode("the cat", add_special_tokens=False).ids
    assert ids == whole.encode("the cat", add_special_tokens=False).ids


def check_card(path: Path, config: TrainConfig) -> None:
    card = ModelCard(path.read_text())
    assert card.data.get("library_name") == "transformers"
    assert card.data.get("pipeline_tag") == "fill-mask"
    assert "sentence-transformers" in card.data.get("tags")
    assert card.data.get("license") is None
    text = path.read_text()
    manifest = read_manifest(checkpoints_folder(config) / "step-00000010")
    for wanted in (
        *("| heldout_train/a", "RobertaForMaskedLM", "| optimizer.type | adamw |"),
        *(f"fingerprint `{manifest.data_fingerprint}`", manifest.tokenizer_sha256),
        *(f"`{manifest.sha256}`", "| run | test |", "| step | 10 |", "heldout loss"),
        "| weights before training | random |",
    ):
        assert wanted.replace("heldout_train/a", "heldout/a") in text, wanted
    assert "\n| 5 | " in text
    assert "\n| 10 | " in text
    assert "\n| 15 | " not in text  # after the step
    assert str(config.output.parent) not in text


def check_embeddings(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval().base_model
    inputs = tokenizer(["the cat", "the dog ate the hat"], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    found = written_embeddings(folder, hidden, inputs["attention_mask"])
    first = int(inputs["attention_mask"][0].sum())
    torch.testing.assert_close(found[0], hidden[0, :first].mean(dim=0))


def check_onnx(folder: Path) -> None:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert session.get_inputs()[0].shape == ["batch", "sequence"]
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokens = torch.randint(4, 200, (5, 11), generator=torch.Generator().manual_seed(0))
    fed = {"input_ids": tokens.numpy(), "attention_mask": np.ones((5, 11), dtype=np.int64)}
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(torch.from_numpy(session.run(None, fed)[0]), expected)


def test_what_is_not_an_export_stays(trained: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with mock.patch.object(sys, "argv", ["export", f"{trained.output.parent}/run.yaml"]):
        sys.argv += ["--output", str(tmp_path)]
        with pytest.raises(UserError, match="holds files that are not an export"):
            export.main()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named(trained: TrainConfig, tmp_path: Path) -> None:
    """Also where the export would only be renamed into it. Nothing is left behind."""
    real = os.access

    def access(path: Path, mode: int) -> bool:
        return Path(path) != tmp_path and real(path, mode)

    for folder in (tmp_path, tmp_path / "new" / "hf", tmp_path / "hf"):
        argv = ["export", f"{trained.output.parent}/run.yaml", "--output", str(folder)]
        with (
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(os, "access", access),
            pytest.raises(UserError, match=f"^--output .*: {tmp_path} cannot be written: check"),
        ):
            export.main()
    assert not any(tmp_path.iterdir())


def test_no_file_of_a_user_is_lost(trained: TrainConfig, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "precious").write_text("mine")
    # The path leads to a folder only once "missing" exists.
    with pytest.raises(RankError, match="holds files that are not an export"):
        command(trained, "--output", str(home / "missing" / ".."))
    (tmp_path / "link").symlink_to(home / "linked")
    folder = home / "linked"
    command(trained, "--step", "5", "--output", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    (folder / "notes.md").write_text("my notes")
    command(trained, "--step", "10", "--output", str(tmp_path / "link"))
    assert json.loads((folder / "parity.json").read_text())["step"] == 10
    assert (folder / "notes.md").read_text() == "my notes"
    (folder / "scores.csv").write_text("mine")
    with pytest.raises(RankError, match=r"besides an export it holds scores.csv, which would be"):
        command(trained, "--output", str(folder))
    # As at the end of a training, which continues without a question.
    checkpoint = choose_checkpoint(checkpoints_folder(trained), 5)
    assert run_ranks(export.export_run, 1, trained, checkpoint, folder)[0][folder] < 1e-5
    assert json.loads((folder / "parity.json").read_text())["step"] == 5
    assert {path.name for path in folder.parent.iterdir()} == {
        *("precious", "linked", "linked-before-1")
    }
    assert (home / "linked-before-1" / "scores.csv").read_text() == "mine"


def test_an_edited_card_is_kept(trained: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    command(trained, "--output", str(folder), "--step", "5", "--sentence-transformers", "none")
    assert not (folder / "modules.json").exists()
    card = (folder / "README.md").read_text()
    edited = card.replace(LICENSE_NOTE, "license: apache-2.0")
    (folder / "README.md").write_text(edited)
    command(trained, "--output", str(folder), "--best", "--sentence-transformers", "first")
    assert (folder / "README.edited.md").read_text() == edited
    assert LICENSE_NOTE in (folder / "README.md").read_text()
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_cls_token"]


def test_missing_onnx_packages_are_named() -> None:
    with mock.patch("importlib.util.find_spec", return_value=None):
        ExportOptions().check_packages()
        with pytest.raises(UserError, match="onnxruntime: pip install onnx onnxscript"):
            ExportOptions(onnx=True).check_packages()


def test_vocabulary_files_of_every_kind(tmp_path: Path) -> None:
    found = {}
    for kind in ("wordpiece", "xlm_roberta", "modernbert", "llama", "word_level"):
        found[kind] = vocabulary_files(save(kind, tmp_path / kind))
    names = {kind: sorted(files) for kind, files in found.items()}
    bpe = ["merges.txt", "vocab.json"]
    assert names == {
        "wordpiece": ["vocab.txt"],
        "xlm_roberta": [],
        "modernbert": bpe,
        "llama": bpe,
        "word_level": [],
    }
    tokenizer = Tokenizer.from_file(str(tmp_path / "wordpiece" / "tokenizer.json"))
    lines = found["wordpiece"]["vocab.txt"].splitlines()
    assert {token: number for number, token in enumerate(lines)} == tokenizer.get_vocab()
    ids = json.loads(found["modernbert"]["vocab.json"])
    whole = Tokenizer.from_file(str(tmp_path / "modernbert" / "tokenizer.json"))
    assert ids == whole.get_vocab(with_added_tokens=True)


def test_a_vocabulary_that_text_files_cannot_hold(tmp_path: Path) -> None:
    spaces = models.BPE(vocab={"a": 0, " ": 1, "a ": 2}, merges=[("a", " ")])
    lines = models.WordPiece(vocab={"[UNK]": 0, "a\nb": 1}, unk_token="[UNK]")
    holes = models.WordPiece(vocab={"[UNK]": 0, "a": 2}, unk_token="[UNK]")
    for number, model in enumerate((spaces, lines, holes)):
        path = tmp_path / f"{number}.json"
        Tokenizer(model).save(str(path))
        assert vocabulary_files(path) == {}


def test_rows_of_texts_fit_the_model(tmp_path: Path) -> None:
    tokenizer = save("wordpiece", tmp_path)
    ids = Tokenizer.from_file(str(tokenizer)).get_vocab()
    names = {"bos": "[CLS]", "pad": "[PAD]", "eos": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
    special = SpecialTokens(**{role: ids[name] for role, name in names.items()})
    sizes = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1}
    for longest in (1, 3, 32, 512):
        model = ModelConfig(**sizes, max_row_tokens=longest, pad_token_id=special.pad)
        for num_pieces in (1, 3):
            rows = text_rows(tokenizer, special, model, num_pieces)
            assert rows.shape[1] <= longest
            assert (rows[:, 0] == special.bos).all()
        assert len(text_rows(tokenizer, special, model)) == len(TEXTS)
        if longest == 512:
            assert (rows == special.mask).any()
            assert (rows[0] == special.bos).sum() == 3


@pytest.mark.parametrize("kind", ["first", "mean"])
def test_a_dense_layer_follows_the_pooling(kind: str, tmp_path: Path) -> None:
    weight, bias = torch.randn(4, 4), torch.randn(4)
    encoder = SentenceEncoder("first" if kind == "first" else "mean", 4, 16, (weight, bias))
    save_file({"a": bias}, tmp_path / "model.safetensors")
    encoder.write(tmp_path)
    hidden = torch.randn(2, 3, 4)
    is_text = torch.tensor([[1, 1, 0], [1, 1, 1]])
    mean = torch.stack([hidden[0, :2].mean(dim=0), hidden[1].mean(dim=0)])
    pooled = hidden[:, 0] if kind == "first" else mean
    expected = torch.tanh(pooled @ weight.T + bias)
    torch.testing.assert_close(written_embeddings(tmp_path, hidden, is_text), expected)

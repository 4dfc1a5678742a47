"""An encoder-decoder that starts from an exported encoder: its weights, its training, refusals."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers

from configs.load import UserError
from data_prep.tokenization.tokenizer import roberta_places
from data_prep.tokenization.train import train_tokenizer
from pipeline import encoder_decoder
from pipeline.generation.training import Recipe, evaluate, read_pairs, train
from pipeline.generation.warm_start import warm_start
from pipeline.hugging_face.folder import ExportedTokenizer

SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"
PAIRS = [("the cat", "cat the"), ("a dog", "dog a"), ("red hat", "hat red"), ("the rat", "rat the")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa with random weights and a real tokenizer."""
    path = tmp_path_factory.mktemp("hf")
    (path / "trained.json").write_text(train_tokenizer([SENTENCE] * 60, 270).to_str())
    ExportedTokenizer(path / "trained.json", roberta_places(270), 32, False).write(path)
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=270,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=34,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.RobertaForMaskedLM(config).save_pretrained(path)
    return path


def test_both_halves_have_the_weights_of_the_encoder(folder: Path) -> None:
    trained = transformers.AutoModel.from_pretrained(folder).state_dict()
    name = "encoder.layer.1.attention.self.query.weight"
    _, model = warm_start(folder, folder, is_random=False, seed=0)
    _, random = warm_start(folder, folder, is_random=True, seed=0)
    for half in (model.encoder, model.decoder.roberta):
        assert torch.equal(half.state_dict()[name], trained[name])
    assert not torch.equal(random.encoder.state_dict()[name], trained[name])
    cross = "decoder.roberta.encoder.layer.1.crossattention.self.query.weight"
    _, again = warm_start(folder, folder, is_random=False, seed=0)
    assert torch.equal(model.state_dict()[cross], again.state_dict()[cross])


def test_pairs_are_learnt_and_generated(folder: Path) -> None:
    tokenizer, model = warm_start(folder, folder, is_random=False, seed=0)
    recipe = Recipe(steps=120, batch_pairs=4, learning_rate=5e-3, max_tokens=16)
    before, _ = evaluate(tokenizer, model, PAIRS, recipe)
    losses = train(tokenizer, model, PAIRS, recipe)
    after, texts = evaluate(tokenizer, model, PAIRS, recipe)
    assert losses[0] == pytest.approx(before["loss"], rel=0.05)
    assert after["loss"] < 0.2 * before["loss"]
    assert after["exact"] == 1.0, texts


def test_the_command_writes_a_folder_that_transformers_loads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"source": source, "target": target} for source, target in PAIRS]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [str(folder), str(pairs), "--dev", str(pairs), "--steps", "2", "--output"]
    monkeypatch.setattr(sys, "argv", ["encoder_decoder", *words, str(tmp_path / "new")])
    encoder_decoder.main()
    model = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "new")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert model.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=3).numel()
    assert json.loads((tmp_path / "new" / "dev.json").read_text())["loss"] > 0
    with pytest.raises(UserError, match="exists already"):
        encoder_decoder.main()


def test_wrong_folders_and_lines_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "modernbert"}')
    with pytest.raises(UserError, match="a modernbert model cannot be a decoder"):
        warm_start(folder, tmp_path, is_random=False, seed=0)
    with pytest.raises(UserError, match=r"no config\.json"):
        warm_start(folder, tmp_path / "none", is_random=False, seed=0)
    (tmp_path / "pairs").write_text('{"source": "a", "target": "b"}\n{"source": "a"}\nx\n')
    with pytest.raises(UserError, match=r"2 error\(s\)\n  line 2: .*\n  line 3: "):
        read_pairs(tmp_path / "pairs")


def test_a_line_separator_in_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs"
    path.write_text('{"source": "a\u2028b", "target": "c"}\r\n{"source": "d", "target": "e"}\n')
    assert read_pairs(path) == [("a\u2028b", "c"), ("d", "e")]

"""Hugging Face folders are imported at any TP size; real weights give Hugging Face's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from configs import folder_lock
from configs.load import UserError, load
from model.parallel.grid import make_grid
from pipeline import import_hf
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.hugging_face.vocabulary import read_vocabulary
from pipeline.hugging_face.weights import build_from_hf, read_hf_folder
from pipeline.import_hf import check_same_model, model_tree, start_run, write_config
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import RankError, in_one_rank, run_ranks
from tests.pipeline.hugging_face.folders import (
    MODEL,
    SAME_SIZES,
    change_config,
    tiny_folder,
    tiny_tokenizer,
)
from tests.pipeline.training_run import VOCAB_SIZE, make_config, make_rows, metrics, pretrain
from tests.pretrained import weights_folder

OTHER_HEADS = ("cls.species.", "cls.chain.", "cls.graft.")  # of antiberty


def logits_and_hidden(folder: Path, tokens: torch.Tensor, tp_size: int) -> Any:
    model = build_from_hf(read_hf_folder(folder, OTHER_HEADS), make_grid(tp_size)).eval()
    with torch.no_grad():
        return model.logits(tokens), model.hidden_states(tokens)


@pytest.mark.packages
@pytest.mark.parametrize("name", ["rxnfp", "antiberty"])
def test_real_bert_weights_give_hugging_faces_logits(name: str) -> None:
    folder = weights_folder(name)
    theirs = reference(folder, transformers.BertForMaskedLM)
    vocab_size = theirs.config.vocab_size
    tokens = torch.randint(1, vocab_size, (2, 48), generator=torch.Generator().manual_seed(0))
    tokens[1, -9:] = 0
    is_text = tokens != 0
    with torch.no_grad():
        outputs = theirs(tokens, attention_mask=is_text.long(), output_hidden_states=True)
    scale = float(outputs.logits.abs().max())
    for tp_size in (1, 2, 4):
        for logits, hidden in run_ranks(logits_and_hidden, tp_size, folder, tokens, tp_size):
            assert logits.shape[-1] == vocab_size
            error = (logits - outputs.logits)[is_text].abs().max()
            assert float(error) <= 1e-5 * max(scale, 1.0), f"{name} TP {tp_size}"
            expected = outputs.hidden_states[-1][is_text]
            torch.testing.assert_close(hidden[is_text], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.packages
def test_real_sentence_encoder_gives_hugging_faces_hidden_states() -> None:
    folder = weights_folder("minilm")
    theirs = reference(folder, transformers.BertModel)
    tokens = torch.randint(1000, 30000, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(tokens).last_hidden_state
    for tp_size in (1, 2, 4):
        for _, hidden in run_ranks(logits_and_hidden, tp_size, folder, tokens, tp_size):
            torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.packages
@pytest.mark.parametrize("name", ["rxnfp", "antiberty"])
def test_real_weights_return_to_the_bit(name: str) -> None:
    folder = weights_folder(name)
    hf = read_hf_folder(folder, OTHER_HEADS)
    state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    back = hf.family.to_hf(hf.state, hf.config)
    for key, tensor in back.items():
        assert torch.equal(tensor, state[key]), key
    left = {key for key in state.keys() - back.keys() if "decoder" not in key}
    left = {key for key in left if not key.startswith(OTHER_HEADS)}
    assert all("pooler" in k or "seq_relationship" in k or "position_ids" in k for k in left), left


def reference(folder: Path, architecture: Any) -> Any:
    config = transformers.BertConfig(**json.loads((folder / "config.json").read_text()))
    config._attn_implementation = "eager"
    return architecture.from_pretrained(folder, config=config).eval()


def test_a_folder_that_transformers_wrote_is_imported(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    theirs = transformers.RobertaForMaskedLM.from_pretrained(folder).eval()
    tokens = torch.randint(4, 98, (2, 38), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(tokens).logits
    for logits, _ in run_ranks(logits_and_hidden, 2, folder, tokens, 2):
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_imported_is_named(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    with pytest.raises(UserError, match=r"no config\.json"):
        read_hf_folder(tmp_path / "nothing")
    change_config(folder, hidden_act="relu", is_decoder=True)
    with pytest.raises(UserError) as error:
        read_hf_folder(folder)
    assert "hidden_act 'relu' is not supported" in str(error.value)
    assert "is_decoder True is not supported" in str(error.value)
    change_config(folder, hidden_act="gelu", is_decoder=False, model_type="gpt2")
    with pytest.raises(UserError, match="model_type 'gpt2' cannot be imported"):
        read_hf_folder(folder)
    change_config(folder, model_type="roberta", intermediate_size=65)
    with pytest.raises(UserError, match=r"intermediate\.dense\.weight: shape \[64, 32\], expected"):
        read_hf_folder(folder)


def test_missing_and_superfluous_tensors_are_named(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["roberta.embeddings.LayerNorm.bias"]
    weights["roberta.encoder.layer.9.output.dense.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        read_hf_folder(folder)
    assert "2 tensor(s)" in str(error.value)
    assert "roberta.embeddings.LayerNorm.bias: missing (expected [32])" in str(error.value)
    assert "roberta.encoder.layer.9.output.dense.bias: superfluous" in str(error.value)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights: expected model\.safetensors"):
        read_hf_folder(folder)


@in_one_rank
def write_step_0(config: TrainConfig, folder: Path) -> None:
    plan = plan_run(config, config.parallel.tensor)
    start_run(plan, read_hf_folder(folder), read_vocabulary(folder), make_grid(1))


def test_a_run_starts_from_imported_weights_at_any_grid(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(VOCAB_SIZE)
    tiny_folder(tmp_path / "hf", tokenizer, **SAME_SIZES, initializer_range=1.0)
    make_rows(tmp_path / "data", tokenizer=tokenizer)
    losses = []
    for tp_size in (1, 2):
        config = make_config(
            tmp_path / "data",
            tmp_path / f"run{tp_size}",
            model=MODEL,
            total_rows=48,
            schedule={"type": "linear", "warmup_rows": 16},
            parallel={"tensor": tp_size, "zero_stage": 1},
        )
        write_step_0(config, tmp_path / "hf")
        run_ranks(pretrain, tp_size, config)
        losses.append(metrics(config, "loss"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][0] > 8  # such large weights predict badly; a random start has log(131) = 4.9


def test_a_model_that_differs_from_the_config_is_an_error(tmp_path: Path) -> None:
    make_rows(tmp_path / "data")
    config = make_config(tmp_path / "data", tmp_path / "run")
    hf = read_hf_folder(tiny_folder(tmp_path / "hf", tiny_tokenizer(99)))
    with pytest.raises(UserError) as error:
        check_same_model(plan_run(config, 1), hf, read_vocabulary(tmp_path / "hf"))
    message = str(error.value)
    assert "model.ffn_hidden_size is 128, the folder's is 64" in message
    assert "vocabulary has 131 ids, the folder's 99" in message


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer(VOCAB_SIZE)
    make_rows(tmp_path / "data", tokenizer=tokenizer)
    config = make_config(tmp_path / "data", tmp_path / "run", model=MODEL)
    folder = tiny_folder(tmp_path / "hf", tokenizer, **SAME_SIZES)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    monkeypatch.setattr("sys.argv", ["import_hf", f"{tmp_path}/run.yaml", "--from", str(folder)])
    lock = folder_lock.hold(config.output)
    with pytest.raises(UserError, match="is in use by"):
        import_hf.main()
    lock.release()
    assert not checkpoints_folder(config).exists()


def test_a_run_of_several_phases_starts_from_imported_weights(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(VOCAB_SIZE)
    make_rows(tmp_path / "data", tokenizer=tokenizer)
    make_rows(tmp_path / "later", seed=1, tokenizer=tokenizer)
    tiny_folder(tmp_path / "hf", tokenizer, **SAME_SIZES)
    phase = {
        "data": {"path": str(tmp_path / "later"), "workers": 0},
        "total_rows": 16,
        "batch": {"global_rows": 16, "micro_rows": 4},
        "schedule": {"type": "constant"},
    }
    run = make_config(tmp_path / "data", tmp_path / "run", model=MODEL, total_rows=64, then=[phase])
    write_step_0(run, tmp_path / "hf")
    checkpoint, _ = find_checkpoint(checkpoints_folder(run))
    assert checkpoint is not None
    assert checkpoint.manifest.tokenizer is not None
    with pytest.raises(RankError, match="the run has checkpoints already"):
        write_step_0(run, tmp_path / "hf")
    run_ranks(pretrain, 1, run)
    assert len(metrics(run, "loss")) == 5


def test_the_config_that_a_folder_needs_is_written(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(VOCAB_SIZE)
    make_rows(tmp_path / "data", tokenizer=tokenizer)
    hf = read_hf_folder(tiny_folder(tmp_path / "hf", tokenizer, **SAME_SIZES))
    base = make_config(tmp_path / "data", tmp_path / "run").model_dump(mode="json")
    given = {**base["model"], "attention_dropout": 0.0, "positions": {"type": "rotary"}}
    write_config({**base, "model": model_tree(given, hf)}, tmp_path / "new.yaml")
    config = load(tmp_path / "new.yaml", TrainConfig)
    assert config.model.attention_dropout == 0.0
    check_same_model(plan_run(config, 1), hf, read_vocabulary(tmp_path / "hf"))
    assert model_tree(None, hf)["hidden_size"] == 32
    with pytest.raises(UserError, match="exists already"):
        write_config({**base, "model": model_tree(None, hf)}, tmp_path / "new.yaml")


def test_a_run_on_rows_behind_a_url_starts_from_imported_weights(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(VOCAB_SIZE)
    make_rows(tmp_path / "store", tokenizer=tokenizer)
    tiny_folder(tmp_path / "hf", tokenizer, **SAME_SIZES)
    data = {
        "path": str(tmp_path / "cache"),
        "url": f"file://{tmp_path / 'store'}",
        "shuffle_unit": "shard",
        "workers": 0,
    }
    config = make_config(tmp_path / "cache", tmp_path / "run", model=MODEL, data=data)
    write_step_0(config, tmp_path / "hf")
    assert not list((tmp_path / "cache").rglob("*.tar"))

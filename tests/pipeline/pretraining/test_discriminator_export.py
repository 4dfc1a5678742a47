"""Discriminators are exported as ELECTRA's class, and other runs continue them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import ConfigError, UserError
from data_prep.tokenization.train import train_tokenizer
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint, tensor_key
from pipeline.export import export_run
from pipeline.hugging_face.folder import load_auto_model
from pipeline.hugging_face.options import ExportOptions
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import checkpoints_folder
from pipeline.run.train_config import complete_config
from tests.gloo import run_ranks
from tests.pipeline.start.continuing import child_tree, run_tree, state_at
from tests.pipeline.training_run import ROW_TOKENS, final_state, make_config, make_rows, pretrain

SENTENCE = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"
MODEL = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": ROW_TOKENS}
INSIDE = {"packed_rows": {"type": "inside", "restart_positions": False}}
SMALL = {"type": "small", "width": 0.5}
WORD = "encoder.embeddings.word.weight"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, tokenizer=train_tokenizer([SENTENCE] * 60, 270))
    return folder


def trained(rows: Path, output: Path, generator: dict[str, Any], **model: Any) -> TrainConfig:
    """A finished run of three steps that may be exported."""
    config = make_config(
        rows,
        output,
        model={**MODEL, **model},
        objective={"type": "replaced_tokens", "generator": generator},
        total_rows=48,
        schedule={"type": "constant"},
        optimizer={"type": "adamw", "lr": 0.01},
        export="hugging_face",
    )
    run_ranks(pretrain, 1, config)
    return config


def newest(config: TrainConfig) -> Checkpoint:
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None, problems
    return checkpoint


@pytest.mark.parametrize(
    ("generator", "model"),
    [
        ({"type": "shared"}, INSIDE),
        ({**SMALL, "embeddings": "disentangled"}, {"embedding_size": 16, "type_vocab_size": 0}),
    ],
)
def test_the_discriminator_is_exported_as_electra(
    generator: dict[str, Any], model: dict[str, Any], rows: Path, tmp_path: Path
) -> None:
    config = trained(rows, tmp_path / "run", generator, **model)
    folder = tmp_path / "hf"
    (differences,) = run_ranks(export_run, 1, config, newest(config), folder)
    assert differences[folder] < 1e-5
    exported = load_auto_model(folder, "AutoModelForPreTraining")
    assert type(exported).__name__ == "ElectraForPreTraining"
    assert json.loads((folder / "config.json").read_text())["architectures"] == [
        "ElectraForPreTraining"
    ]
    if "embeddings" in generator:
        assert torch.equal(exported.electra.embeddings.word_embeddings.weight, word_vectors(config))
    with pytest.raises(UserError, match="--onnx and --sentence-transformers are not written"):
        export_run(config, newest(config), tmp_path / "more", ExportOptions(pooling="mean"))


def word_vectors(config: TrainConfig) -> torch.Tensor:
    """The discriminator's word vectors, which its run stores as a sum."""
    state = final_state(config)
    delta = state[tensor_key("weight", "encoder.embeddings.word.delta.weight")]
    assert (delta != 0).any()
    return state[tensor_key("weight", "generator.encoder.embeddings.word.weight")] + delta


def test_a_run_with_masks_continues_the_discriminator(rows: Path, tmp_path: Path) -> None:
    generator = {**SMALL, "embeddings": "disentangled"}
    config = trained(rows, tmp_path / "run", generator)
    start = {"type": "run", "path": str(config.output), "step": "newest"}
    tree = child_tree(rows, tmp_path / "child", start, parallel={"tensor": 2})
    run_ranks(run_tree, 2, tree)
    first = state_at(complete_config(tree, "test"), 0, "weight")
    before = final_state(config)
    assert torch.equal(first[f"weight/{WORD}"], word_vectors(config))
    layer = "encoder.layers.1.attention.qkv.weight"
    assert torch.equal(first[f"weight/{layer}"], before[tensor_key("weight", layer)])
    assert "weight/head.dense.weight" in first


def test_a_model_that_electra_does_not_compute_is_refused_before_the_training(
    rows: Path, tmp_path: Path
) -> None:
    config = make_config(
        rows,
        tmp_path / "run",
        model={**MODEL, "norm_placement": {"type": "pre"}},
        objective={"type": "replaced_tokens"},
        export="hugging_face",
    )
    with pytest.raises(ConfigError, match=r"ElectraForPreTraining, which needs .*norm_placement"):
        plan_run(config, 1)

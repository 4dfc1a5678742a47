"""Training a network of EuroBERT's kind: the same at any grid, exported to its class."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.export import export_run
from pipeline.optim.optimizer import MOMENTUM_KEY
from pipeline.run.memory import MemoryEstimate, estimate_memory
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import checkpoints_folder
from tests.gloo import run_ranks
from tests.pipeline.hugging_face.folders import tiny_tokenizer
from tests.pipeline.training_run import (
    VOCAB_SIZE,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

MODEL: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "ffn_hidden_size": 48,
    "max_row_tokens": 32,
    "norm_placement": {"type": "pre"},
    "norm": {"type": "rms_norm"},
    "embedding_norm": False,
    "bias": {"attention": False, "mlp": False, "decoder": False},
    "activation": {"type": "swiglu"},
    "positions": {"type": "rotary", "base": 250_000.0},
    "type_vocab_size": 0,
    "head_layers": False,
    "tied_decoder": False,
}
MUON: dict[str, Any] = {"type": "muon", "lr": 2e-3, "adamw_lr": 1e-3}
LAMB: dict[str, Any] = {"type": "lamb", "lr": 1e-2}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, tokenizer=tiny_tokenizer(VOCAB_SIZE))
    return folder


@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(MUON, id="muon"), pytest.param(LAMB, id="lamb", marks=pytest.mark.slow)],
)
def test_the_grid_does_not_change_the_steps(
    rows: Path, tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    model = {**MODEL, "query_key_norm": True}
    settings: dict[str, Any] = {
        "model": model,
        "export": "none",
        "optimizer": optimizer,
        "total_rows": 8 * 16,
    }
    one = make_config(rows, tmp_path / "one", **settings)
    run_ranks(pretrain, 1, one)
    assert metrics(one, "loss")[-1] < metrics(one, "loss")[0]
    other = make_config(
        rows,
        tmp_path / "other",
        parallel={"tensor": 2, "zero_stage": 3},
        compute={"sequence_parallel": True, "activation_checkpointing": {"type": "layers"}},
        **settings,
    )
    run_ranks(pretrain, 4, other)
    assert metrics(other, "loss") == pytest.approx(metrics(one, "loss"), rel=1e-5)
    assert metrics(other, "gradient_norm") == pytest.approx(metrics(one, "gradient_norm"), rel=1e-4)
    expected, found = final_state(one), final_state(other)
    assert expected.keys() == found.keys()
    matrices = {name for name in expected if name.startswith(MOMENTUM_KEY)}
    assert len(matrices) == (2 * 4 if optimizer is MUON else 0)  # not the decoder
    for name, tensor in expected.items():
        if name.startswith("weight"):
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_it_is_exported_to_its_class(rows: Path, tmp_path: Path) -> None:
    config = make_config(
        rows,
        tmp_path / "run",
        model=MODEL,
        export="hugging_face",
        total_rows=4 * 16,
        parallel={"tensor": 2},
    )
    run_ranks(pretrain, 2, config)
    checkpoint, _ = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    [differences] = run_ranks(export_run, 1, config, checkpoint, tmp_path / "hf")
    assert max(differences.values()) < 1e-5
    model, loading = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert type(model).__name__ == "EuroBertForMaskedLM"
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.mask_token_id == VOCAB_SIZE - 1
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_the_planner_counts_fewer_keys_and_values(rows: Path, tmp_path: Path) -> None:
    grouped = {**MODEL, "attention_dropout": 0.0}
    flex: dict[str, Any] = {"compute": {"attention_backend": "flex"}, "export": "none"}

    def memory(model: dict[str, Any]) -> MemoryEstimate:
        return estimate_memory(
            plan_run(make_config(rows, tmp_path / "planned", model=model, **flex), 1)
        )

    many = memory({**grouped, "num_key_value_heads": None})
    normed, few = memory({**grouped, "query_key_norm": True}), memory(grouped)
    one = 4 * 32 * 32 * 4  # micro-batch x row x hidden size in fp32
    assert many.activations - few.activations == 2 * (4 / 2) * one / 2
    assert normed.activations - few.activations == 2 * (2 + 2 / 2) * one / 2
    fewer = 2 * 2 * 32 * 16  # of a layer: 16 of 32 rows of the keys' and of the values' matrix
    assert many.weights - few.weights == 4 * fewer
    assert many.optimizer - few.optimizer == 12 * fewer

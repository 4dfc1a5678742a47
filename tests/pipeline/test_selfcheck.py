"""The self-check finds a correct grid equal, and names the parameters of a wrong one."""

from pathlib import Path

import pytest

from configs.load import validate
from model.compute import ComputeConfig
from model.layers import ReplicatedGradient
from pipeline.run.config import TrainConfig
from pipeline.selfcheck import VOCAB_SIZE_WITHOUT_DATA, compare_with_one_rank, vocab_size_of
from tests.pipeline.training_run import make_config, make_rows

VOCAB_SIZE = 131


@pytest.mark.parametrize(
    ("tp_size", "zero_stage"),
    [
        (2, 1),
        (2, 2),
        (2, 3),
        (4, 1),
        pytest.param(4, 2, marks=pytest.mark.slow),
        pytest.param(4, 3, marks=pytest.mark.slow),
    ],
)
def test_a_correct_grid_is_equal(tmp_path: Path, tp_size: int, zero_stage: int) -> None:
    parallel = {"tensor": tp_size, "zero_stage": zero_stage}
    config = make_config(tmp_path, tmp_path / "run", parallel=parallel)
    assert compare_with_one_rank(config, VOCAB_SIZE, num_steps=20) == []


def test_four_ranks_with_options_are_equal(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "run", parallel={"tensor": 4, "zero_stage": 1})
    options = {
        "packed_rows": {"type": "inside"},
        "activation": {"type": "swiglu"},
        "positions": {"type": "rotary"},
        "query_key_norm": True,
        "tied_decoder": False,
    }
    compute = ComputeConfig(
        sequence_parallel=True,
        activation_checkpointing={"type": "layers"},
    )
    model = type(config.model).model_validate({**config.model.model_dump(), **options})
    config = config.model_copy(update={"model": model, "compute": compute})
    assert compare_with_one_rank(config, VOCAB_SIZE, num_steps=5) == []


def test_a_missing_all_reduce_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReplicatedGradient, "shared", lambda self, parameter: parameter)
    config = make_config(tmp_path, tmp_path / "run", parallel={"tensor": 2, "zero_stage": 1})
    compute = ComputeConfig(sequence_parallel=True)
    problems = compare_with_one_rank(
        config.model_copy(update={"compute": compute}), VOCAB_SIZE, num_steps=2
    )
    assert "encoder.layers.0.mlp_norm.weight differs between tensor-parallel ranks" in problems
    assert any(
        line.startswith("gradients: encoder.embeddings.position.weight") for line in problems
    )
    assert any(line.startswith("norms: step 1") for line in problems)
    assert not any("head." in line and line.startswith("gradients") for line in problems)


def test_the_vocabulary_is_that_of_rows_behind_a_url(tmp_path: Path) -> None:
    make_rows(tmp_path / "store", vocab_size=VOCAB_SIZE)
    config = make_config(tmp_path / "cache", tmp_path / "run")
    assert vocab_size_of(config) == VOCAB_SIZE_WITHOUT_DATA
    data = {
        **config.data.model_dump(),
        "url": f"file://{tmp_path / 'store'}",
        "shuffle_unit": "shard",
    }
    remote = validate({**config.model_dump(), "data": data}, TrainConfig, origin="test")
    assert vocab_size_of(remote) == VOCAB_SIZE

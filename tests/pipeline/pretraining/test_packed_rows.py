"""Runs on rows of several pieces: the attention of sequences trains like explicit attention."""

from pathlib import Path

import pytest

from tests.gloo import run_ranks
from tests.pipeline.training_run import SMALL_MODEL, make_config, make_rows, metrics, pretrain

MODEL = {
    **SMALL_MODEL,
    "packed_rows": {"type": "inside"},
    "positions": {"type": "rotary"},
    "attention_pattern": {"type": "alternating", "neighbours": 3, "global_every": 2},
    "attention_dropout": 0.0,
}


@pytest.mark.parametrize("tp_size", [1, 2])
def test_sequences_train_like_explicit_attention(tmp_path: Path, tp_size: int) -> None:
    make_rows(tmp_path / "rows", piece_tokens=9)
    found = []
    for backend in ("explicit", "varlen"):
        config = make_config(
            *(tmp_path / "rows", tmp_path / backend),
            model=MODEL,
            compute={"attention_backend": backend},
            parallel={"tensor": tp_size, "zero_stage": 1},
        )
        run_ranks(pretrain, tp_size, config)
        found.append(metrics(config, "loss"))
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[0][-1] < found[0][0]

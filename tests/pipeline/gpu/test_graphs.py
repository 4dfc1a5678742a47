"""CUDA graphs on one GPU: the bits of kernels that are launched one by one.

No GPU has run this yet.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.gpu.gpu_runs import NEEDS_GPU, NO_DROPOUT, WINDOW, run_on
from tests.pipeline.training_run import assert_same_bits, final_state, metrics

pytestmark = NEEDS_GPU
NO_ATTENTION_DROPOUT = {"attention_dropout": 0.0}
AGAIN = {"activation_checkpointing": {"type": "layers"}}


@pytest.mark.parametrize(
    ("model", "compute", "settings"),
    [
        (NO_DROPOUT, {"compile": "off"}, {}),
        (NO_ATTENTION_DROPOUT, {"compile": "off"}, {}),
        (NO_ATTENTION_DROPOUT, {"compile": "on"}, {}),
        # Flash attention draws from torch's generator.
        ({}, {"compile": "off"}, {}),
        ({}, {"compile": "on"}, {}),
        ({}, {"attention_backend": "explicit"}, {}),
        ({**WINDOW, **NO_ATTENTION_DROPOUT}, {"attention_backend": "flex"}, {}),
        (NO_ATTENTION_DROPOUT, AGAIN, {}),
        ({}, {}, {"objective": {"type": "causal"}}),
        ({}, {}, {"batch": {"global_rows": 16, "micro_rows": 16}}),
        ({}, {}, {"then": [{"total_rows": 8 * 16, "model": {"hidden_dropout": 0.3}}]}),
    ],
    ids=str,
)
def test_a_run_in_graphs_is_equal_to_the_last_bit(
    long_rows: Path,
    tmp_path: Path,
    model: dict[str, Any],
    compute: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """With evaluations between the steps."""
    runs = [
        run_on(
            *("cuda", long_rows, tmp_path / word, model),
            compute={**compute, "cuda_graphs": word},
            precision="bf16",
            gradient_clipping=0.5,
            **settings,
        )
        for word in ("off", "on")
    ]
    for name in ("loss", "gradient_norm"):
        assert metrics(runs[1], name) == metrics(runs[0], name)
    assert_same_bits(final_state(runs[1]), final_state(runs[0]))

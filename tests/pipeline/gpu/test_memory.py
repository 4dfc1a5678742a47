"""The memory of a run on one GPU is what the plan says."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.run.memory import OVERHEAD_GB, estimate_memory
from pipeline.run.plan import plan_run
from tests.pipeline.gpu.gpu_runs import MAX_ROW_TOKENS, NEEDS_GPU, run_on
from tests.pipeline.training_run import make_rows, metrics

pytestmark = NEEDS_GPU


@pytest.mark.parametrize(
    ("compute", "zero_stage"),
    [
        ({}, 1),
        ({}, 2),
        ({}, 3),
        ({"attention_backend": "explicit"}, 1),
        ({"cuda_graphs": "on"}, 1),
        ({"activation_checkpointing": {"type": "layers"}}, 1),
        ({"activation_checkpointing": {"type": "selective"}}, 1),
    ],
    ids=str,
)
def test_memory_is_what_the_plan_says(
    tmp_path: Path, compute: dict[str, Any], zero_stage: int
) -> None:
    make_rows(tmp_path / "rows", rows=64, row_tokens=MAX_ROW_TOKENS, vocab_size=50_265)
    sizes = {"num_layers": 6, "hidden_size": 768, "num_attention_heads": 12}
    config = run_on(
        "cuda",
        tmp_path / "rows",
        tmp_path / "run",
        sizes,
        compute=compute,
        precision="bf16",
        total_rows=3 * 32,
        batch={"global_rows": 32, "micro_rows": 16},
        schedule={"type": "linear", "warmup_rows": 32},
        parallel={"zero_stage": zero_stage},
    )
    estimate = estimate_memory(plan_run(config, 1))
    measured_gb = metrics(config, "device_memory_gb")[-1]
    print(f"measured {measured_gb:.2f} GB, planned {estimate.total_gb - OVERHEAD_GB:.2f}")
    # What torch's allocator does not see (the CUDA context, NCCL) is the estimate's overhead. On an
    # H200 the rest was 4 % too low with explicit attention, else 7 to 13 % too high.
    assert measured_gb == pytest.approx(estimate.total_gb - OVERHEAD_GB, rel=0.15)

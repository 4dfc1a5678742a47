"""The plan before a job: its numbers, and the jobs that it refuses."""

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from configs.load import ConfigError, UserError, load, validate
from model.size import count_parameters
from pipeline import plan
from pipeline.checkpoint.manifest import list_checkpoints
from pipeline.run.activations import activation_bytes
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import TrainConfig
from pipeline.run.memory import (
    BUCKET_VALUES,
    LIVE_VALUES,
    checkpoint_bytes,
    estimate_memory,
)
from pipeline.run.plan import plan_run
from pipeline.run.run_folder import RUN_NAME, checkpoints_folder, claim
from tests.gloo import RankError, run_ranks
from tests.pipeline.plan_lines import report
from tests.pipeline.training_run import ROW_TOKENS, make_config, make_rows, pretrain

ROOT = Path(__file__).parents[3]
MODEL = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": ROW_TOKENS}
WIDE = {
    "num_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "max_row_tokens": ROW_TOKENS,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, rows=64)
    return folder


def test_numbers_of_a_run(rows: Path, tmp_path: Path) -> None:
    config = make_config(rows, tmp_path / "run")
    lines = list(report(config, 2, 2, tokens_per_s=1000))
    assert "20 steps" in lines[0]
    assert "16 rows (1 x 4 x 4)" in lines[1]
    parameters = count_parameters(config.model, 131)
    assert f"parameters {parameters:,}" in lines[2]
    assert f"tokens {20 * 16 * ROW_TOKENS:,} in 20 steps" in lines[3]
    assert f"{20 * 16 * ROW_TOKENS / 4000 / 3600:.2f} h" in lines[4]
    assert "failures of hardware in that time: about 0.0 " in lines[5]
    saved = f"checkpoints of {12 * parameters / 1e9:,.2f} GB, of which one at the end is enough"
    assert lines[6] == saved
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_has_the_size_of_its_plan(rows: Path, tmp_path: Path) -> None:
    config = make_config(rows, tmp_path / "run", total_rows=16, schedule={"type": "constant"})
    run_ranks(pretrain, 1, config)
    (folder,) = list_checkpoints(checkpoints_folder(config))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert size == pytest.approx(checkpoint_bytes(config, 131), rel=0.1)  # headers of tiny tensors


def test_a_run_is_planned_before_its_rows_are_made(rows: Path, tmp_path: Path) -> None:
    """With the lines of the same run on rows, but one."""
    weights = {"a": 1.0, "b": 2.0}
    config = make_config(rows, tmp_path / "run", weights=weights)
    later: dict[str, Any] = {"data": {"path": str(tmp_path / "later"), "weights": weights}}
    missing = make_config(rows, tmp_path / "run", **later)
    with pytest.raises(
        ConfigError, match=r"later/manifest.json: no such file: .* --vocab-size N as if"
    ):
        list(report(missing, 2, 2))
    assumption, *lines = report(missing, 2, 2, tokens_per_s=1.0, assumed=AssumedRows(131))
    assert assumption.startswith("assumed: a vocabulary of 131 ids; not checked: ")
    found = [line.replace(str(tmp_path / "later"), str(rows)) for line in lines]
    assert found == list(report(config, 2, 2, tokens_per_s=1.0))
    narrow = "".join(report(missing, 2, 2, assumed=AssumedRows(131, 16)))
    assert "of 16 tokens from" in narrow
    with pytest.raises(ConfigError, match=f"{ROW_TOKENS} is less than the rows of 33 tokens"):
        list(report(missing, 2, 2, assumed=AssumedRows(131, 33)))


@pytest.mark.parametrize("name", ["base", "modern-base", "3.9b"])
def test_the_shipped_configs_are_planned_without_rows(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.plan", f"configs/{name}.yaml", f"output={tmp_path}"]
    done = subprocess.run(
        [*command, "--gpus-per-node", "8", "--vocab-size", "50265"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "parameters " in done.stdout


def test_states_are_sharded_by_the_zero_stage(rows: Path, tmp_path: Path) -> None:
    estimates = {}
    for stage in (1, 2, 3):
        config = make_config(
            rows, tmp_path, model=WIDE, precision="bf16", parallel={"zero_stage": stage}
        )
        estimates[stage] = estimate_memory(plan_run(config, 4))
    parameters = count_parameters(config.model, config.compute.padded_vocab_size(131))
    assert estimates[1].optimizer == pytest.approx(12 * parameters / 4)
    assert estimates[1].weights == pytest.approx(2 * parameters)
    # Sums, to which each gradient is added at once; sums of a quarter, and reduced by buckets.
    assert estimates[1].gradients == pytest.approx(4 * parameters)
    assert estimates[2].gradients == pytest.approx(4 * parameters / 4)
    assert estimates[1].buffers == 0
    assert estimates[2].buffers == pytest.approx(6 * BUCKET_VALUES)
    assert estimates[3].weights == pytest.approx(estimates[2].weights / 4)
    # ZeRO 3 gathers all weights of a model of less than 1e9 parameters at once.
    assert estimates[3].buffers - estimates[2].buffers == pytest.approx(2 * parameters)
    assert estimates[1].total_gb > estimates[2].total_gb


def test_zero_3_saves_weights_of_models_that_are_larger_than_what_it_keeps_gathered() -> None:
    config = load(ROOT / "configs" / "3.9b.yaml", TrainConfig, ["parallel.tensor=1"])
    sizes = []
    for stage in (2, 3):
        parallel = config.parallel.model_copy(update={"zero_stage": stage})
        plan = plan_run(config.model_copy(update={"parallel": parallel}), 16, AssumedRows(50_265))
        sizes.append(estimate_memory(plan))
    gathered = 2 * LIVE_VALUES
    saved = sizes[0].weights * 15 / 16 - gathered
    assert sizes[0].total_gb - sizes[1].total_gb == pytest.approx(saved / 1e9)


def test_a_higher_zero_stage_is_advised_only_where_it_needs_less(
    rows: Path, tmp_path: Path
) -> None:
    """A bucket of 1e8 fp32 gradients is more than those of a small model."""
    batch = {"global_rows": 4, "micro_rows": 1}
    small = make_config(rows, tmp_path / "run", precision="bf16", batch=batch)
    with pytest.raises(ConfigError, match=r"; raise parallel\.tensor \(now 1\), which has to"):
        report(small, 1, 4, gpu_memory_gb=1)
    wide = make_config(rows, tmp_path / "run", model=WIDE, precision="bf16")
    with pytest.raises(ConfigError, match=r"raise parallel\.zero_stage to 2 \(now 1\)"):
        report(wide, 1, 4, gpu_memory_gb=3)


def test_activations_are_those_of_the_paper(rows: Path, tmp_path: Path) -> None:
    """Korthikanti et al. 2022: sbh (34 + 5as/h), and over t ranks sbh (10 + 24/t + 5as/ht)."""
    explicit = {"attention_backend": "explicit"}
    config = make_config(rows, tmp_path, model=WIDE, compute=explicit, precision="bf16")
    one = 512 * 4 * 1024
    expected = 24 * one * (34 + 5 * 16 * 512 / 1024)
    assert activation_bytes(config, 4, 512, 1) == pytest.approx(expected)
    expected = 24 * one * (10 + 24 / 2 + 5 * 16 * 512 / 1024 / 2)
    assert activation_bytes(config, 4, 512, 2) == pytest.approx(expected)
    saving = {"activation_checkpointing": {"type": "layers"}}
    config = make_config(rows, tmp_path, model=WIDE, compute=saving, precision="bf16")
    assert activation_bytes(config, 4, 512, 1) == pytest.approx(24 * 2 * one + one * 34)


def test_what_does_not_fit_is_refused_with_advice(rows: Path, tmp_path: Path) -> None:
    config = make_config(rows, tmp_path / "run", model=WIDE, precision="bf16")
    with pytest.raises(ConfigError, match=r"does not fit: .*one has 6 GB; raise parallel.zero_st"):
        list(report(config, 1, 2, gpu_memory_gb=6))
    assert list(report(config, 1, 2, gpu_memory_gb=16))
    later = {"total_rows": 960, "batch": {"global_rows": 960, "micro_rows": 960}}
    tree = config.model_dump(mode="json") | {
        "then": [later, {"total_rows": 960, "batch": {"micro_rows": 1}}]
    }
    longer = validate(tree, TrainConfig, "test")
    with pytest.raises(ConfigError, match=r"lower then\.0\.batch\.micro_rows \(now 960\)"):
        list(report(longer, 1, 1, gpu_memory_gb=7))


@pytest.mark.parametrize(
    ("nodes", "gpus", "tensor", "message"),
    [
        (1, 3, 1, "set batch.global_rows to 12 or 24.*; or plan for other ranks than --gpus-per-n"),
        (3, 2, 1, "or plan for other ranks than --nodes 3 --gpus-per-node 2$"),
        (1, 3, 2, r"parallel.tensor 2 does not divide the 3 ranks of a node \(--gpus-per-node 3\)"),
        (1, 3, 2, "plan for --gpus-per-node 2 or 4, or change parallel.tensor"),
        (2, 1, 2, r"does not divide the 1 ranks .* plan for --gpus-per-node 2, or change"),
        (0, 8, 1, "both must be at least 1"),
    ],
)
def test_what_does_not_divide_is_refused(
    rows: Path, tmp_path: Path, nodes: int, gpus: int, tensor: int, message: str
) -> None:
    config = make_config(rows, tmp_path / "run", parallel={"tensor": tensor})
    with pytest.raises(ConfigError, match=message):
        list(report(config, nodes, gpus))


def test_more_ranks_are_advised_where_they_fit(rows: Path, tmp_path: Path) -> None:
    """ZeRO 1 divides the optimizer's state over data-parallel ranks."""
    optimizer_gb = estimate_memory(plan_run(wide(rows, tmp_path), 1)).optimizer / 1e9
    one = estimate_memory(plan_run(wide(rows, tmp_path), 1)).total_gb
    limit = one - 0.7 * optimizer_gb
    with pytest.raises(ConfigError) as error:
        report(wide(rows, tmp_path), 1, 1, gpu_memory_gb=limit)
    four = estimate_memory(plan_run(wide(rows, tmp_path), 4)).total_gb
    assert f"plan for more ranks, --gpus-per-node 4 ({four:.1f} GB each), or" in str(error.value)
    assert list(report(wide(rows, tmp_path), 1, 4, gpu_memory_gb=limit))
    with pytest.raises(ConfigError) as error:  # 16 rows are no multiple of 32 ranks with one each
        report(wide(rows, tmp_path), 1, 1, gpu_memory_gb=one - optimizer_gb)
    assert "more ranks" not in str(error.value)


def wide(rows: Path, tmp_path: Path) -> TrainConfig:
    return make_config(
        rows,
        tmp_path / "run",
        model=WIDE,
        precision="bf16",
        batch={"global_rows": 16, "micro_rows": 1},
    )


@pytest.mark.parametrize(
    ("words", "tensor", "assumption"),
    [
        ([], 1, "--gpus-per-node 1 (with an accelerator each)"),
        (["--cpu"], 1, "--ranks-per-node 1 (processes on CPUs)"),
        (["--cpu"], 2, "--ranks-per-node 2 (processes on CPUs)"),
        (["--cpu", "--ranks-per-node", "4"], 2, ""),
        (["--cpu", "--gpus-per-node", "4"], 2, ""),
    ],
)
def test_the_number_of_ranks_is_assumed_and_said(
    rows: Path,
    tmp_path: Path,
    words: list[str],
    tensor: int,
    assumption: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_config(rows, tmp_path / "run", parallel={"tensor": tensor})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with mock.patch.object(sys, "argv", ["plan", str(path), *words]):
        plan.main()
    first, *rest = capsys.readouterr().out.splitlines()
    allowed = f"assumed: {assumption}, the fewest that parallel.tensor allows"
    assert first == allowed if assumption else first.startswith("test starts: ")
    dp_size = 4 // tensor if len(words) == 3 else 1
    heading = first if not assumption else rest[0]
    assert f"tensor parallel {tensor} x data parallel {dp_size}" in heading


def test_a_folder_of_a_different_run_is_refused(rows: Path, tmp_path: Path) -> None:
    config = make_config(rows, tmp_path / "run")
    fingerprint = plan_run(config, 1).data_fingerprint
    claim(config, fingerprint)
    other = make_config(rows, tmp_path / "run", seed=8)
    before = (config.output / RUN_NAME).read_text()
    with pytest.raises(UserError, match="holds a different run"):
        list(report(other, 1, 1))
    changed = make_config(rows, tmp_path / "run", checkpoint={"every_steps": 5})
    assert list(report(changed, 1, 1))[-1].startswith("changed since the last start: checkpoint")
    assert (config.output / RUN_NAME).read_text() == before


def test_the_command_imports_no_torch(rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config = make_config(rows, tmp_path / "run")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    code = (
        "import runpy, sys; sys.argv = ['plan', *sys.argv[1:]]\n"
        "try: runpy.run_module('pipeline.plan', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    arguments = [str(path), "--nodes", "2", "--gpus-per-node", "2"]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "data parallel 4" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file of word vectors"),
        ("the 1 2 3\n", "does not start with word2vec's two counts"),
        ("2 3\nthe 1 2 3\nof 1 2 x\n", "vectors.txt:3: not a word and 3 numbers"),
        ("1 3\nthe 1 2 3\n", "has 3 dimensions, but model.hidden_size is 32: set model.embedding_"),
    ],
)
def test_word_vectors_that_cannot_be_taken_are_named_in_the_plan(
    rows: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "vectors.txt"
    if text is not None:
        path.write_text(text)
    fit = "exact" if "dimensions" in message else "project"
    vectors = {"type": "vectors", "path": str(path), "fit": fit}
    model = {**MODEL, "embedding_start": vectors}
    with pytest.raises(ConfigError) as error:
        list(report(make_config(rows, tmp_path / "run", model=model), 1, 1))
    assert message in str(error.value)


def test_the_plan_says_where_flex_attention_trains(rows: Path, tmp_path: Path) -> None:
    """Not refused: the plan may be made on another machine than the run."""
    model = {**MODEL, "attention_dropout": 0.0}
    flex = {"attention_backend": "flex"}
    config = make_config(rows, tmp_path / "run", model=model, compute=flex)
    assert "compute.attention_backend flex trains on CUDA devices only" in report(config, 1, 1)
    with pytest.raises(RankError, match="flex has no backward pass on the CPU") as error:
        run_ranks(pretrain, 1, config)
    assert "build_engine" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"type": "mlm", "mask_rate": 0.01}}, "objective.mask_rate 0.01 masks no "),
        (
            {"objective": {"type": "mlm", "mask_rate": {"type": "linear", "end": 0.01}}},
            "masks no token of a row of 32 tokens",
        ),
        ({"seed": 2**64}, "seed: Input should be less than 18446744073709551616"),
    ],
    ids=["rate", "schedule", "seed"],
)
def test_numbers_that_fail_in_training_are_refused(
    changes: dict[str, Any], message: str, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        plan_run(make_config(rows, tmp_path / "run", **changes), 1)
    assert message in str(error.value)

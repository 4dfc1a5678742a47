"""What a run keeps for life is compared when it is resumed; how it is computed may change."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError, UserError, validate
from model.compute import MOVED_KEYS, ComputeConfig
from pipeline.finetuning.config import FinetuneConfig
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import RUN_NAME, check_claim, claim
from tests.pipeline.training_run import make_config

NOT_EQUAL = "results are not bit-equal to an uninterrupted run"
COMPUTE_CHANGES: dict[str, tuple[Any, bool]] = {
    "activation_checkpointing": ({"type": "layers", "every": 2}, True),
    "attention_backend": ("sdpa", False),
    "sequence_parallel": (True, False),
    "vocabulary_multiple": (64, False),
    "compile": ("on", False),
    "cuda_graphs": ("off", True),
    "deterministic": (False, False),
}
"""By key of `compute`: another value, and whether results stay equal to the bit."""


def config_of(folder: Path, **changes: Any) -> TrainConfig:
    return make_config(folder / "rows", folder / "run", **changes)


def make_old(folder: Path, old_values: dict[str, Any]) -> None:
    """Rewrites run.json as versions before `compute` did, with `old_values` under `model`."""
    path = folder / "run" / RUN_NAME
    stored = json.loads(path.read_bytes())
    compute = {**stored["config"].pop("compute"), **old_values}
    del compute["compile"], compute["cuda_graphs"]  # are newer
    stored["config"]["deterministic"] = compute.pop("deterministic")
    stored["config"]["model"].update(compute)
    path.write_text(json.dumps(stored))


def test_every_key_of_compute_is_tested() -> None:
    assert COMPUTE_CHANGES.keys() == ComputeConfig.model_fields.keys()
    assert {path.split(".")[-1] for path in MOVED_KEYS} <= COMPUTE_CHANGES.keys()


@pytest.mark.parametrize("key", COMPUTE_CHANGES)
def test_how_a_run_is_computed_may_change(tmp_path: Path, key: str) -> None:
    value, is_equal = COMPUTE_CHANGES[key]
    claim(config_of(tmp_path), "rows")
    changes = claim(config_of(tmp_path, compute={key: value}), "rows")
    assert changes
    assert all(change.startswith(f"compute.{key}") for change in changes)
    assert all((NOT_EQUAL in change) != is_equal for change in changes)
    assert claim(config_of(tmp_path, compute={key: value}), "rows") == []


def test_selective_recomputation_rounds_otherwise_in_compiled_layers(tmp_path: Path) -> None:
    claim(config_of(tmp_path), "rows")
    selective = {"activation_checkpointing": {"type": "selective"}}
    [change] = check_claim(config_of(tmp_path, compute=selective), "rows")
    assert f"results of compiled layers {NOT_EQUAL.removeprefix('results ')}" in change
    claim(config_of(tmp_path, compute=selective), "rows")
    [change, *_] = check_claim(config_of(tmp_path), "rows")
    assert "results of compiled layers" in change


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"precision": "bf16"}, "precision"),
        ({"batch": {"global_rows": 16, "micro_rows": 8}}, "batch.micro_rows"),
        ({"parallel": {"tensor": 2, "zero_stage": 1}}, "parallel.tensor"),
        ({"parallel": {"tensor": 1, "zero_stage": 2}}, "parallel.zero_stage"),
    ],
)
def test_a_change_that_gives_up_bit_equality_is_reported(
    tmp_path: Path, changes: dict[str, Any], path: str
) -> None:
    claim(config_of(tmp_path), "rows")
    [change] = check_claim(config_of(tmp_path, **changes), "rows")
    assert change.startswith(f"{path}: ")
    assert NOT_EQUAL in change


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"seed": 8}, ["seed: 7 before, 8 now"]),
        (
            {"objective": {"type": "whole_word", "mask_rate": 0.2}},
            [
                "objective.mask_rate: 0.15 before, 0.2 now",
                "objective.type: 'mlm' before, 'whole_word' now",
            ],
        ),
        (
            {"batch": {"global_rows": 32, "micro_rows": 8}},
            ["batch.global_rows: 16 before, 32 now"],
        ),
    ],
)
def test_what_is_computed_may_not_change(
    tmp_path: Path, changes: dict[str, Any], lines: list[str]
) -> None:
    claim(config_of(tmp_path), "rows")
    with pytest.raises(UserError, match="holds a different run") as error:
        check_claim(config_of(tmp_path, **changes), "rows")
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == lines


def test_the_model_and_the_rows_may_not_change(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    claim(config, "rows")
    model = {**config.model.model_dump(), "num_layers": 3, "norm_placement": {"type": "pre"}}
    with pytest.raises(UserError) as error:
        check_claim(config_of(tmp_path, model=model), "different rows")
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [
        "model.num_layers: 2 before, 3 now",
        "model.norm_placement.type: 'post' before, 'pre' now",
        "the rows are different: the fingerprint of the data set changed (data.path)",
    ]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"objective": {"type": "mlm", "mask_rate": 0.3}}, "objective"),
        ({"objective": {"type": "causal"}, "seed": 8}, "objective"),
        (
            {"batch": {"global_rows": 32, "micro_rows": 8}, "adversarial": {"type": "alum"}},
            "adversarial and batch.global_rows",
        ),
        ({"objective": {"type": "replaced_tokens"}}, None),
        ({"seed": 8}, None),
    ],
    ids=str,
)
def test_a_refused_change_names_the_phase_that_may_have_it(
    tmp_path: Path, changes: dict[str, Any], keys: str | None
) -> None:
    claim(config_of(tmp_path), "rows")
    with pytest.raises(UserError) as error:
        check_claim(config_of(tmp_path, **changes), "rows")
    last = str(error.value).splitlines()[-1]
    assert ("add a phase" in last) == (keys is not None)
    assert keys is None or f"to train on with another {keys}, " in last


def test_an_old_run_folder_is_resumed(tmp_path: Path) -> None:
    claim(config_of(tmp_path), "rows")
    make_old(tmp_path, {})
    assert check_claim(config_of(tmp_path), "rows") == []
    claim(config_of(tmp_path), "rows")
    make_old(tmp_path, {"attention_backend": "explicit"})
    [change] = check_claim(config_of(tmp_path), "rows")
    assert change.startswith("compute.attention_backend: 'explicit' before, 'auto' now")


def test_old_keys_of_a_config_file_are_read_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 32}
    old = {**sizes, "attention_backend": "sdpa", "activation_checkpointing": {"type": "layers"}}
    with caplog.at_level(logging.WARNING):
        config = config_of(
            tmp_path, model=old, deterministic=False, compute={"deterministic": False}
        )
    assert config.compute.attention_backend == "sdpa"
    assert not config.compute.deterministic
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "config key model.activation_checkpointing is now called compute.activation_checkpointing",
        "config key model.attention_backend is now called compute.attention_backend",
        "config key deterministic is now called compute.deterministic",
    ]
    with pytest.raises(ConfigError, match=r"model\.attention_backend is the old name of compute"):
        config_of(tmp_path, model=old, compute={"attention_backend": "explicit"})


def test_a_backend_that_cannot_compute_the_model_is_an_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flex has no dropout"):
        config_of(tmp_path, compute={"attention_backend": "flex"})


def finetune_config(folder: Path, **changes: Any) -> FinetuneConfig:
    task = {"type": "regression", "train": "lines.jsonl"}
    tree = {
        "name": "test",
        "output": str(folder / "run"),
        "start": {"type": "run", "path": "pretrained"},
        "tasks": {"length": task},
        "steps": 6,
    }
    return validate({**tree, **changes}, FinetuneConfig, origin="test")


def test_fine_tuning_keeps_tasks_and_start_but_not_how_it_computes(tmp_path: Path) -> None:
    claim(finetune_config(tmp_path), "files")
    [change] = check_claim(finetune_config(tmp_path, compute={"sequence_parallel": True}), "files")
    assert change.startswith("compute.sequence_parallel: False before, True now")
    tasks = {"length": {"type": "regression", "train": "lines.jsonl", "weight": 2.0}}
    start = {"type": "run", "path": "pretrained", "step": 5}
    with pytest.raises(UserError) as error:
        check_claim(finetune_config(tmp_path, tasks=tasks, start=start), "files")
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [
        "start.step: None before, 5 now",
        "tasks.length.weight: 1.0 before, 2.0 now",
    ]


def test_an_old_fine_tuning_run_is_resumed(tmp_path: Path) -> None:
    claim(finetune_config(tmp_path), "files")
    path = tmp_path / "run" / RUN_NAME
    stored = json.loads(path.read_bytes())
    del stored["config"]["compute"]
    unset = {"activation_checkpointing": None, "sequence_parallel": None}
    stored["config"]["model"].update(unset)
    stored["config"]["deterministic"] = True
    path.write_text(json.dumps(stored))
    assert check_claim(finetune_config(tmp_path), "files") == []

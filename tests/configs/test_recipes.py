"""The recipes: published sizes and lengths, and starts that fit."""

from itertools import pairwise
from pathlib import Path

import pytest

from model.size import count_parameters
from pipeline.finetuning.run_config import load_run
from pipeline.run.config import TrainConfig
from pipeline.run.phase_checks import check_exportable
from pipeline.start.architecture import growth_errors
from tests.pipeline.hugging_face.folders import TINY, tiny_folder, tiny_tokenizer

CONFIGS = Path(__file__).parents[2] / "configs"
VOCAB_SIZE = 50_368
"""ModernBERT's (Warner et al. 2024, section 2.1)."""


def recipe(name: str, *overrides: str) -> TrainConfig:
    config = load_run(CONFIGS / f"{name}.yaml", overrides)
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize(
    ("name", "millions", "trillions", "batches"),
    [
        ("modern-base", 149, 2.02, [4608, 72, 72]),
        ("modern-large", 395, 2.02, [4928, 4928, 80, 80]),
        ("multilingual", 149, 3.0, [4608, 576, 576]),
    ],
)
def test_modern_recipes_have_the_published_size_and_length(
    name: str, millions: int, trillions: float, batches: list[int]
) -> None:
    config = recipe(name, "start={type: scratch}")
    check_exportable(config)
    assert count_parameters(config.model, VOCAB_SIZE) // 1_000_000 == millions
    widths = [1024 if phase.batch.global_rows > 1000 else 8192 for phase in config.phases]
    tokens = sum(
        phase.steps.total_rows * width for phase, width in zip(config.phases, widths, strict=True)
    )
    assert tokens / 1e12 == pytest.approx(trillions, rel=0.002)
    assert [phase.batch.global_rows for phase in config.phases] == batches
    bases = [getattr(phase.model.positions, "base", None) for phase in config.phases]
    assert bases == [10_000 if width == 1024 else 160_000 for width in widths]
    last = config.phases[-1]
    ends = [
        last.schedule.learning_rate(last.optimizer.lr, row, last.total_rows)
        for row in (0, last.total_rows)
    ]
    assert ends == [config.phases[-2].optimizer.lr, 0]


def test_masks_become_fewer_and_shares_more_even() -> None:
    phases = recipe("multilingual").phases
    assert [getattr(phase.objective, "mask_rate", None) for phase in phases] == [0.3, 0.15, 0.05]
    exponents = [phase.data.sampling_exponent or 1 for phase in phases]
    assert all(now < before for before, now in pairwise(exponents))


def test_the_large_model_can_grow_from_the_base_model() -> None:
    large = recipe("modern-large", "start={type: scratch}")
    assert not list(growth_errors(recipe("modern-base").model, large.model))


def test_a_folder_says_what_adapt_trains(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "hf", tiny_tokenizer(TINY["vocab_size"]))
    config = recipe("adapt", f"start.path={folder}")
    assert config.checkpoint.keep_best == 1
    assert config.model.hidden_size == TINY["hidden_size"]

"""Phases with their own settings: the switch is exact, at every grid and after every restart."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import UserError
from model.hugging_face.families import family_of_model
from pipeline.checkpoint.manifest import (
    Checkpoint,
    find_checkpoint,
    list_checkpoints,
    read_manifest,
)
from pipeline.checkpoint.stored_model import stored_model
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import RUN_NAME, checkpoints_folder, is_done
from pipeline.run.trained_model import check_config
from tests.gloo import RankError, run_ranks
from tests.pipeline.pretraining.test_kills import pretrain_until_killed
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_row_tokens": 64,
    "norm_placement": {"type": "pre"},
    "first_norm": False,
    "bias": {"attention": False, "mlp": False, "norm": False, "head": False},
    "activation": {"type": "geglu"},
    "positions": {"type": "rotary", "base": 10_000.0},
    "attention_pattern": {"type": "alternating", "neighbours": 8, "global_every": 2},
    "type_vocab_size": 0,
}
"""ModernBERT's."""
FOUR_RANKS = {"tensor": 2, "zero_stage": 2}
FIRST_STEPS, SECOND_STEPS, THIRD_STEPS = 4, 4, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 32 tokens, of 64, and other ones of 64."""
    folder = tmp_path_factory.mktemp("phases")
    make_rows(folder / "short")
    make_rows(folder / "long", rows=128, row_tokens=64)
    make_rows(folder / "other", rows=128, row_tokens=64, seed=3)
    return folder


def modern_config(folder: Path, output: Path, **changes: Any) -> TrainConfig:
    """ModernBERT's recipe: short rows, long rows with a larger base, a decay on other data."""
    settings: dict[str, Any] = {
        "total_rows": FIRST_STEPS * 16,
        "model": MODEL,
        "objective": {"type": "mlm", "mask_rate": 0.3},
        "optimizer": {"type": "muon", "weight_decay": 0.05},
        "schedule": {"type": "constant", "warmup_rows": 32},
        "checkpoint": {"every_steps": 1, "keep_last": 99},
        "export": "hugging_face",
        "then": [
            {
                "data": {"path": str(folder / "long")},
                "total_rows": SECOND_STEPS * 8,
                "batch": {"global_rows": 8, "micro_rows": 2},
                "model": {
                    "positions": {"base": 160_000.0, "local_base": 10_000.0},
                    "attention_pattern": {"neighbours": 12},
                    "hidden_dropout": 0.0,
                },
                "optimizer": {"lr": 1e-3, "adamw_lr": 1e-3, "momentum": 0.9, "beta2": 0.95},
                "gradient_clipping": 0.3,
            },
            {
                "data": {"path": str(folder / "other")},
                "total_rows": THIRD_STEPS * 8,
                "schedule": {"type": "wsd", "decay_share": 1.0},
                "objective": {"mask_rate": 0.15},
                "optimizer": {"weight_decay": 0.0},
            },
        ],
    }
    return make_config(folder / "short", output, **{**settings, **changes})


def trained_without_switching(config: TrainConfig, world_size: int) -> TrainConfig:
    """The same training by one launch for each phase, whose settings are those of the first phase.

    Without the folder's run.json a launch cannot know that this is no way to train.
    """
    for number, phase in enumerate(config.phases):
        settings = {
            key: getattr(phase, key)
            for key in ("model", "objective", "optimizer", "gradient_clipping")
        }
        phases = [one.model_copy(update=settings) for one in config.phases[1 : number + 1]]
        now = config.model_copy(update={**settings, "then": tuple(phases)})
        (config.output / RUN_NAME).unlink(missing_ok=True)
        run_ranks(pretrain, world_size, now)
    return now


@pytest.mark.parametrize(
    ("world_size", "tensor", "zero_stage", "optimizer"),
    [(2, 2, 1, "muon"), (2, 1, 3, "adamw")],
)
def test_the_switch_is_exact(
    folder: Path, tmp_path: Path, world_size: int, tensor: int, zero_stage: int, optimizer: str
) -> None:
    parallel = {"tensor": tensor, "zero_stage": zero_stage}
    then = modern_config(folder, tmp_path).model_dump(mode="json")["then"]
    if optimizer != "muon":
        for phase, settings in zip(then, ({"lr": 5e-4, "beta1": 0.8}, {"eps": 1e-3}), strict=True):
            phase["optimizer"] = settings
    changes = {"parallel": parallel, "then": then}
    if optimizer != "muon":
        changes["optimizer"] = {"type": optimizer, "weight_decay": 0.1}
    switching = modern_config(folder, tmp_path / "switching", **changes)
    run_ranks(pretrain, world_size, switching)
    restarted = modern_config(folder, tmp_path / "restarted", **changes)
    trained_without_switching(restarted, world_size)
    for name in ("loss", "gradient_norm", "learning_rate", "masked_tokens"):
        assert metrics(switching, name) == metrics(restarted, name), name
    assert_same_bits(final_state(switching), final_state(restarted))


@pytest.fixture(scope="module")
def whole(folder: Path) -> TrainConfig:
    """The run of three phases on four ranks, without interruption."""
    config = modern_config(folder, folder / "whole", parallel=FOUR_RANKS)
    run_ranks(pretrain, 4, config)
    return config


def test_killed_around_a_boundary(folder: Path, whole: TrainConfig, tmp_path: Path) -> None:
    killed = modern_config(folder, tmp_path / "killed", parallel=FOUR_RANKS)
    taken, kills = 0, iter((FIRST_STEPS - 1, 2, *[SECOND_STEPS] * 8))
    while taken < FIRST_STEPS:  # on a busy machine saves are not written before the kill
        with pytest.raises(RankError):
            run_ranks(pretrain_until_killed, 4, killed, 3, next(kills), 0.0)
        checkpoint, _ = find_checkpoint(checkpoints_folder(killed))
        taken = checkpoint.manifest.step if checkpoint else 0
    run_ranks(pretrain, 4, killed)
    assert_same_bits(final_state(whole), final_state(killed))
    for name in ("loss", "gradient_norm"):
        assert metrics(whole, name) == metrics(killed, name), name


def test_added_phases_on_another_grid(folder: Path, whole: TrainConfig, tmp_path: Path) -> None:
    """One phase; the next is added while it runs, the last one when both are finished."""
    for number, world_size in enumerate((1, 4, 1)):
        then = whole.model_dump(mode="json")["then"][:number]
        parallel = FOUR_RANKS if world_size == 4 else {"tensor": 1, "zero_stage": 1}
        config = modern_config(folder, tmp_path / "parts", then=then, parallel=parallel)
        assert not is_done(config)
        run_ranks(pretrain, world_size, config)
        assert is_done(config)
    for name in ("loss", "gradient_norm"):
        assert metrics(config, name) == pytest.approx(metrics(whole, name), rel=1e-4), name
    assert metrics(config, "learning_rate") == metrics(whole, "learning_rate")
    then[0]["objective"]["mask_rate"] = 0.2
    changed = modern_config(folder, tmp_path / "parts", then=then)
    with pytest.raises(UserError, match=r"then\.0\.objective\.mask_rate: 0\.3 before, 0\.2 now"):
        is_done(changed)
    checkpoint, _ = find_checkpoint(checkpoints_folder(whole))
    assert checkpoint is not None
    with pytest.raises(UserError, match=r"then\.0\.objective\.mask_rate: 0\.3 in the checkpoint"):
        check_config(changed, checkpoint)


def test_a_checkpoint_says_which_model_it_holds(whole: TrainConfig) -> None:
    """That of its last step, also where the next phase follows."""
    models = []
    for path in list_checkpoints(checkpoints_folder(whole)):
        model = stored_model(Checkpoint(path, read_manifest(path)))
        models.append(model)
    first, second, third = (phase.model for phase in whole.phases)
    assert second == third != first
    assert models == [first] * FIRST_STEPS + [second] * (SECOND_STEPS + THIRD_STEPS)
    exported = [family_of_model(m).hf_config(m, 131) for m in (models[0], models[-1])]
    bases = [config["rope_parameters"]["full_attention"]["rope_theta"] for config in exported]
    assert bases == [10_000.0, 160_000.0]
    assert [config["local_attention"] for config in exported] == [16, 24]

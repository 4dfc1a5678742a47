"""Characters that mean something in URLs and patterns are only characters in a path."""

import shutil
from pathlib import Path

from pipeline.checkpoint.manifest import find_checkpoint, list_checkpoints
from pipeline.export import export_run
from pipeline.finetuning.plan import plan_finetuning
from pipeline.run.run_folder import check_claim, checkpoints_folder, is_done
from tests.gloo import run_ranks
from tests.pipeline.finetuning.finetune_run import (
    make_finetune_config,
    make_pretrained,
    run_finetuning,
)
from tests.pipeline.training_run import pretrain

ODD = "a?b#c%20d%s [e]*{f} é"


def test_a_run_its_rows_and_its_fine_tuning_in_odd_folders(tmp_path: Path) -> None:
    folder = tmp_path / ODD
    pretrained = make_pretrained(folder)
    assert is_done(pretrained)
    schedule = pretrained.schedule.model_copy(update={"total_rows": pretrained.total_rows})
    longer = pretrained.model_copy(update={"total_rows": 7 * 16, "schedule": schedule})
    run_ranks(pretrain, 1, longer)
    assert is_done(longer)
    assert len(list_checkpoints(checkpoints_folder(longer))) == 2
    config = make_finetune_config(pretrained, folder / ODD, steps=2)
    run_ranks(run_finetuning, 1, config)
    assert is_done(config)
    shutil.rmtree(pretrained.output)
    plan = plan_finetuning(config, 1, is_first=True)
    assert check_claim(config, plan.data_fingerprint) == []
    assert not list(tmp_path.glob("[!a]*")), "nothing was written beside the folder"


def test_an_export_in_an_odd_folder(tmp_path: Path) -> None:
    pretrained = make_pretrained(tmp_path / ODD)
    checkpoint, problems = find_checkpoint(checkpoints_folder(pretrained))
    assert checkpoint is not None, problems
    folder = pretrained.output / "hf"
    [differences] = run_ranks(export_run, 1, pretrained, checkpoint, folder)
    assert list(differences) == [folder]
    assert (folder / "config.json").exists()

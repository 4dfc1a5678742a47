"""A cut form of the studies: launches, scores and results of real runs, each of a few steps."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.learning_studies import ablations, corpora, launches, pretraining
from benchmarks.learning_studies.launches import Cost, curve, run_command
from benchmarks.learning_studies.results import Results
from benchmarks.learning_studies.tasks import TASKS, task_file
from data_prep.tokenization.train import train_tokenizer
from tests.pipeline.finetuning.finetune_run import ANIMALS, SENTENCE, write_lines
from tests.pipeline.training_run import make_rows


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studies' folder with rows and the files of two tasks."""
    folder = tmp_path_factory.mktemp("studies")
    tokenizer = train_tokenizer([SENTENCE] * 60, 270)
    for name in ("encoder", "small"):
        rows = corpora.rows_folder(folder, name)
        make_rows(rows, tokenizer=tokenizer, row_tokens=corpora.ROW_TOKENS)
    tasks = folder / "tasks"
    tasks.mkdir()
    words = SENTENCE.split()
    for split in ("train", "dev", "test"):
        texts = [f"the {animal} ate the {word}" for animal in ANIMALS for word in words]
        lines = [{"text": text, "label": text.split()[1]} for text in texts]
        write_lines(task_file(tasks, "sentiment", split), lines)
        tags = [{"words": words, "labels": ["A" if w in ANIMALS else "," for w in words]}] * 40
        write_lines(task_file(tasks, "tagging", split), tags)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_encoder_is_pretrained_and_fine_tuned_once(
    studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "SEEDS", (1, 2))
    monkeypatch.setattr(pretraining, "LEARNING_RATES", (1e-3,))
    monkeypatch.setattr(
        pretraining, "TASKS", {name: TASKS[name] for name in ("sentiment", "tagging")}
    )
    results, rows = Results(studies, pretraining.STUDY), corpora.rows_folder(studies, "encoder")
    encoder = results.compute("encoder", lambda folder: pretraining.pretrain(folder, rows, 0.002))
    assert encoder["rows"] == 160
    assert encoder["curve"][-1][0] == 5
    results.compute("random", lambda folder: pretraining.random_weights(folder, rows, seed=1))
    run = results.run_folder
    starts = {
        (name, seed): run(folder) / "run"
        for name, folder in (("pretrained", "encoder"), ("scratch", "random"))
        for seed in pretraining.SEEDS
    }
    pretraining.fine_tune_all(results, starts, studies / "tasks", scale=0.5)
    found = results.all()
    assert len(found) == 2 + 2 * 2 * 2
    tagging = found["tagging-scratch-0.001-2"]
    assert tagging["test"] == pytest.approx(tagging["dev"])  # the same sentences
    before = {path: path.stat().st_mtime_ns for path in results.path("x").parent.iterdir()}
    pretraining.fine_tune_all(results, starts, studies / "tasks", scale=0.5)
    assert before == {path: path.stat().st_mtime_ns for path in results.path("x").parent.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_objectives_are_scored_with_the_same_masks(studies: Path) -> None:
    results = Results(studies, ablations.STUDY)
    variants = {
        "base": ablations.Variant({"total_rows": 64}, seeds=(1,)),
        "mask-40": ablations.Variant({"total_rows": 64, "objective.mask_rate": 0.4}, seeds=(1,)),
    }
    ablations.train_variants(results, variants, scale=1.0)
    found = results.all()
    assert found["base-seed1"]["loss"] == found["base-seed1"]["own_loss"]
    assert found["base-seed1"]["unigram_loss"] == found["mask-40-seed1"]["unigram_loss"]
    run = results.run_folder("mask-40-seed1")
    assert curve(run, "heldout_loss")[-1][1] != found["mask-40-seed1"]["loss"]


def test_a_command_that_fails_says_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such study"):
        run_command(["-c", "raise SystemExit('no such study')"], tmp_path / "log.txt")


def test_a_run_that_was_stopped_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(arguments: Sequence[str], log: Path, threads: int) -> tuple[int, Cost]:
        return 0, Cost(wall_s=2.0, cpu_s=1.5)

    monkeypatch.setattr(launches, "launch", stopped)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="stopped"):
            launches.train({"total_rows": 16}, tmp_path / "run")
    (tmp_path / "run" / "run").mkdir()
    (tmp_path / "run" / "run" / "DONE").touch()
    cost = launches.train({"total_rows": 16}, tmp_path / "run")
    assert cost == Cost(wall_s=6.0, cpu_s=4.5)  # of all launches
    assert "precision: fp32" in (tmp_path / "run" / "config.yaml").read_text()

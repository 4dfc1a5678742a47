"""The page of benchmarks.learning: what is read out of the results of runs."""

import json
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.learning import check_scale
from benchmarks.learning_studies import ablations, continued, corpora, pretraining
from benchmarks.learning_studies.continued import first_step_below
from benchmarks.learning_studies.readings import losses, spread, verdict
from benchmarks.learning_studies.report import ablation_table, pretraining_table, replaced, write
from benchmarks.learning_studies.results import Results, Values, side_by_side
from configs.load import UserError, validate
from data_prep.config import DataConfig
from pipeline.data.order import SourceSize, mixture_shares
from pipeline.run.train_config import complete_config

PAGE = "".join(
    f"Text.\n<!-- results: {name} -->\nold\n<!-- end -->\n"
    for name in ("pretraining", "few-labels", "ablations", "data", "continued")
)


def test_a_finished_result_is_not_computed_again(tmp_path: Path) -> None:
    results, calls = Results(tmp_path, "study"), []

    def compute(folder: Path) -> Values:
        calls.append(folder)
        return {"loss": 1.5}

    assert results.compute("run", compute) == results.compute("run", compute) == {"loss": 1.5}
    assert calls == [tmp_path / "runs" / "study" / "run"]
    assert results.all() == {"run": {"loss": 1.5}}


def test_after_a_failure_no_waiting_job_starts() -> None:
    started = []

    def fail() -> Values:
        raise RuntimeError("the run was stopped")

    def work() -> Values:
        started.append(1)
        time.sleep(0.01)  # all of them would take seconds
        return {}

    with pytest.raises(RuntimeError, match="stopped"):
        side_by_side([fail, *[work] * 1000])
    assert len(started) < 1000


def put(folder: Path, study: str, name: str, values: Values) -> None:
    Results(folder, study).compute(name, lambda _: values)


def test_the_learning_rate_is_chosen_by_dev_and_test_is_reported(tmp_path: Path) -> None:
    low, high = pretraining.LEARNING_RATES
    for start, gain in (("pretrained", 0.1), ("scratch", 0.0)):
        put(tmp_path, "pretraining", f"tagging-{start}-{low:g}-1", {"dev": 0.5, "test": 0.99})
        for seed, test in ((1, 0.70), (2, 0.72), (3, 0.71)):
            values = {"dev": 0.6, "test": test + gain}
            put(tmp_path, "pretraining", f"tagging-{start}-{high:g}-{seed}", values)
    put(tmp_path, "pretraining", "linear-tagging", {"the word alone": 0.8, "same text": 0.75})
    table = pretraining_table(Results(tmp_path, "pretraining"))
    line = next(line for line in table.splitlines() if line.startswith("| tagging"))
    assert line == "| tagging | 81.0 (80.0 to 82.0) | 71.0 (70.0 to 72.0) | +10.0 | 75.0 | - | 3 |"


def test_a_comparison_is_decided_only_if_the_seeds_do_not_overlap() -> None:
    assert verdict([1.0, 1.1], [1.2, 1.3]) == "first"
    assert verdict([1.2, 1.3], [1.0, 1.1]) == "second"
    assert verdict([1.0, 1.25], [1.2, 1.3]) == "not decided"
    assert verdict([1.0], [1.2, 1.3]) == "too few runs"
    results = {f"a-seed{n}": {"loss": 2.0 + n} for n in (1, 2)}
    results |= {f"a-b-seed{n}": {"loss": 1.0 + n} for n in (1, 2)}
    assert losses(results, "a") == [3.0, 4.0]
    assert losses(results, "a a-b") == [2.0, 3.0]  # the better of two learning rates
    assert spread([3.0, 1.0, 2.0], digits=1) == "2.0 (1.0 to 3.0)"


def test_only_comparisons_with_both_sides_are_in_the_table() -> None:
    results = {f"base-seed{n}": {"loss": 5.0 + n / 10} for n in (1, 2, 3)}
    results |= {f"mask-15-seed{n}": {"loss": 5.5 + n / 10} for n in (1, 2)}
    lines = ablation_table(results).splitlines()[2:]
    assert lines == [
        "| mask 15 % and 30 % | 5.650 (5.600 to 5.700) | 5.200 (5.100 to 5.300) | second |"
    ]


def test_the_loss_is_met_between_two_evaluations() -> None:
    points = [(100, 5.0), (200, 4.0), (300, 3.0)]
    assert first_step_below(points, 4.5) == 150
    assert first_step_below(points, 6.0) == 100
    assert first_step_below(points, 2.0) is None


def test_blocks_of_the_page_are_replaced_and_text_stays(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "quality.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    for name, loss in (("scratch-2e-4", 3.5), ("scratch-5e-4", 3.0), ("continued", 2.5)):
        curve = [[16, 4.0], [32, loss]]
        values = {"heldout_loss": loss, "unigram_loss": 6.0, "curve": curve}
        put(tmp_path, "continued", name, values)
    put(tmp_path, "continued", "rows", {"loss": 3.0, "scratch_rows": 800, "continued_rows": 200})
    write(tmp_path, page)
    text = page.read_text()
    assert text.count("Text.\n") == 5
    assert "old" not in text
    assert "3.500 (learning rate 0.0002), 3.000 (learning rate 0.0005); unigram 6.000" in text
    assert "the lowest of these after 25% of the rows" in text
    assert "](images/quality_continued.png)\n" in text
    assert (page.parent / "images" / "quality_continued.png").exists()
    assert "quality_tasks.png" not in text  # has no results
    with pytest.raises(UserError, match="no block"):
        replaced("nothing", "data", "table", page)


def test_results_of_two_scales_do_not_mix(tmp_path: Path) -> None:
    check_scale(tmp_path / "studies", 0.5)
    check_scale(tmp_path / "studies", 0.5)
    with pytest.raises(UserError, match="another folder"):
        check_scale(tmp_path / "studies", 1.0)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A studies' folder with manifests, as far as configs are made from them."""
    for name, tokens in (("small", 1280), ("small-documents", 640)):
        folder = corpora.rows_folder(tmp_path, name)
        folder.mkdir(parents=True)
        splits = {"train": {"a": {"rows": 10, "tokens": tokens}}}
        (folder / "manifest.json").write_text(json.dumps({"splits": splits}))
    return tmp_path


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_configs_of_all_variants_are_valid(studies: Path, name: str) -> None:
    variant = ablations.VARIANTS[name]
    tree = ablations.variant_config(studies, variant, seed=2, scale=0.5)
    config = complete_config({"name": "x", "output": "x", **tree}, name)
    assert config.seed == 2
    if name == "doc-sentences":  # half as many tokens in a row, so twice the rows
        base = ablations.variant_config(studies, ablations.Variant(), seed=2, scale=0.5)
        assert tree["total_rows"] == 2 * base["total_rows"]


def test_the_network_from_scratch_is_that_of_the_continued_model() -> None:
    tree = continued.run_config(Path("rows"), Path("minilm"), "scratch-5e-4", scale=0.01)
    config = complete_config({"name": "x", "output": "x", **tree}, "scratch")
    assert config.model.ffn_hidden_size == 1536
    other = continued.run_config(Path("rows"), Path("minilm"), "continued", scale=0.01)
    different = {key for key in tree if tree[key] != other[key]}
    assert different == {"start", "model", "optimizer"}


def test_one_source_is_read_in_place_of_the_mixture(studies: Path) -> None:
    variant = ablations.VARIANTS["one-source-static"]
    data = ablations.variant_config(studies, variant, seed=1, scale=1)["data"]
    names = yaml.safe_load(Path(corpora.CONFIG).read_text())["sources"]
    sources = [SourceSize(name, rows=9, block_rows=9) for name in names]
    shares = mixture_shares(sources, data["weights"])
    assert sum(share > 0 for share in shares) == 1
    assert data["path"] == str(corpora.rows_folder(studies, "small"))


@pytest.mark.parametrize("name", corpora.CORPORA)
def test_configs_of_all_corpora_are_valid(tmp_path: Path, name: str) -> None:
    config = validate(corpora.data_config(tmp_path, name, workers=1), DataConfig, name)
    assert config.decontaminate is not None
    assert "tasks" in config.decontaminate.evaluation
    assert config.decontaminate.max_share == 0  # one n-gram is enough
    assert config.dedup.exact == corpora.CORPORA[name].dedup
    sources = config.sources if corpora.CORPORA[name].filters else ()
    assert all(config.filters_of(source).apply for source in sources)

"""What the command shows: text, one JSON object, one page."""

import json
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError
from pipeline.planning.json_plan import plan_json
from pipeline.planning.page import plan_page
from pipeline.planning.text import PART_WORDS, duration, text_lines
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import TrainConfig
from tests.pipeline.plan_lines import plan_of, report
from tests.pipeline.training_run import ROW_TOKENS, make_config, make_rows

ROOT = Path(__file__).parents[3]
MODEL = {
    "num_layers": 12,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "max_row_tokens": ROW_TOKENS,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, rows=64)
    return make_config(
        folder,
        folder / "run",
        model=MODEL,
        precision="bf16",
        total_rows=20 * 4096,
        batch={"global_rows": 4096, "micro_rows": 64},
    )


def test_the_text_is_short(config: TrainConfig) -> None:
    known = {"accelerator": "h100-80gb", "price_per_gpu_hour": 1000.0}
    lines = report(config, 1, 2, **known)
    assert len(lines) == 10
    assert lines[4].startswith("a step takes ")
    assert " on 2 x h100-80gb by count: matrix products " in lines[4]
    assert "computed tokens/s" in lines[5]
    assert " kWh of accelerators at their limit, price " in lines[5]
    assert lines[8].startswith("fastest layout that fits: batch.micro_rows=2048 (")
    assert lines[8].endswith(" % less time)")
    assert lines[9].startswith("accelerators are useful up to ")
    measured = report(config, 1, 2, tokens_per_s=1e6, accelerator="h100-80gb")
    assert " at 1,000,000 tokens/s an accelerator (" in measured[5]
    plain = report(config, 1, 2)
    assert plain[:4] == measured[:4]
    assert len(plain) == 5


def test_a_run_that_does_not_fit_names_one_that_does(config: TrainConfig) -> None:
    with pytest.raises(ConfigError) as error:
        plan_of(config, 1, 2, gpu_memory_gb=3.1, accelerator="h100-80gb")
    assert "the fastest layout that fits: " in str(error.value)
    with pytest.raises(ConfigError, match="no layout fits on --gpus-per-node 2; one fits on "):
        plan_of(config, 1, 2, gpu_memory_gb=2.55, accelerator="h100-80gb")


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"utilization": 0.0}, "--utilization 0: give a share above 0 and up to 1"),
        ({"utilization": 1.2}, "--utilization 1.2"),
        ({"price_per_gpu_hour": -1.0}, "--price-per-gpu-hour -1: give a number above 0"),
        ({"storage_gb_s": float("nan")}, "--storage-gb-s nan"),
        ({"tokens_per_s": float("inf")}, "--tokens-per-s inf"),
        ({"accelerator": "h100"}, "--accelerator h100: not in the table"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    config: TrainConfig, known: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        plan_of(config, 1, 1, **known)
    assert message in str(error.value)


def test_json_has_every_number(config: TrainConfig) -> None:
    plan = plan_of(config, 1, 2, accelerator="h100-80gb", price_per_gpu_hour=2.0)
    found = json.loads(plan_json(plan))
    assert found["tokens"] == 20 * 4096 * ROW_TOKENS
    assert found["memory_bytes"]["total"] == pytest.approx(plan.memory.total_gb * 1e9)
    (stage,) = found["stages"]
    assert set(stage["step_s"]) == {*PART_WORDS, "total"}
    assert stage["whole_s"]["total"] == pytest.approx(20 * stage["step_s"]["total"])
    hours = stage["whole_s"]["total"] / 3600
    assert found["cost"]["hours"] == pytest.approx(hours)
    assert found["cost"]["price"] == pytest.approx(4 * hours)
    compared = found["layouts"]["compared"]
    assert [one["refusal"] is None for one in compared].count(True) > 1
    assert found["scaling"]["points"][0]["accelerators"] == 1
    assert found["accelerator"]["figures"]["link_gb_s"]["kind"] == "measured"
    plain = json.loads(plan_json(plan_of(config, 1, 2)))
    assert plain["cost"] is plain["layouts"] is plain["accelerator"] is None


class _Links(HTMLParser):
    """The targets and sources of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.outside: list[str] = []
        self.inside: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name in ("href", "src") and value:
                (self.inside.add if value.startswith("#") else self.outside.append)(value)


def test_the_page_is_one_file_with_all_sections(config: TrainConfig) -> None:
    plan = plan_of(config, 1, 2, accelerator="h100-80gb", price_per_gpu_hour=2.0)
    text = plan_page(plan)
    links = _Links()
    links.feed(text)
    assert links.outside == []
    assert links.inside == {f"#{name}" for name in links.ids}
    assert links.ids == {"summary", "time", "memory", "cost", "layouts", "scaling", "rates"}
    assert text.count("<svg") == 4  # time, memory, layouts, scaling
    assert "fastest layout" in text
    assert plan.comparison is not None
    assert escape(plan.comparison.settings) in text
    assert all(escape(line.strip()) in text for line in text_lines(plan))
    small = plan_page(plan_of(config, 1, 2))
    assert 'id="layouts"' not in small


def test_a_name_with_markup_stays_text(config: TrainConfig) -> None:
    plan = plan_of(config.model_copy(update={"name": "<script>x</script>"}), 1, 2)
    assert "<script>x" not in plan_page(plan)


def test_the_command_writes_json_and_page(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "pipeline.plan", "configs/base.yaml", f"output={tmp_path / 'run'}"),
        *("--vocab-size", "50265", "--gpus-per-node", "8", "--accelerator", "h100-80gb"),
        *("--page", str(tmp_path / "plan.html"), "--json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layouts"]["overrides"]["batch.micro_rows"] == 128
    assert (tmp_path / "plan.html").read_text().startswith("<!doctype html>")
    wrong = subprocess.run(
        [*command, "--page", "plan.txt"], cwd=ROOT, capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "has to end with .html" in wrong.stderr


def test_durations_read_well() -> None:
    shown = [duration(seconds) for seconds in (0.0123, 3.21, 600, 7200, 90_000)]
    assert shown == ["12 ms", "3.2 s", "10 min", "2.0 h", "25.0 h"]


def test_rows_that_are_not_made_yet(config: TrainConfig) -> None:
    lines = report(config, 1, 2, assumed=AssumedRows(131), accelerator="h100-80gb")
    assert lines[0].startswith("assumed: ")
    assert any(line.startswith("fastest layout") for line in lines)

"""The suite of benchmarks: every module is there, and what each printed is kept."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.suite import BENCHMARKS, CORPUS, Benchmark, results_in, tables_in

OUTPUT = """[2026-11-29 10:30:52,100] [WARNING] [real_accelerator.py:213:get_accelerator] CPU
| tool | MB/s |
|---|---:|
| a | 1.5 |
| b | 2 |

ratio 3.7 %
"""


def test_every_benchmark_is_a_module_of_the_package() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert importlib.util.find_spec(f"benchmarks.{benchmark.module}"), name


def test_arguments_name_the_corpus_and_the_folder_of_the_benchmark(tmp_path: Path) -> None:
    benchmark = Benchmark("data_kill", (CORPUS, "--work", "WORK/x"), quick=("--kills", "1"))
    corpus = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    words = benchmark.command(tmp_path, corpus, is_quick=False)
    assert words[2:] == ["benchmarks.data_kill", *map(str, corpus), "--work", f"{tmp_path}/x"]
    assert benchmark.command(tmp_path, corpus, is_quick=True)[3:] == ["--kills", "1"]


def test_results_are_the_lines_and_tables_without_messages_of_libraries() -> None:
    lines = results_in(OUTPUT.splitlines())
    assert lines[0] == "| tool | MB/s |"
    assert lines[-1] == "ratio 3.7 %"
    assert tables_in(lines) == [[{"tool": "a", "MB/s": "1.5"}, {"tool": "b", "MB/s": "2"}]]


def test_a_benchmark_that_fails_is_named_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Script(Benchmark):
        def command(self, folder: Path, corpus: object, is_quick: bool) -> list[str]:
            return [sys.executable, "-c", self.arguments[0]]

    good = f"import sys; print({OUTPUT!r}); print('noise', file=sys.stderr)"
    scripts = {"bad": Script("x", ("raise SystemExit('no memory')",)), "good": Script("y", (good,))}
    monkeypatch.setattr(suite, "BENCHMARKS", scripts)
    monkeypatch.setattr(sys, "argv", ["suite", str(tmp_path)])
    assert suite.main() == 1
    shown = capsys.readouterr().out
    assert "1 of 2 benchmarks ran" in shown
    assert f"failed with 1: see {tmp_path}/bad.log" in shown
    assert "real_accelerator" not in shown
    assert (tmp_path / "bad.log").read_text() == "no memory\n"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["versions"]["torch"]
    found = results["benchmarks"]["good"]
    assert (found["exit_code"], found["tables"][0][1]) == (0, {"tool": "b", "MB/s": "2"})
    assert results["benchmarks"]["bad"]["exit_code"] == 1

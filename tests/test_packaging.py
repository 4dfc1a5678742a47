"""Tests that the project's metadata declare what the code imports, and that all of it is pinned."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OWN = ("configs", "data_prep", "model", "pipeline")
# Imported by benchmarks/*_peers.py, *_peer.py and *_engines.py only, in interpreters of their own.
PEERS = {"daft", "datasketch", "datatrove", "sentence_transformers", "duckdb", "polars"}


def _canonical(name: str) -> str:
    """The form of a distribution's name by which two spellings are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(requirements: list[str]) -> set[str]:
    """The distributions that requirement lines name."""
    matches = (re.match(r"[A-Za-z0-9._-]+", line) for line in requirements)
    return {_canonical(match[0]) for match in matches if match}


def _imported(folders: tuple[str, ...]) -> set[str]:
    """Top-level modules of installed packages that files in `folders` import."""
    found: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {*OWN, "tests", "benchmarks", "docs"}


def _undeclared(modules: set[str], declared: set[str]) -> dict[str, list[str]]:
    """The distributions of each module of which none is declared; an empty list: not installed."""
    owners = importlib.metadata.packages_distributions()
    found = {module: sorted(map(_canonical, owners.get(module, ()))) for module in modules}
    return {module: names for module, names in found.items() if declared.isdisjoint(names)}


def _project() -> Any:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _pins(name: str) -> set[str]:
    """The distributions that a requirements file pins."""
    lines = (ROOT / name).read_text().splitlines()
    assert all("==" in line for line in lines if line[:1].isalnum()), f"{name}: a line without =="
    return _names([line for line in lines if "==" in line])


def test_runtime_imports_are_declared() -> None:
    project = _project()
    declared = _names(project["dependencies"])
    declared |= _names(project["optional-dependencies"]["onnx"])  # imported late, by one option
    assert _undeclared(_imported(OWN), declared) == {}


def test_imports_of_tests_and_benchmarks_are_declared() -> None:
    project = _project()
    extras = project["optional-dependencies"]
    optional = [*extras["dev"], *extras["onnx"], *extras["s3"]]
    declared = _names(project["dependencies"] + optional)
    assert _undeclared(_imported(("tests", "benchmarks", "docs")) - PEERS, declared) == {}


def test_declared_packages_are_pinned() -> None:
    project = _project()
    extras = project["optional-dependencies"]
    runtime, development = _pins("requirements.txt"), _pins("requirements-dev.txt")
    assert _names(project["dependencies"]) | _names(extras["ui"]) <= runtime
    development_needs = _names(extras["dev"] + extras["onnx"] + extras["s3"]) - {
        _canonical(project["name"])
    }
    assert development_needs <= runtime | development
    assert runtime.isdisjoint(development)


def test_supported_pythons_agree() -> None:
    project = _project()
    classified = {line.rsplit(" ", 1)[1] for line in project["classifiers"] if ":: 3." in line}
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    matrix = re.search(r"python: \[(.*)\]", workflow)
    assert matrix
    assert project["requires-python"] == ">=3.11,<3.14"
    assert classified == {"3.11", "3.12", "3.13"} == set(re.findall(r"3\.\d+", matrix[1]))
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in classified


def test_versions_agree() -> None:
    version = _project()["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation


def test_paths_of_the_makefile_exist() -> None:
    """Else a target that names a folder that has moved fails where it is run, late in CI."""
    paths = re.findall(r"(?<!\S)((?:tests|configs|pipeline|benchmarks)/\S+)", _makefile())
    assert len(paths) >= 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_modules_of_the_makefile_exist() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", _makefile())) - {"pytest", "venv"}
    assert "data_prep.run" in modules
    missing = [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()]
    assert missing == []


def _makefile() -> str:
    return (ROOT / "Makefile").read_text()

"""Compiled functions are found again by other processes, and work where nothing can be kept."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_prep.kernels import build, compiled, tokens
from data_prep.kernels.compiled import Kernel

CODE = """
import numba
from data_prep.kernels import compiled, hashing
import numpy as np
print(hashing.mixed(np.array([1], dtype=np.uint64))[0])
print(compiled.cache_folder())
print(sum(hashing.mixed.compile().stats.cache_hits.values()))
"""


def run(**environment: str) -> list[str]:
    """What a process prints: a hash, the folder, and how often machine code was loaded."""
    variables = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=variables, capture_output=True, text=True, check=True
    )
    assert "Error" not in done.stderr
    return done.stdout.split()


def test_processes_that_start_together_share_the_code(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = list(pool.map(lambda _: run(NUMBA_CACHE_DIR=str(tmp_path)), range(3)))
    later = run(NUMBA_CACHE_DIR=str(tmp_path))
    assert {found[0] for found in [*first, later]} == {later[0]}
    assert {Path(found[1]).parent for found in first} == {tmp_path}
    assert later[2] == "1"


def test_without_a_place_each_process_compiles(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    assert run(NUMBA_CACHE_DIR=str(file))[1:] == ["None", "0"]


def test_damaged_code_is_compiled_again(tmp_path: Path) -> None:
    value, *_ = run(NUMBA_CACHE_DIR=str(tmp_path))
    files = list(tmp_path.rglob("*.nb?"))
    assert files
    for path in files:
        path.write_bytes(b"")
    assert run(NUMBA_CACHE_DIR=str(tmp_path))[0] == value


def test_building_ahead_leaves_nothing_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "numba"
    folder.mkdir()
    monkeypatch.setattr(build, "cache_folder", lambda: folder)
    compiled_ahead: list[Any] = []
    monkeypatch.setattr(Kernel, "compile", lambda kernel: compiled_ahead.append(kernel))
    build.build()
    assert compiled_ahead == list(build.kernels())
    assert tokens.tokens_of in compiled_ahead
    build.build()
    assert len(compiled_ahead) == len(list(build.kernels()))
    modules = {path.stem for path in Path(build.__file__).parent.glob("*.py")}
    used = {module.__name__.rpartition(".")[2] for module in build._MODULES}
    assert modules - used == {"__init__", "build", "characters", "compiled"}


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    private = tmp_path / "private"
    assert compiled._is_private(private)
    private.chmod(0o777)
    assert not compiled._is_private(private)
    (tmp_path / "link").symlink_to(private)
    assert not compiled._is_private(tmp_path / "link")


def test_the_folder_depends_on_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiled._version()
    (tmp_path / "other.py").write_text("")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    assert compiled._version() != before

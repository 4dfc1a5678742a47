"""Every recipe of docs/extending.md, applied to a copy of the code and run."""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forked import ForkedProcess

ROOT = Path(__file__).parents[2]
FOLDERS = ("configs", "data_prep", "model", "pipeline", "tests")
BLOCK = re.compile(r'^```(python|diff) title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block of the page: a new file, a change of a file, or the check."""

    language: str
    title: str
    content: str


def recipes() -> dict[str, list[Block]]:
    """The blocks under each heading of the page."""
    sections = re.split(r"^## ", (ROOT / "docs" / "extending.md").read_text(), flags=re.MULTILINE)
    found = {}
    for section in sections[1:]:
        heading = section.splitlines()[0]
        found[heading] = [Block(*match.groups()) for match in BLOCK.finditer(section)]
    return found


def apply_change(path: Path, change: str) -> None:
    """Replaces the lines of `change` that start with "-" or " " by those with "+" or " "."""
    lines = change.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(before) == 1, (
        f"{path}: the lines of the recipe stand there not once:\n{before}"
    )
    path.write_text(text.replace(before, after))


def test_a_change_replaces_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("one\ntwo\nthree\n")
    apply_change(path, " one\n-two\n+2\n+2.5\n")
    assert path.read_text() == "one\n2\n2.5\nthree\n"
    with pytest.raises(AssertionError, match="not once"):
        apply_change(path, " four\n+five\n")


def test_the_page_has_its_eight_recipes() -> None:
    assert len(recipes()) == 8
    for heading, blocks in recipes().items():
        titles = [block.title for block in blocks]
        assert titles.count("check") == 1, heading
        changes_code = any(block.language == "diff" for block in blocks)
        assert changes_code != ("of your own" in heading), heading
        new_files = [b for b in blocks if b.language == "python" and b.title != "check"]
        assert len(new_files) == 1, f"{heading}: one new file"


@pytest.mark.parametrize("heading", recipes())
def test_the_recipe_works_as_it_stands(heading: str, tmp_path: Path) -> None:
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    check = ""
    for block in recipes()[heading]:
        path = tmp_path / block.title
        if block.title == "check":
            check = block.content
        elif block.language == "diff":
            apply_change(path, block.content)
        else:
            assert not path.exists()
            path.write_text(block.content)
    done = ForkedProcess(lambda: run_check(check, tmp_path)).wait()
    assert done.returncode == 0, done.stderr


def run_check(check: str, folder: Path) -> None:
    """Runs code in `folder`, with the project's packages of that folder."""
    for name in list(sys.modules):
        if name.split(".")[0] in FOLDERS:
            del sys.modules[name]
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    exec(check, {"__name__": "__main__"})
    used = [sys.modules[name] for name in FOLDERS if name in sys.modules]
    assert used
    assert all(str(module.__file__).startswith(str(folder)) for module in used)

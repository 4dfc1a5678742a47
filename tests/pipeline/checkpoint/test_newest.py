"""Any damage is found, and the newest whole checkpoint is the one that all ranks take."""

import random
import shutil
from pathlib import Path

import pytest

from configs.load import UserError
from model.parallel.grid import make_grid
from pipeline.checkpoint.fragments import FRAGMENTS_NAME
from pipeline.checkpoint.manifest import MANIFEST_NAME, find_checkpoint, verify
from pipeline.checkpoint.newest import newest_checkpoint
from tests.gloo import run_ranks
from tests.pipeline.checkpoint.saving import save


def read_newest(folder: Path, tp_size: int) -> str:
    """The name of the newest checkpoint that the ranks agree on."""
    found = newest_checkpoint(folder, make_grid(tp_size))
    return "" if found is None else found.path.name


def test_all_ranks_verify_and_agree(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3, 4], tp_size=2, dp_size=2)
    damaged = sorted((tmp_path / "step-00000003").glob("*.safetensors"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (tmp_path / "step-00000004" / FRAGMENTS_NAME).unlink()
    for ranks in (1, 3):
        assert run_ranks(read_newest, ranks, tmp_path, 1) == ["step-00000002"] * ranks
    assert run_ranks(read_newest, 2, tmp_path / "none", 2) == ["", ""]


def test_every_flipped_byte_and_truncation_is_found(tmp_path: Path) -> None:
    save(tmp_path, [5], tp_size=2)
    whole = tmp_path / "step-00000005"
    files = sorted(whole.iterdir())
    assert len(files) == 4
    generator = random.Random(0)
    for trial in range(200):
        copy = tmp_path / f"copy-{trial}"
        shutil.copytree(whole, copy)
        victim = copy / generator.choice(files).name
        content = bytearray(victim.read_bytes())
        place = generator.randrange(len(content))
        if trial % 2:
            victim.write_bytes(content[:place])
        else:
            content[place] ^= 1 << generator.randrange(8)
            victim.write_bytes(content)
        with pytest.raises(UserError, match="damaged checkpoint"):
            verify(copy)
        shutil.rmtree(copy)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(tmp_path: Path) -> None:
    save(tmp_path, [1, 2], tp_size=1)
    part = next((tmp_path / "step-00000002").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.manifest.step == 1
    assert len(problems) == 1
    assert str(part) in problems[0]
    assert part.exists()


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, [1], tp_size=1)
    (tmp_path / "step-00000001" / MANIFEST_NAME).unlink()
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is None
    assert "not a checkpoint" in problems[0]

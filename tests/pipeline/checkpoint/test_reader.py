"""Any grid reads what any grid saved; tables and models that do not fit are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from configs.load import UserError
from model.parameters import ParameterSpec, shard_tensor
from pipeline.checkpoint.fragments import FRAGMENTS_NAME
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint, fragment_name, read_manifest
from pipeline.checkpoint.reader import TensorReader, check_checkpoint
from tests.pipeline.checkpoint.saving import (
    HIDDEN,
    SPECS,
    VOCAB_SIZE,
    full_tensors,
    make_manifest,
    make_whole,
    save,
)


@pytest.mark.parametrize("saved_at", [(1, 1), (2, 1), (4, 1), (1, 3), (2, 2), (4, 2)])
@pytest.mark.parametrize("is_whole", [False, True])
def test_any_grid_reads_what_any_grid_saved(
    tmp_path: Path, saved_at: tuple[int, int], is_whole: bool
) -> None:
    tp_size, dp_size = saved_at
    save(tmp_path, [3], tp_size, dp_size=dp_size)
    if is_whole:
        make_whole(tmp_path / "step-00000003", tp_size)
    checkpoint, problems = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert not problems
    assert len(checkpoint.manifest.files) == (tp_size if is_whole else tp_size * dp_size)
    reader = TensorReader(checkpoint)
    for name, full in full_tensors(3).items():
        spec = SPECS[name]
        assert torch.equal(reader.full("weight", name), full)
        for read_at in (1, 2, 4):
            for rank in range(read_at if spec.partition_dim is not None else 1):
                wanted = shard_tensor(spec, full, rank, read_at)
                found = reader.local("weight", name, spec, rank, read_at)
                assert torch.equal(found, wanted)
                flat = wanted.flatten()
                for start, end in ((0, len(flat)), (1, len(flat) // 2), (len(flat) - 1, len(flat))):
                    place = ((rank, read_at), start, end - start)
                    piece = reader.local_piece(("weight", name), spec, *place)
                    assert torch.equal(piece, flat[start:end])
                # ZeRO 3 pads the last piece, or has no element of a parameter on a rank.
                for start in (len(flat) - 1, len(flat), len(flat) + 3):
                    place = ((rank, read_at), start, 5)
                    piece = reader.local_piece(("weight", name), spec, *place)
                    expected = torch.zeros(5)
                    expected[: max(0, len(flat) - start)] = flat[start:]
                    assert torch.equal(piece, expected)


def test_a_rank_opens_only_the_files_that_hold_its_pieces(tmp_path: Path) -> None:
    save(tmp_path, [3], tp_size=2, dp_size=3)
    path = tmp_path / "step-00000003"
    own = fragment_name(2 + 1, 2, 3)  # data-parallel rank 1, tensor-parallel rank 1
    assert (path / own).exists()
    for part in path.glob("*.safetensors"):
        if part.name != own:
            part.unlink()
    reader = TensorReader(Checkpoint(path, read_manifest(path)))
    full = full_tensors(3)["down"]
    flat = shard_tensor(SPECS["down"], full, 1, 2).flatten()
    start, end = len(flat) // 3, 2 * len(flat) // 3
    place = ((1, 2), start, end - start)
    piece = reader.local_piece(("weight", "down"), SPECS["down"], *place)
    assert torch.equal(piece, flat[start:end])
    with pytest.raises(
        UserError, match=r"dp00000-of-00003\.safetensors: damaged checkpoint: No such"
    ):
        reader.local("weight", "down", SPECS["down"], 1, 2)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("down", lambda found: found[:-1], "elements are no slices|do not make"),
        ("down", lambda found: [], "do not make"),
        ("down", lambda found: [*found, found[0]], "are not there once"),
        ("down", lambda found: [[file, at + 1, n] for file, at, n in found], "not there once"),
        ("down", lambda found: [[file + 9, at, n] for file, at, n in found], "not in the manifest"),
        ("down", lambda found: [[-1, 0, 1]], "greater than or equal to 0"),
        ("norm", lambda found: [[1, 0, HIDDEN - 1]], "5 elements"),
        ("norm", lambda found: [[1, 0, HIDDEN + 1]], "7 elements"),
        ("norm", lambda found: [], "do not make"),
    ],
)
def test_tables_of_fragments_that_cannot_be_are_refused(
    tmp_path: Path,
    name: str,
    change: Callable[[list[list[int]]], list[list[int]]],
    message: str,
) -> None:
    """As someone could write them who knows the format."""
    save(tmp_path, [3], tp_size=1, dp_size=2)
    path = tmp_path / "step-00000003"
    table = json.loads((path / FRAGMENTS_NAME).read_text())
    table[name]["pieces"] = change(table[name]["pieces"])
    (path / FRAGMENTS_NAME).write_text(json.dumps(table))
    with pytest.raises(UserError, match=message):
        TensorReader(Checkpoint(path, read_manifest(path)))


def test_a_checkpoint_of_another_model_is_refused_difference_by_difference() -> None:
    specs = {
        "word": ParameterSpec((VOCAB_SIZE + 1, HIDDEN), 0),
        "norm": SPECS["norm"],
        "extra": ParameterSpec((3,), None),
    }
    with pytest.raises(UserError) as caught:
        check_checkpoint(make_manifest(4, 1), specs, "u")
    message = str(caught.value)
    assert "no parameter extra" in message
    assert "parameter down, which this model does not have" in message
    assert f"word has the shape [{VOCAB_SIZE}, {HIDDEN}], this model needs" in message
    assert "a different tokenizer" in message

"""Damaged and odd manifests of checkpoints end in messages."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.load import UserError
from pipeline.checkpoint.fragments import FRAGMENTS_NAME
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    Checkpoint,
    find_checkpoint,
    fragment_name,
    read_manifest,
    tree_sha256,
    verify,
)
from pipeline.checkpoint.reader import TensorReader
from pipeline.checkpoint.stored_model import stored_model
from tests.damage import Tree, changed_bytes, set_in
from tests.pipeline.checkpoint.saving import save


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(tmp_path, [3], tp_size=2)
    return tmp_path / "step-00000003"


def write_tree(checkpoint: Path, tree: Tree) -> None:
    """Writes `tree` as someone would who knows the format: with a sha256 that fits."""
    tree = {key: value for key, value in tree.items() if key != "sha256"}
    text = json.dumps({**tree, "sha256": tree_sha256(tree)})
    (checkpoint / MANIFEST_NAME).write_text(text)


def test_of_300_manifests_with_a_changed_byte_all_are_refused_or_equal(path: Path) -> None:
    manifest = read_manifest(path)
    file = path / MANIFEST_NAME
    content = file.read_bytes()
    harmless = 0
    for damaged in changed_bytes(content, seed=6):
        file.write_bytes(damaged)
        with contextlib.suppress(UserError):
            assert read_manifest(path) == manifest  # white space, at most
            harmless += 1
    assert harmless < 10


def second_file_is_the_first(tree: Tree) -> None:
    tree["files"][1] = tree["files"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("step", value=-3), "step: .*greater than or equal to 0"),
        (set_in("step", value=float("nan")), "step: .*finite number"),
        (set_in("step", value=10**30), "step: "),
        (set_in("consumed_rows", value=-1), "consumed_rows: "),
        (set_in("optimizer_step", value=1e300), "optimizer_step: "),
        (set_in("tp_size", value=0), "tp_size: .*greater than 0"),
        (set_in("tp_size", value=3), "2 tensor files, but 3 ranks wrote one each"),
        (set_in("dp_size", value=10**9), "dp_size: "),
        (set_in("zero_stage", value=7), "zero_stage: "),
        (set_in("vocab_size", value=-13), "vocab_size: "),
        (set_in("parameters", "word", "shape", value=[10**9, 10**9]), "weights of .* in files of"),
        (
            set_in("parameters", "word", "shape", value=[-13, 6]),
            "parameters.word.shape.0: .*greater than 0",
        ),
        (
            set_in("parameters", "word", "shape", value=[10**400]),
            ".*integer string|parameters.word.shape.0",
        ),
        (
            set_in("parameters", "word", "partition_dim", value=2),
            "parameters.word: partition_dim 2 of the shape",
        ),
        (
            set_in("parameters", "word", "partition_dim", value=-1),
            "parameters.word: partition_dim -1 of the shape",
        ),
        (set_in("segments", 0, "start_row", value=-1), "segments.0.start_row: "),
        (set_in("segments", 0, "weights", value={"a": float("nan")}), "segments.0.weights.a: "),
        (set_in("segments", 0, "weights", value={"a": -1.0}), "segments.0.weights.a: "),
        (set_in("skipped", value=[{"start_row": -4, "end_row": 4}]), "skipped.0.start_row: "),
        (set_in("loss_scale", value={"scale": float("nan")}), "loss_scale.scale: "),
        (set_in("files", 0, "path", value="../state"), "files.0.path: .*inside the folder"),
        (set_in("files", 0, "path", value="/etc/passwd"), "files.0.path: .*inside the folder"),
        (set_in("files", 0, "bytes", value=0), "files.0.bytes: "),
        (set_in("files", 0, "sha256", value="x"), "files.0.sha256: "),
        (second_file_is_the_first, "state-tp000-of-002-dp00000-of-00001.safetensors appears twice"),
        (set_in("config", value=None), "config: "),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    path: Path, change: Callable[[Tree], None], message: str
) -> None:
    tree = json.loads((path / MANIFEST_NAME).read_text())
    change(tree)
    write_tree(path, tree)
    with pytest.raises(
        UserError, match=f"{path.name}/manifest.json: damaged checkpoint: {message}"
    ):
        read_manifest(path)
    assert find_checkpoint(path.parent)[0] is None


def test_a_key_that_appears_twice_is_refused(path: Path) -> None:
    file = path / MANIFEST_NAME
    file.write_text('{"step": 1,' + file.read_text().lstrip()[1:])
    with pytest.raises(UserError, match="the key 'step' appears twice"):
        read_manifest(path)


@pytest.mark.parametrize("name", [MANIFEST_NAME, FRAGMENTS_NAME, fragment_name(1, 2, 1)])
@pytest.mark.parametrize("kind", ["fifo", "device", "link"])
def test_files_that_are_not_regular_or_lie_outside_are_refused(
    path: Path, name: str, kind: str
) -> None:
    file = path / name
    outside = path.parent / "outside"
    file.rename(outside)
    if kind == "fifo":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero" if kind == "device" else outside)
    if name == MANIFEST_NAME and kind == "link":
        return  # only the files that it names have to be in its folder
    with pytest.raises(UserError, match=r"not a regular file|outside of the folder"):
        verify(path)
    assert find_checkpoint(path.parent)[0] is None


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 10**9}, "num_layers"),
        ({"num_layers": 5000}, "describes a model of .* weights, but it holds"),
        ({"hidden_size": 10**5, "num_attention_heads": 1}, "describes a model of"),
        ({"hidden_size": 10**12, "num_attention_heads": 1}, "hidden_size"),
        ({"type_vocab_size": 10**15}, "type_vocab_size"),
        ({"num_layers": -1}, "num_layers"),
        ({"num_layers": None}, "num_layers"),
        ({"num_layers": float("nan")}, "num_layers"),
    ],
)
def test_a_config_of_a_larger_model_than_the_weights_is_refused(
    path: Path, sizes: Tree, message: str
) -> None:
    model = {"num_layers": 1, "hidden_size": 2, "num_attention_heads": 1, "max_row_tokens": 4}
    tree = json.loads((path / MANIFEST_NAME).read_text())
    write_tree(path, {**tree, "config": {"model": {**model, **sizes}}})
    with pytest.raises(UserError, match=message):
        stored_model(Checkpoint(path, read_manifest(path)))
    write_tree(path, {**tree, "config": {"model": model}})
    assert stored_model(Checkpoint(path, read_manifest(path))).num_layers == 1


def test_a_tensor_of_a_different_shape_than_the_manifests_is_refused(path: Path) -> None:
    tree = json.loads((path / MANIFEST_NAME).read_text())
    tree["parameters"]["down"]["shape"] = [4, 8]
    write_tree(path, tree)
    with pytest.raises(UserError, match=r"weight/down: the shapes .* do not make \(4, 8\)"):
        TensorReader(Checkpoint(path, read_manifest(path)))


def test_a_tensor_file_that_shrinks_is_named(path: Path) -> None:
    checkpoint, _ = find_checkpoint(path.parent)
    assert checkpoint is not None
    reader = TensorReader(checkpoint)
    file = path / checkpoint.manifest.files[0].path
    names = checkpoint.manifest.parameters
    reader.full("weight", next(iter(names)))
    os.truncate(file, file.stat().st_size - 200)
    with pytest.raises(UserError, match=r"state-tp000-of-002-.*\.safetensors: has no byte"):
        _ = [reader.full("weight", name) for name in names]
    with pytest.raises(UserError, match="bytes expected"):
        _ = [TensorReader(checkpoint).full("weight", name) for name in names]

"""The average of checkpoints: its bits, its lineage, and what is refused."""

import hashlib
import json
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from configs.load import UserError
from pipeline.averaging.average import average
from pipeline.averaging.sources import find_checkpoints, with_weights
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    Checkpoint,
    manifest_json,
    read_manifest,
    verify,
)
from pipeline.checkpoint.reader import TensorReader
from tests.pipeline.checkpoint.saving import SPECS, full_tensors, save

MODEL = {"num_layers": 1, "hidden_size": 6, "num_attention_heads": 2, "max_row_tokens": 16}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two runs, the second one tensor-parallel, with three checkpoints each."""
    folder = tmp_path_factory.mktemp("runs")
    for name, tp_size in (("one", 1), ("two", 2)):
        checkpoints = folder / name / "checkpoints"
        save(checkpoints, [1, 2, 3] if tp_size == 1 else [4, 5, 6], tp_size=tp_size)
        for path in checkpoints.iterdir():
            change(path, config={"model": MODEL})
    return folder / "one", folder / "two"


def change(path: Path, **fields: Any) -> None:
    """Replaces fields of the manifest of a checkpoint."""
    manifest = read_manifest(path).model_copy(update=fields)
    (path / MANIFEST_NAME).write_text(manifest_json(manifest))


def averaged(
    paths: list[Path],
    output: Path,
    last: int = 1,
    weights: list[float] | None = None,
    decay: float | None = None,
) -> Checkpoint:
    # The three parameters of these checkpoints are no whole model.
    with mock.patch("pipeline.checkpoint.stored_model.SLACK", 1e9):
        return average(with_weights(find_checkpoints(paths, last), weights, decay), output)


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    reader = TensorReader(checkpoint)
    return {name: reader.full("weight", name) for name in SPECS}


def assert_equal(checkpoint: Checkpoint, expected: dict[str, Any]) -> None:
    found = tensors_of(checkpoint)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert np.array_equal(tensor.numpy(), expected[name]), name


def test_the_average_of_a_checkpoint_with_itself_has_its_bits(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    one = runs[0] / "checkpoints" / "step-00000002"
    assert_equal(averaged([one], tmp_path / "alone"), full_tensors(2))
    copies = [tmp_path / f"copy-{number}" for number in range(3)]
    for copy in copies:
        copy.mkdir()
        for file in one.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    for number, weights in enumerate((None, [0.3, 0.1, 7.7])):
        result = averaged(copies, tmp_path / f"equal-{number}", weights=weights)
        assert_equal(result, full_tensors(2))
        file = result.path / result.manifest.files[0].path
        assert (
            file.read_bytes()
            == (tmp_path / "alone" / "checkpoints" / "step-00000002" / file.name).read_bytes()
        )
        assert load_file(file).keys() == {f"weight/{name}" for name in SPECS}


def test_averages_are_those_of_numpy_also_over_grids(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    def reference(weights: dict[int, float]) -> dict[str, Any]:
        return {
            name: np.average(
                [full_tensors(step)[name].numpy().astype(np.float64) for step in weights],
                axis=0,
                weights=list(weights.values()),
            ).astype(np.float32)
            for name in SPECS
        }

    one, two = runs
    halves = full_tensors(2), full_tensors(3)
    uniform = averaged([one], tmp_path / "uniform", last=2)
    assert_equal(uniform, {name: (halves[0][name] + halves[1][name]) / 2 for name in SPECS})
    both = averaged([one, two], tmp_path / "both", last=2)
    assert_equal(both, reference({2: 1, 3: 1, 5: 1, 6: 1}))
    decayed = averaged([two], tmp_path / "decayed", last=3, decay=0.5)
    assert_equal(decayed, reference({4: 0.25, 5: 0.5, 6: 1}))
    given = averaged([two / "checkpoints" / "step-00000004", one], tmp_path / "w", weights=[3, 1])
    assert_equal(given, reference({4: 3, 3: 1}))
    assert given.manifest.step == 4
    assert [(a.step, a.weight) for a in given.manifest.averaged or ()] == [(4, 0.75), (3, 0.25)]
    sources = [two / "checkpoints" / "step-00000004", one / "checkpoints" / "step-00000003"]
    for path, record in zip(sources, given.manifest.averaged or (), strict=True):
        assert record.path == str(path)
        assert record.sha256 == read_manifest(path).sha256
    assert verify(given.path).sha256 == given.manifest.sha256
    assert given.manifest.state_keys == ("weight",)
    assert "averaged" not in json.loads((sources[0] / MANIFEST_NAME).read_text())


def test_one_tensor_at_a_time_is_in_memory(runs: tuple[Path, Path], tmp_path: Path) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0
    full = TensorReader.full

    def counted(reader: TensorReader, key: str, name: str) -> Tensor:
        nonlocal most
        tensor = full(reader, key, name)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    with mock.patch.object(TensorReader, "full", counted):
        averaged(list(runs), tmp_path / "average", last=3)
    assert most <= 2


def test_different_models_are_refused_by_name(runs: tuple[Path, Path], tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tokenizer_sha256": "other"}, "the tokenizer is different"),
        ({"vocab_size": 12}, "the vocabulary has 12 tokens, not 13"),
        (
            {"config": {"model": {**MODEL, "activation": {"type": "gelu_tanh"}}}},
            "model.activation.type is 'gelu_tanh', not 'gelu'",
        ),
        ({"config": {"model": {**MODEL, "num_attention_heads": 3}}}, "model.num_attention_heads"),
        ({"config": {"model": MODEL, "tasks": {}}}, "of a fine-tuning run"),
    ]
    for number, (fields, message) in enumerate(cases):
        other = copied(runs[0] / "checkpoints" / "step-00000001", tmp_path / f"other-{number}")
        change(other, **fields)
        with pytest.raises(UserError, match=message) as error:
            averaged([runs[0], other], tmp_path / "average")
        assert str(other) in str(error.value)
        assert not (tmp_path / "average").exists()
    other = copied(runs[0] / "checkpoints" / "step-00000001", tmp_path / "renamed")
    parameters = read_manifest(other).parameters
    change(other, parameters={"words" if k == "word" else k: v for k, v in parameters.items()})
    with pytest.raises(UserError, match="parameter word is only in one of them"):
        averaged([runs[0], other], tmp_path / "average")


def copied(checkpoint: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_bad_arguments_are_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = runs
    for message, paths, settings in (
        ("neither a checkpoint nor", [tmp_path / "none"], {}),
        (r"has 3 checkpoints .*fewer than --last 4", [one], {"last": 4}),
        ("--last 0", [one], {"last": 0}),
        ("given twice", [one, one / "checkpoints" / "step-00000003"], {}),
        ("3 weights for 2 checkpoints", [one, two], {"weights": [1, 2, 3]}),
        ("each more than 0", [one, two], {"weights": [1, -1]}),
        ("each more than 0", [one, two], {"weights": [1, float("nan")]}),
        ("exclude each other", [one, two], {"weights": [1, 1], "decay": 0.5}),
        ("--decay 2", [one, two], {"decay": 2}),
    ):
        with pytest.raises(UserError, match=message):
            averaged(paths, tmp_path / "average", **settings)
    (tmp_path / "average").mkdir()
    with pytest.raises(UserError, match="exists already"):
        averaged([one], tmp_path / "average")


def replace_last_value(checkpoint: Path, value: str) -> None:
    """Replaces the last weight in the file of a checkpoint, and its hash in the manifest."""
    record = read_manifest(checkpoint).files[0]
    file = checkpoint / record.path
    content = file.read_bytes()[:-4] + np.float32(value).tobytes()
    file.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    change(checkpoint, files=(record.model_copy(update={"sha256": sha256}),))


def test_negative_zeros_stay(runs: tuple[Path, Path], tmp_path: Path) -> None:
    one = runs[0] / "checkpoints" / "step-00000001"
    same = [copied(one, tmp_path / name) for name in ("a", "b")]
    for path in same:
        replace_last_value(path, "-0.0")
    result = tensors_of(averaged(same, tmp_path / "average"))
    before = tensors_of(Checkpoint(same[0], read_manifest(same[0])))
    for name, tensor in before.items():
        assert result[name].numpy().tobytes() == tensor.numpy().tobytes()
    assert any(((t == 0) & t.signbit()).any() for t in before.values())


def test_damaged_checkpoints_and_weights_that_are_not_finite_are_refused(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = copied(runs[0] / "checkpoints" / "step-00000001", tmp_path / "other")
    file = other / read_manifest(other).files[0].path
    content = bytearray(file.read_bytes())
    content[-4:] = np.float32("nan").tobytes()
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged checkpoint"):
        averaged([other, runs[0]], tmp_path / "average")
    replace_last_value(other, "nan")
    with pytest.raises(UserError, match="not finite"):
        averaged([other, runs[0]], tmp_path / "average")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]

"""Tensors read by pread are those that the safetensors package reads; damage is an error."""

import contextlib
import os
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from configs.load import UserError
from data_prep.dataset.files import open_regular
from pipeline.checkpoint.tensor_file import TensorFile

TENSORS = {
    "matrix": torch.randn(7, 5),
    "cube": torch.randn(3, 4, 5).bfloat16(),
    "half": torch.randn(2, 9).half(),
    "ids": torch.arange(11),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "flags": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 4),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "state.safetensors", metadata={"format": "pt"})
    return tmp_path / "state.safetensors"


def test_every_tensor_and_slice_is_that_of_the_safetensors_package(path: Path) -> None:
    ours = TensorFile(open_regular(path))
    assert sorted(ours.names()) == sorted(TENSORS)
    with safe_open(path, framework="pt") as theirs:
        for name, tensor in TENSORS.items():
            assert ours.shape(name) == tuple(tensor.shape)
            assert ours.read(name).dtype == tensor.dtype
            assert torch.equal(ours.read(name), theirs.get_tensor(name))
            for dim, length in enumerate(tensor.shape):
                for start in range(length + 1):
                    for end in range(start, length + 1):
                        window = (*[slice(None)] * dim, slice(start, end))
                        piece = ours.read_slice(name, dim, start, end)
                        assert torch.equal(piece, tensor[window])


def test_a_name_that_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(UserError, match="no tensor weight/word"):
        TensorFile(open_regular(path)).read("weight/word")


def test_a_file_that_becomes_shorter_or_cannot_be_read_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = TensorFile(open_regular(path))
    size = path.stat().st_size
    os.truncate(path, size - 300)
    for name in ("matrix", "ids", "half"):
        with contextlib.suppress(UserError):
            assert torch.equal(file.read(name), TENSORS[name])
    os.truncate(path, 100)
    with pytest.raises(UserError, match=r"state\.safetensors: has no byte .*became shorter"):
        file.read_slice("matrix", 1, 1, 3)

    def fail(*_: object) -> int:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(UserError, match=r"safetensors: cannot be read at byte .*Input/output err"):
        file.read("matrix")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON mapping"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "greater than"),
        (b'{"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}', "'F64', 'F32'"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "4 bytes for the shape"),
        (
            b'{"a": {"dtype": "F32", "shape": [1000000000, 1000000000], "data_offsets": [0, 4]}}',
            "4 bytes for the shape",
        ),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "do not fill it"),
        (b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [4, 8]}}', "do not fill it"),
        (b'{"a": 1, "a": 1}', "appears twice"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_odd_headers_end_in_messages(tmp_path: Path, header: bytes, message: str) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: damaged.*{message}"):
        TensorFile(open_regular(path))


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\xff" * 7 + b"\x7f" + bytes(99)])
def test_headers_longer_than_the_file_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.safetensors"):
        TensorFile(open_regular(path))


def test_flipped_bytes_of_the_header_never_crash(path: Path) -> None:
    content = path.read_bytes()
    generator = random.Random(5)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(300):
        damaged = bytearray(content)
        damaged[generator.randrange(header)] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            file = TensorFile(open_regular(path))
            for name in file.names():
                file.read(name)

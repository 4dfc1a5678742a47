"""The files with the weights of a Hugging Face folder: first their headers, then their tensors."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from configs.load import UserError
from data_prep.dataset.files import path_inside, read_json

SAFETENSORS_NAME = "model.safetensors"
PICKLE_NAME = "pytorch_model.bin"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""safetensors' names of the number formats of weights; all others count as whole numbers."""


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files with weights in `folder`.

    Raises UserError where there are none, and for files that are outside of the folder.
    """
    return tuple(file_inside(folder, name) for name in _weight_names(folder))


def headers_of(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Every tensor in the files by name, on the device "meta": its shape and type, no memory.

    Raises UserError for a file that cannot be read, or that holds something else.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        if file.suffix == ".bin":
            found.update(_pickled(file, "meta"))
            continue
        try:
            with safe_open(file, framework="pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                found.update({name: _header(part) for name, part in slices.items()})
        except Exception as error:  # each library has its own for damaged files
            raise UserError(f"{file}: cannot be read: {error}") from None
    return found


def tensors_of(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """Every tensor in the files by name; raises UserError for a file that cannot be read."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        if file.suffix == ".bin":
            tensors.update(_pickled(file, "cpu"))
            continue
        try:
            with safe_open(file, framework="pt") as opened:
                tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        except Exception as error:  # each library has its own for damaged files
            raise UserError(f"{file}: cannot be read: {error}") from None
    return tensors


def number_format_errors(headers: Mapping[str, Tensor]) -> Iterator[str]:
    """A line for each tensor that is no weight: quantised ones, for example."""
    for name, tensor in headers.items():
        is_buffer = name.endswith(("position_ids", "token_type_ids"))
        if not tensor.is_floating_point() and not is_buffer:
            yield f"{name}: whole numbers, expected fp32, fp16 or bf16 (quantised weights?)"


def _header(part: Any) -> Tensor:
    dtype = _DTYPES.get(part.get_dtype(), torch.int64)
    return torch.empty(part.get_shape(), dtype=dtype, device="meta")


def _pickled(file: Path, device: str) -> dict[str, Tensor]:
    try:
        # weights_only: a pickle could run code otherwise.
        state: Any = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # as above
        raise UserError(f"{file}: cannot be read: {error}") from None
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{file}: holds something else than tensors by name")
    return dict(state)


def _weight_names(folder: Path) -> list[str]:
    """The names of the files with weights: safetensors, or older pickles; one file, or those of an
    index."""
    expected = [_names_of(folder, name) for name in (SAFETENSORS_NAME, PICKLE_NAME)]
    for names in expected:
        if all((folder / name).exists() for name in names):
            return names
    shown = ", or ".join(" and ".join(names) for names in expected)
    raise UserError(f"{folder}: no weights: expected {shown}")


def _names_of(folder: Path, name: str) -> list[str]:
    """`name`, or the names of the files that its index lists."""
    index = folder / f"{name}.index.json"
    if not index.exists():
        return [name]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: no weight_map with the files of the tensors")
    suffix = Path(name).suffix
    names = sorted({str(file) for file in weight_map.values()})
    for file in names:
        if Path(file).name != file or Path(file).suffix != suffix:
            kind = suffix.removeprefix(".")
            raise UserError(f"{index}: {file!r} is no name of a {kind} file beside it")
    return names


def file_inside(folder: Path, name: str) -> Path:
    """The regular file `name` in `folder`; raises UserError if it is none or leads elsewhere.

    In a cache of the Hugging Face hub, the files of a snapshot are links to the folder of blobs of
    the same model.
    """
    root = folder.absolute()
    is_cached = root.parent.name == "snapshots" and (root.parent.parent / "blobs").is_dir()
    cache = root.parent.parent if is_cached else root
    path = path_inside(cache, str((root / name).relative_to(cache)))
    if not path.is_file():
        raise UserError(f"{folder / name}: not a regular file")
    return folder / name

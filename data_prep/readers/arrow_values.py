"""Values of Arrow arrays as Python objects, with strings and binary as bytes.

Arrow's own conversion fails for a whole array if one string is not UTF-8, repeats every value of a
dictionary, and does not check what it reads. Here strings are bytes, values of dictionaries are
shared, and what is damaged raises `pa.ArrowInvalid`.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

_BYTES = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
    pa.types.is_fixed_size_binary,
)
_VIEWS = (pa.types.is_string_view, pa.types.is_binary_view)
_OFFSET_LISTS = (pa.types.is_list, pa.types.is_large_list)
_VIEW_LISTS = (pa.types.is_list_view, pa.types.is_large_list_view)
_LISTS = (*_OFFSET_LISTS, *_VIEW_LISTS, pa.types.is_fixed_size_list)

_FEW_USED = 4
"""Share of a dictionary below which its values are converted one by one, as 1 / _FEW_USED."""


def is_bytes(kind: pa.DataType) -> bool:
    """Whether the values of a type are strings or binary."""
    return any(test(kind) for test in _BYTES)


def is_list(kind: pa.DataType) -> bool:
    """Whether the values of a type are lists of any kind."""
    return any(test(kind) for test in _LISTS)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, without extension, dictionary or run-end encoding."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def values_of(array: pa.Array) -> Iterator[Any]:
    """The values, nulls as None. Raises pa.ArrowInvalid where the array is damaged."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if is_bytes(kind):
        return iter(_bytes_in(array))
    if pa.types.is_dictionary(kind):
        return _dictionary_values(array)
    if pa.types.is_run_end_encoded(kind):
        return _repeated_values(array)
    if pa.types.is_struct(kind):
        return _objects(array)
    if is_list(kind):
        return _lists(array)
    return _other_values(array)


def text_values(array: pa.Array) -> Iterator[Any]:
    """The values, as in `values_of`, with strings as str: bytes that are not UTF-8 are escaped."""
    return map(_with_text, values_of(array))


def _bytes_in(array: pa.Array) -> list[Any]:
    kind = array.type
    is_large = pa.types.is_large_string(kind) or any(test(kind) for test in _VIEWS)
    if any(test(kind) for test in _VIEWS):
        array.validate()
    content = array.cast(pa.large_binary() if is_large else pa.binary())
    content.validate(full=True)
    values: list[Any] = content.to_pylist()
    return values


def _dictionary_values(array: pa.Array) -> Iterator[Any]:
    array.indices.validate(full=True)
    indices, dictionary = array.indices.to_pylist(), array.dictionary
    used = {index for index in indices if index is not None}
    if any(not 0 <= index < len(dictionary) for index in used):
        raise pa.ArrowInvalid(f"an index beyond the {len(dictionary)} values of a dictionary")
    values: Any = {None: None}
    if len(used) * _FEW_USED < len(dictionary):
        values |= {index: next(values_of(dictionary.slice(index, 1))) for index in used}
    else:
        values |= enumerate(values_of(dictionary))
    yield from map(values.__getitem__, indices)


def _repeated_values(array: pa.Array) -> Iterator[Any]:
    array.validate(full=False)
    first, count = array.find_physical_offset(), array.find_physical_length()
    values = list(values_of(array.values.slice(first, count)))
    ends = array.run_ends.slice(first, count).to_pylist()
    run = 0
    for row in range(array.offset, array.offset + len(array)):
        while run < len(ends) and ends[run] <= row:
            run += 1
        if run == len(values):
            raise pa.ArrowInvalid("the runs end before the array")
        yield values[run]


def _objects(array: pa.Array) -> Iterator[Any]:
    array.validate()
    names = [array.type.field(number).name for number in range(array.type.num_fields)]
    columns = [values_of(column) for column in array.flatten()]
    rows = zip(*columns, strict=True) if columns else iter([()] * len(array))
    for is_valid, row in zip(array.is_valid().to_pylist(), rows, strict=True):
        yield dict(zip(names, row, strict=True)) if is_valid else None


def _lists(array: pa.Array) -> Iterator[Any]:
    array.validate()
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        starts = [(array.offset + row) * size for row in range(len(array))]
        ends = [start + size for start in starts]
    elif any(test(kind) for test in _VIEW_LISTS):
        starts = array.offsets.to_pylist()
        ends = [a + size for a, size in zip(starts, array.sizes.to_pylist(), strict=True)]
    else:
        offsets = array.offsets.to_pylist()
        starts, ends = offsets[:-1], offsets[1:]
    are_valid = array.is_valid().to_pylist()
    used = [(a, b) for a, b, valid in zip(starts, ends, are_valid, strict=True) if valid and b > a]
    first, last = min((a for a, _ in used), default=0), max((b for _, b in used), default=0)
    if first < 0 or last > len(array.values):
        raise pa.ArrowInvalid("a list reaches beyond its values")
    values = list(values_of(array.values.slice(first, last - first)))
    for start, end, valid in zip(starts, ends, are_valid, strict=True):
        yield values[max(start - first, 0) : max(end - first, 0)] if valid else None


def _other_values(array: pa.Array) -> Iterator[Any]:
    array.validate()
    try:
        yield from array.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        yield from map(_value_of, array)


def _value_of(scalar: Any) -> Any:
    """A value, or what Arrow writes for one that Python has no type for, such as nanoseconds."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return str(scalar)


def _with_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_with_text(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _with_text(inner) for name, inner in value.items()}
    return value

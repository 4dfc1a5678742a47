"""Where a field is in an Arrow schema: a column, or a dotted path into it, as in `fields`."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from configs.load import UserError
from data_prep.readers.arrow_values import is_bytes, is_list, plain_type

_MOST_DEPTH = 8


class ArrowPath(NamedTuple):
    """A column, and a path into its values."""

    column: str
    inner: str
    """Empty if the column is the field."""
    type: pa.DataType
    """Of the field."""
    parquet_prefix: str
    """What selects the column, or the part of it that is needed, in a Parquet file."""

    def array(self, batch: pa.RecordBatch) -> tuple[pa.Array, str]:
        """(the array of the field, or one around it; the path into its values) in a batch."""
        array, inner = batch.column(self.column), self.inner
        while inner:
            if isinstance(array, pa.ExtensionArray):
                array = array.storage
            if not pa.types.is_struct(array.type):
                break
            array.validate()
            number, inner = next(_steps(array.type, inner))
            array = array.flatten()[number]
        return array, inner


def find_field(schema: pa.Schema, path: str, where: str) -> ArrowPath | None:
    """The place of the field `path` in a schema; None if it has none.

    Raises UserError, which names the file `where`, if there are two columns of this name.
    """
    for name, inner in _splits(path):
        numbers = schema.get_all_field_indices(name)
        if len(numbers) > 1:
            raise UserError(f"{where}: has {len(numbers)} columns named {name!r}; rename them")
        if numbers:
            outer = schema.field(numbers[0]).type
            kind = _type_at(outer, inner)
            if kind is not None:
                is_whole = _is_through_lists(outer, inner)
                prefix = name if is_whole or not inner else f"{name}.{inner}"
                return ArrowPath(name, inner, kind, prefix)
    return None


def is_text(kind: pa.DataType) -> bool:
    """Whether the values of a type are texts, binary, or lists of these."""
    kind, element = plain_type(kind), _element(kind)
    return is_bytes(element) or (is_list(kind) and pa.types.is_null(element))


def text_fields(schema: pa.Schema) -> list[str]:
    """The names, or dotted paths, of all fields with text."""
    return [path for field in schema for path in _text_fields(field.name, field.type, _MOST_DEPTH)]


def _text_fields(path: str, kind: pa.DataType, depth: int) -> Iterator[str]:
    if is_text(kind):
        yield path
        return
    kind = _element(kind)
    if pa.types.is_struct(kind) and depth:
        for field in _children(kind):
            yield from _text_fields(f"{path}.{field.name}", field.type, depth - 1)


def _element(kind: pa.DataType) -> pa.DataType:
    """The type within lists, of any depth."""
    kind = plain_type(kind)
    while is_list(kind):
        kind = plain_type(kind.value_type)
    return kind


def _is_through_lists(kind: pa.DataType, path: str) -> bool:
    """Whether `path`, which exists, leads through lists."""
    while path and pa.types.is_struct(kind):
        number, path = next(_steps(kind, path))
        kind = kind.field(number).type
    return bool(path)


def _type_at(kind: pa.DataType, path: str) -> pa.DataType | None:
    """The type of what `path` leads to within values of a type; None if it leads nowhere."""
    if not path:
        return kind
    kind = plain_type(kind)
    if is_list(kind):
        first, _, rest = path.partition(".")
        if first.isdecimal():
            return _type_at(kind.value_type, rest)
        inner = _type_at(kind.value_type, path)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(kind):
        number, rest = next(_steps(kind, path), (-1, ""))
        return None if number < 0 else _type_at(kind.field(number).type, rest)
    return None


def _steps(kind: pa.DataType, path: str) -> Iterator[tuple[int, str]]:
    """(number of a field of a struct, the path into it) for each way in which `path` leads on."""
    names = [field.name for field in _children(kind)]
    for name, inner in _splits(path):
        if name in names:
            number = names.index(name)
            if _type_at(kind.field(number).type, inner) is not None:
                yield number, inner


def _splits(path: str) -> Iterator[tuple[str, str]]:
    """(name, path within it): all of `path` first, then its shortest start."""
    yield path, ""
    names = path.split(".")
    for number in range(1, len(names)):
        yield ".".join(names[:number]), ".".join(names[number:])


def _children(kind: pa.DataType) -> Sequence[pa.Field]:
    return [kind.field(number) for number in range(kind.num_fields)]

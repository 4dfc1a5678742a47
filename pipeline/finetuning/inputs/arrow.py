"""Parquet and Arrow files, those of Hugging Face `datasets` included, read without that library.

`datasets` stores the names of classes with the schema; numbers of such a column become the names.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.load import Config, UserError
from pipeline.finetuning.inputs.fields import Fields
from pipeline.finetuning.inputs.json_files import record_of
from pipeline.finetuning.inputs.record import Record

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1024
_NO_CLASS = -1
"""What `datasets` stores where a class is not known, in test sets for example."""


class Parquet(Config):
    """Parquet files."""

    type: Literal["parquet"] = "parquet"

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The rows of a file."""
        import pyarrow.parquet as pq

        with _errors_named(path), pq.ParquetFile(path) as file:
            named = fields.named(file.schema_arrow.names, str(path))
            batches = file.iter_batches(_BATCH_ROWS, columns=named.roots(file.schema_arrow.names))
            yield from _records(batches, file.schema_arrow, named)


class Arrow(Config):
    """Arrow files in the stream format, as `datasets` saves, or in the file format (Feather)."""

    type: Literal["arrow"] = "arrow"

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The rows of a file."""
        import pyarrow as pa

        with _errors_named(path), pa.memory_map(str(path)) as mapped:
            is_stream = mapped.read(6) != b"ARROW1"
            mapped.seek(0)
            reader = pa.ipc.open_stream(mapped) if is_stream else pa.ipc.open_file(mapped)
            named = fields.named(reader.schema.names, str(path))
            roots = named.roots(reader.schema.names)
            numbers = range(0 if is_stream else reader.num_record_batches)
            batches = iter(reader) if is_stream else map(reader.get_batch, numbers)
            yield from _records((b.select(roots) for b in batches), reader.schema, named)


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _records(
    batches: "Iterator[pa.RecordBatch]", schema: "pa.Schema", fields: Fields
) -> Iterator[Record]:
    classes = class_names(schema)
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            for name, named in classes.items():
                if name in row:
                    row[name] = named(row[name])
            yield record_of(f"row {number}", row, fields)


def class_names(schema: "pa.Schema") -> dict[str, Callable[[Any], Any]]:
    """By column that holds numbers of classes, what gives their names: None for no class."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = dict(stored["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}
    found = {name: _names_in(feature) for name, feature in features.items()}
    return {name: _naming(names) for name, names in found.items() if names}


def _names_in(feature: Any) -> Sequence[str] | None:
    """The classes of a feature, or of the items of a list."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names_in(feature[0])
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return names if isinstance(names, list) else None
    return _names_in(feature.get("feature"))


def _naming(names: Sequence[str]) -> Callable[[Any], Any]:
    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(item) for item in value]
        if type(value) is int and 0 <= value < len(names):
            return names[value]
        return None if value == _NO_CLASS else value

    return named

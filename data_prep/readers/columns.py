"""Documents out of Arrow tables: what the columnar formats share."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from configs.load import UserError
from data_prep.readers.document import BadRecords, Document, decoded


def check_columns(schema: pa.Schema, path: str, text_field: str, id_field: str | None) -> None:
    """UserError unless `schema` has the columns, and text in the text column."""
    for name in filter(None, (text_field, id_field)):
        if name not in schema.names:
            raise UserError(
                f"{path}: no column {name!r}; it has {', '.join(schema.names)}: set the reader's "
                "text_field and id_field"
            )
    kind = schema.field(text_field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{path}: the column {text_field!r} holds {kind}, not text")


def documents_in(
    batch: pa.RecordBatch,
    first_row: int,
    path: str,
    name: str,
    fields: tuple[str, str | None],
    bad: BadRecords,
) -> Iterator[Document]:
    """The documents of a batch whose first row is the file's `first_row`; pa.ArrowInvalid where its
    columns are damaged, which Arrow does not look for by itself."""
    text_field, id_field = fields
    texts = batch.column(text_field)
    kind = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    contents = texts.cast(kind)
    contents.validate(full=True)
    ids: list[Any] = [None] * len(texts)
    if id_field:
        batch.column(id_field).validate(full=True)
        ids = batch.column(id_field).to_pylist()
    for row, (content, own_id) in enumerate(zip(contents.to_pylist(), ids, strict=True), first_row):
        if content is None:
            bad.add(path, row, f"the field {text_field!r} is missing")
            continue
        text = decoded(content, path, row, bad)
        if text is not None:
            yield Document(text, f"{name}:{row}" if own_id is None else str(own_id), row)

"""The `pack` section of a data config."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.load import Config


class OrderBySource(Config):
    """Neighbours in the source are packed together."""

    type: Literal["source"] = "source"


class OrderByField(Config):
    """Documents with equal values of a field are packed together, in the order of the source."""

    type: Literal["field"] = "field"
    field: str = Field(min_length=1)
    """One of the `metadata_fields` of the readers, such as the name of a repository or the id of a
    thread. Documents without it are counted, and come last."""


OrderBy = Annotated[OrderBySource | OrderByField, Field(discriminator="type")]


class PackConfig(Config):
    """How documents are put into rows (packed sequences)."""

    mode: Literal["full_sentences", "doc_sentences", "best_fit"] = "full_sentences"
    """Sequence packing. full_sentences: rows are filled with text that runs on across documents;
    doc_sentences: a row holds (a piece of) one document; best_fit: whole documents, or pieces of
    long ones, are placed where they fit best."""
    mixed: bool = False
    """Rows hold documents of all sources, evenly interleaved, as the one source ``mixed``; else
    every source has its own rows, which training can weight."""
    order_by: OrderBy | None = None
    """Which documents share rows: those of neighbouring places, or with the same field, so that
    training sees related documents in one row. null: as the mode has it (full_sentences: by
    source; best_fit: by length). Not with doc_sentences, whose rows hold one document, nor with
    `mixed`."""
    row_tokens: int = Field(default=512, ge=8, le=8192)
    """Ids in a row, the sequence length."""
    block_rows: int = Field(default=256, ge=1, le=1024)
    """Rows in a block (a sample of a shard)."""
    shard_mb: int = Field(default=256, ge=1)
    """Size of a shard, MB."""

    @property
    def order_field(self) -> str | None:
        """The field that documents are ordered by, if there is one."""
        return self.order_by.field if isinstance(self.order_by, OrderByField) else None

    @model_validator(mode="after")
    def _order_has_an_effect(self) -> Self:
        if self.order_by is not None and self.mode == "doc_sentences":
            raise ValueError(
                "order_by does not go with mode doc_sentences, whose rows hold one document each: "
                "set mode full_sentences or best_fit"
            )
        if self.order_by is not None and self.mixed:
            raise ValueError(
                "order_by does not go with mixed: true, which puts documents of all sources next "
                "to each other: set mixed: false, and the weights of the sources in training"
            )
        return self

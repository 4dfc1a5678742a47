"""The `pack` section of a data config."""

from typing import Literal

from pydantic import Field

from configs.load import Config


class PackConfig(Config):
    """How documents are put into rows (packed sequences)."""

    mode: Literal["full_sentences", "doc_sentences", "best_fit"] = "full_sentences"
    """Sequence packing. full_sentences: rows are filled with text that runs on across documents;
    doc_sentences: a row holds (a piece of) one document; best_fit: whole documents, or pieces of
    long ones, are placed where they fit best."""
    mixed: bool = False
    """Rows hold documents of all sources, evenly interleaved, as the one source ``mixed``; else
    every source has its own rows, which training can weight."""
    row_tokens: int = Field(default=512, ge=8, le=8192)
    """Ids in a row, the sequence length."""
    block_rows: int = Field(default=256, ge=1, le=1024)
    """Rows in a block (a sample of a shard)."""
    shard_mb: int = Field(default=256, ge=1)
    """Size of a shard, MB."""

"""Writes data sets of synthetic rows, for tests and benchmarks."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.dataset.manifest import (
    Manifest,
    SourceRows,
    SpecialTokens,
    Split,
    TokenizerFile,
    file_sha256,
    write_manifest,
)
from data_prep.dataset.shard_writer import ShardWriter

BOS, EOS = 0, 2
"""Ids of the first and the last token of a row."""
FIRST_ID = 4
"""The lowest id that is no special token."""

Rows = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class SyntheticSource:
    """The rows of one source in one split."""

    split: Split
    name: str
    rows: Iterable[Rows]
    """Blocks of rows: [block_rows, row_tokens], the last block may have fewer rows."""


def write_data_set(
    folder: Path,
    sources: Iterable[SyntheticSource],
    *,
    row_tokens: int,
    vocab_size: int,
    block_rows: int,
    tokenizer: str = "{}",
) -> Manifest:
    """A data set with one shard per source and split, every row a document; `tokenizer` is the
    content of tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_file = folder / "tokenizer.json"
    tokenizer_file.write_text(tokenizer)
    splits: dict[str, dict[str, SourceRows]] = {"train": {}, "heldout": {}}
    for source in sources:
        path = f"{source.split}/{source.name}.tar"
        num_rows = 0
        with ShardWriter(folder, path, source.split, source.name, 0, "uint16") as writer:
            for block in source.rows:
                block[:, 0], block[:, -1] = BOS, EOS
                writer.write_block(block)
                num_rows += len(block)
        assert writer.shard is not None
        splits[source.split][source.name] = SourceRows(
            rows=num_rows,
            documents=num_rows,
            tokens=num_rows * (row_tokens - 2),
            block_rows=block_rows,
            shards=(writer.shard,),
        )
    manifest = Manifest(
        format_version=1,
        row_tokens=row_tokens,
        vocab_size=vocab_size,
        dtype="uint16",
        packing="full_sentences",
        tokenizer=TokenizerFile(path=tokenizer_file.name, sha256=file_sha256(tokenizer_file)),
        special_tokens=SpecialTokens(bos=BOS, pad=1, eos=EOS, unk=3, mask=vocab_size - 1),
        stages={},
        splits=splits,
    )
    write_manifest(folder, manifest)
    return manifest

"""A data set that does not exist yet, of which only the sizes are known: for the planner."""

from dataclasses import dataclass

from data_prep.dataset.manifest import (
    FORMAT_VERSION,
    Manifest,
    Shard,
    SourceRows,
    SpecialTokens,
    TokenizerFile,
)
from pipeline.run.phases import PhaseConfig

MIN_VOCAB_SIZE = 8
"""Five special tokens, and some to predict."""
ROWS = 1 << 30
"""Rows of every source; no part of the plan depends on it."""


@dataclass(frozen=True)
class AssumedRows:
    """What is assumed of the rows of all phases."""

    vocab_size: int
    """Ids of the tokenizer, at least `MIN_VOCAB_SIZE`."""
    row_tokens: int | None = None
    """Tokens of a row; None: as many as the positions of the phase's model."""

    def manifest(self, phase: PhaseConfig) -> Manifest:
        """The manifest of such rows: the sources that `data.weights` names, or a single one, and
        special tokens with the padding id of the model."""
        row_tokens = self.row_tokens or phase.model.max_row_tokens
        names = sorted(phase.data.weights or {"assumed": 1.0})
        pad = phase.model.pad_token_id
        bos, eos, unk, mask = [number for number in range(5) if number != pad][:4]
        dtype = "uint16" if self.vocab_size <= 1 << 16 else "uint32"
        sources = {
            name: SourceRows(
                rows=ROWS,
                documents=0,
                tokens=0,
                block_rows=ROWS,
                shards=(
                    Shard(
                        path=f"assumed-{number}.tar",
                        bytes=ROWS * row_tokens * 4,
                        sha256="0" * 64,
                        rows=ROWS,
                        block_offsets=(0,),
                    ),
                ),
            )
            for number, name in enumerate(names)
        }
        return Manifest(
            format_version=FORMAT_VERSION,
            row_tokens=row_tokens,
            vocab_size=self.vocab_size,
            dtype=dtype,
            packing="full_sentences",
            tokenizer=TokenizerFile(path="tokenizer.json", sha256="0" * 64),
            special_tokens=SpecialTokens(bos=bos, pad=pad, eos=eos, unk=unk, mask=mask),
            stages={},
            splits={"train": sources, "heldout": {}},
        )

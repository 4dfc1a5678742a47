"""The stage that assigns the pieces of documents to rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.atomic import save_array
from data_prep.dataset.manifest import Split
from data_prep.engine.stage import Part, PartOutput, Stage, StageResult
from data_prep.packing.config import PackConfig
from data_prep.packing.id_stream import KeyedStream
from data_prep.packing.order_keys import NO_KEY
from data_prep.packing.placement import PACKERS, grouped_best_fit
from data_prep.packing.streams import Streams

BUFFER_DOCUMENTS = 50_000
"""Documents that are placed together: never more in memory, and the same whatever the parts."""


@dataclass(frozen=True, kw_only=True)
class LayoutPart(Part):
    """The documents [first, end) of a stream: one buffer."""

    split: Split
    source: str
    first: int
    end: int

    def plan(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "source": self.source,
            "first": self.first,
            "last": self.end,
        }


@dataclass(frozen=True, kw_only=True)
class LayoutStage(Stage[LayoutPart]):
    """Assigns pieces of documents to rows (`best_fit`, `doc_sentences`)."""

    name = "layout"
    version = 1
    output = "placements"

    mode: str
    row_tokens: int
    order_by: str | None = None
    """The type of `pack.order_by`, for best_fit."""
    streams: Streams

    @property
    def settings(self) -> Mapping[str, Any]:
        most = dict(self.streams.max_tokens)
        settings = {"mode": self.mode, "row_tokens": self.row_tokens, "buffer": BUFFER_DOCUMENTS}
        settings |= {"order_by": self.order_by} if self.order_by else {}
        return {**settings, "max_tokens": most} if most else settings

    def inputs_for(self, part: LayoutPart) -> Mapping[str, str]:
        return {"stream": self.streams.contents[part.split, part.source]}

    def run_part(self, folder: Path, part: LayoutPart) -> PartOutput:
        """Writes PART.placements.npy [4, pieces]."""
        stream = self.streams.open(part.split, part.source)
        lengths, starts = stream.documents(part.first, part.end)
        if self.order_by is None:
            placements = PACKERS[self.mode](lengths, starts, self.row_tokens)
        else:
            groups = np.zeros(len(lengths), np.int64)  # of one source
            if isinstance(stream, KeyedStream):
                keys = stream.groups(part.first, part.end)
                groups = np.where(keys == NO_KEY, -1, (keys >> np.uint64(1)).astype(np.int64))
            placements = grouped_best_fit(lengths, starts, groups, self.row_tokens)
        save_array(folder / f"{part.name}.placements.npy", np.stack(placements))
        counts = {"rows": placements.num_rows, "pieces": len(placements.row)}
        return PartOutput(counts, [f"{part.name}.placements.npy"])


def layout_stage(
    streamed: StageResult[Part], streamed_by: str, config: PackConfig, streams: Streams
) -> LayoutStage:
    """A part for each buffer of documents; no parts for full_sentences, which needs no placements.

    `streamed` is the result of the stage `streamed_by` that made the streams.
    """
    parts = []
    if config.mode in PACKERS:
        for (split, source), segments in streams.packed.items():
            documents = sum(segment.documents for segment in segments)
            for number, first in enumerate(range(0, documents, BUFFER_DOCUMENTS)):
                parts.append(
                    LayoutPart(
                        name=f"{split}-{source}-{number:06d}",
                        split=split,
                        source=source,
                        first=first,
                        end=min(first + BUFFER_DOCUMENTS, documents),
                    )
                )
    return LayoutStage(
        parts=parts,
        inputs={streamed_by: streamed.content_fingerprint},
        mode=config.mode,
        row_tokens=config.row_tokens,
        order_by=config.order_by.type if config.order_by and config.mode == "best_fit" else None,
        streams=streams,
    )

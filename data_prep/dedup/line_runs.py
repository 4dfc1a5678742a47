"""The lines of many files merged to few sorted files.

A range of hashes reads a slice of every file of lines. Files and ranges both grow with a source, so
their product would grow with its square. A source of many files is merged first: then a range reads
a slice of few files, whatever the size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.atomic import open_atomic, start_array
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.sorted_files import SortedFiles
from data_prep.documents.files import DocumentFile
from data_prep.engine.stage import Part, PartOutput, Record, Stage, StageResult


@dataclass(frozen=True, kw_only=True)
class LineRunPart(Part):
    """Consecutive files of lines of one source."""

    source: str
    files: Sequence[str]
    """Names of the parts that wrote them."""
    num_lines: int

    @property
    def num_files(self) -> int:
        return len(self.files)

    def plan(self) -> dict[str, Any]:
        return {"files": list(self.files)}


@dataclass(frozen=True, kw_only=True)
class LineRunsStage(Stage[LineRunPart]):
    """Merges the sorted lines of sources of many files to few files."""

    name = "line_runs"
    version = 1
    output = "arrays"

    lines: Path
    """Folder of the files of lines."""
    contents: Mapping[str, str]
    """A hash of each, by the name of the part that wrote it."""
    limits: DedupLimits

    def inputs_for(self, part: LineRunPart) -> Mapping[str, str]:
        return {name: self.contents[name] for name in part.files}

    def run_part(self, folder: Path, part: LineRunPart) -> PartOutput:
        """Writes PART.lines.npy [3, lines]: hash (ascending), documents, first document; a line has
        a column for each file that it is in."""
        names = [f"{name}.lines.npy" for name in part.files]
        files = SortedFiles(self.lines, names, self.limits)
        name = f"{part.name}.lines.npy"
        num_ranges = -(-part.num_lines // self.limits.join_lines) or 1
        with open_atomic(folder / name) as file:
            start, done = start_array(file, (3, part.num_lines), "<u8"), 0
            for number in range(num_ranges):
                slices = [files.slice(k, number, num_ranges) for k in range(len(files))]
                merged = np.concatenate(slices, axis=1)
                merged = merged[:, np.argsort(merged[0], kind="stable")]
                for row in range(3):
                    file.seek(start + 8 * (row * part.num_lines + done))
                    file.write(np.ascontiguousarray(merged[row]).data)
                done += merged.shape[1]
            assert done == part.num_lines, part.name
        return PartOutput({"lines": part.num_lines}, [name])


def line_runs_stage(counted: StageResult[DocumentFile], limits: DedupLimits) -> LineRunsStage:
    """A part for every `limits.line_files` files of a source that has more of them; for more files
    of a source that would have more than `limits.line_runs` parts."""
    parts: list[LineRunPart] = []
    for source, entries in groupby(counted.with_records(), lambda entry: entry[0].source):
        files = list(entries)
        if len(files) > limits.line_files:
            most = max(limits.line_files, -(-len(files) // limits.line_runs))
            parts += _parts_of(source, files, most)
    return LineRunsStage(
        parts=parts,
        inputs={"lines": counted.content_fingerprint},
        lines=counted.folder,
        contents=counted.contents(lambda part: part.name),
        limits=limits,
    )


def _parts_of(
    source: str, files: Sequence[tuple[DocumentFile, Record]], most: int
) -> Iterator[LineRunPart]:
    for number, at in enumerate(range(0, len(files), most)):
        some = files[at : at + most]
        num_lines = sum(record["lines"] for _, record in some)
        yield LineRunPart(
            name=f"{source}-{number:06d}",
            num_bytes=24 * num_lines,
            source=source,
            files=[part.name for part, _ in some],
            num_lines=num_lines,
        )

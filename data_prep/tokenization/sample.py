"""The documents that a tokenizer is learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.selection import SAMPLE, Selection, chosen
from data_prep.dedup.signatures import FileRun, file_runs
from data_prep.documents.files import StoredDocuments, documents_file, write_documents
from data_prep.engine.stage import PartOutput, Stage
from data_prep.tokenization.config import ExtendedTokenizerConfig, TrainTokenizerConfig


@dataclass(frozen=True, kw_only=True)
class SampleStage(Stage[FileRun]):
    """Takes a random sample of the training documents, which a tokenizer is learned from."""

    name = "sample"
    version = 1
    output = "documents (Parquet)"
    source_settings = frozenset({"weights"})

    sample_mb: int
    weights: Mapping[str, float] | None
    """By source; None: by what is kept of each."""
    selection: Selection
    heldout_share: float

    @property
    def settings(self) -> Mapping[str, Any]:
        weights = None if self.weights is None else dict(self.weights)
        return {
            "sample_mb": self.sample_mb,
            "weights": weights,
            "heldout_share": self.heldout_share,
        }

    def inputs_for(self, part: FileRun) -> Mapping[str, str]:
        of_files = [self.selection.inputs_for(file) for file in part.files]
        inputs = {
            f"{file.name}/{key}": value
            for file, found in zip(part.files, of_files, strict=True)
            for key, value in found.items()
        }
        return {**inputs, "share": repr(self._share_of(part.source))}

    def _share_of(self, source: str) -> float:
        """The share of the documents of a source that is sampled."""
        kept_bytes = self.selection.kept_bytes
        weights = self.weights or kept_bytes
        scale = self.sample_mb * 1_000_000 / max(sum(weights.values()), 1e-9)
        return scale * weights[source] / max(kept_bytes[source], 1)

    def run_part(self, folder: Path, part: FileRun) -> PartOutput:
        """Writes PART.parquet: the texts in their order, without ids."""
        selection = self.selection
        documents = num_bytes = 0
        with documents_file(folder / f"{part.name}.parquet") as writer:
            for file in part.files:
                sampled = chosen(selection.hashes(file), self._share_of(part.source), SAMPLE)
                sampled &= selection.kept(file)
                sampled &= ~selection.heldout(file, self.heldout_share)
                for texts in selection.chosen_texts(file, sampled):
                    write_documents(writer, StoredDocuments(texts, [""] * len(texts)))
                    documents += len(texts)
                    num_bytes += sum(map(len, texts))
        counts = {"documents": documents, "bytes": num_bytes}
        return PartOutput(counts, [f"{part.name}.parquet"])


def sample_stage(
    config: TrainTokenizerConfig | ExtendedTokenizerConfig,
    selection: Selection,
    inputs: Mapping[str, str],
    heldout_share: float,
    limits: DedupLimits,
) -> SampleStage:
    """A part for each run of files of documents.

    `inputs` are the content fingerprints of the stages that decide which documents there are.
    """
    return SampleStage(
        parts=list(file_runs(selection.files, limits.signature_parts)),
        inputs=dict(inputs),
        sample_mb=config.sample_mb,
        weights=config.weights,
        selection=selection,
        heldout_share=heldout_share,
    )

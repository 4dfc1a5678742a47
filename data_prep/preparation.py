"""A run of data preparation: its finished stages, and what follows from them."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

from data_prep.config import DataConfig
from data_prep.dataset.manifest import SpecialTokens, narrowest_dtype
from data_prep.dedup import (
    candidates,
    clean,
    cluster_stages,
    decontaminate,
    repeated_ids,
    signatures,
    verdicts,
)
from data_prep.dedup.selection import Selection, select
from data_prep.documents import ingest
from data_prep.documents.files import Documents
from data_prep.engine.stage import PartT, Stage, StageResult
from data_prep.limits import Limits
from data_prep.packing import order, order_keys, streams
from data_prep.report.data import ReportInputs
from data_prep.report.stage_costs import stage_costs
from data_prep.tokenization import encode, tokenizer

logger = logging.getLogger(__name__)


class Preparation:
    """A run of data preparation: its config, the finished stages, and what follows from them.

    A property must not be read before the stages that it follows from are finished.
    """

    def __init__(self, config: DataConfig, limits: Limits | None = None) -> None:
        self.config = config
        self.limits = limits or Limits()
        self._results: dict[str, StageResult[Any]] = {}
        self._noticed: set[str] = set()

    def add(self, stage: Stage[PartT], result: StageResult[PartT]) -> None:
        """Adds a finished stage."""
        self._results[stage.name] = result

    def result(self, stage: type[Stage[PartT]]) -> StageResult[PartT]:
        """The result of a finished stage."""
        return self._results[stage.name]

    def result_if_any(self, stage: type[Stage[PartT]]) -> StageResult[PartT] | None:
        """The result of a finished stage, None where the run does not have that stage."""
        return self._results.get(stage.name)

    def notice(self, notices: Iterable[str]) -> None:
        """Logs each of `notices` that the run has not logged before."""
        for text in notices:
            if text not in self._noticed:
                self._noticed.add(text)
                logger.warning("%s", text)

    def has(self, stage: type[Stage[Any]]) -> bool:
        """Whether the stage is finished."""
        return stage.name in self._results

    @property
    def fingerprints(self) -> dict[str, str]:
        """Content fingerprints of the finished stages."""
        return {name: result.content_fingerprint for name, result in self._results.items()}

    @cached_property
    def ingested_documents(self) -> Documents:
        """The documents after the filters."""
        return ingest.ingested_documents(self.result(ingest.IngestStage))

    @cached_property
    def documents(self) -> Documents:
        """The documents that deduplication starts from."""
        cleaned = self.result_if_any(clean.CleanStage)
        return clean.cleaned_documents(cleaned) if cleaned else self.ingested_documents

    @cached_property
    def deduplicated(self) -> Selection:
        """The documents without duplicates."""
        return select(
            self.documents,
            self.result(verdicts.VerdictsStage),
            self.result(signatures.SignaturesStage).folder,
            self.config.sources,
        )

    @cached_property
    def selection(self) -> Selection:
        """The documents without duplicates and, if asked for, contaminated ones."""
        overlap = self.result_if_any(decontaminate.OverlapStage)
        if overlap is None:
            return self.deduplicated
        hashes = overlap.contents(lambda file: file.name, infix=decontaminate.FLAGS_SUFFIX)
        return replace(self.deduplicated, overlap=overlap.folder, overlap_hashes=hashes)

    @property
    def selection_inputs(self) -> dict[str, str]:
        """Content fingerprint of the stage that decides the selection, by its name."""
        overlap = self.result_if_any(decontaminate.OverlapStage)
        if overlap is None:
            return {verdicts.VerdictsStage.name: self.deduplicated.fingerprint}
        return {decontaminate.OverlapStage.name: overlap.content_fingerprint}

    @cached_property
    def special_tokens(self) -> SpecialTokens:
        """The ids of the tokenizer's special tokens."""
        return tokenizer.tokenizer_contents(self.result(tokenizer.TokenizerStage)).special

    @property
    def vocab_size(self) -> int:
        """Ids of the vocabulary, those without a token included."""
        size: int = self.result(tokenizer.TokenizerStage).records[0]["vocab_size"]
        return size

    @cached_property
    def source_streams(self) -> streams.Streams:
        """The encoded documents of each source."""
        dtype = narrowest_dtype(self.vocab_size)
        encoded = self.result(encode.EncodeStage)
        sources = self.config.sources
        most = {n: s.max_tokens for n, s in sources.items() if s.max_tokens is not None}
        return streams.source_streams(encoded, list(sources), dtype, most)

    @cached_property
    def streams(self) -> streams.Streams:
        """The encoded documents in the order in which they are packed."""
        interleaved = self.result_if_any(streams.InterleaveStage)
        ordered = self.result_if_any(order.OrderStage)
        if interleaved is not None:
            return streams.mixed_streams(self.source_streams, interleaved)
        if ordered is not None:
            return order.ordered_streams(self.source_streams, ordered)
        return self.source_streams

    def report_inputs(self) -> ReportInputs:
        """What the report describes, when all stages are finished."""
        return ReportInputs(
            sources=list(self.config.sources),
            documents=self.documents,
            ingested=self.result(ingest.IngestStage),
            repeated_ids=self.result(repeated_ids.RepeatedIdsStage),
            cleaned=self.result_if_any(clean.CleanStage),
            signed=self.result(signatures.SignaturesStage),
            pairs=[
                self.result(candidates.FirstPairsStage),
                self.result(candidates.PairsStage),
            ],
            clusters=self.result(cluster_stages.AllClustersStage),
            verdicts=self.result(verdicts.VerdictsStage),
            excluded=self.result_if_any(decontaminate.ExcludedNgramsStage),
            overlap=self.result_if_any(decontaminate.OverlapStage),
            order_keys=self.result_if_any(order_keys.OrderKeysStage),
            tokenizer=self.result(tokenizer.TokenizerStage),
            encoded=self.result(encode.EncodeStage),
            costs=stage_costs(self._results),
            left_out=self.source_streams.left_out,
        )

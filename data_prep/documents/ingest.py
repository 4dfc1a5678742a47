"""The first stage: reads, normalises, scrubs and filters the sources, and counts what it drops."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import fingerprint
from configs.terminal import visible_name
from data_prep.dataset.atomic import write_atomic
from data_prep.documents import ledger
from data_prep.documents.compressed_files import poorly_shared
from data_prep.documents.config import SourceConfig
from data_prep.documents.content import as_text, hashes_of, total
from data_prep.documents.files import Documents, PieceWriter, documents_in
from data_prep.documents.known_spans import KnownSpans
from data_prep.documents.planned_files import (
    additions,
    has_same_or_more_files,
    plan_differences,
)
from data_prep.documents.restarted import corrected_spans, restarts_record
from data_prep.documents.source_files import source_files
from data_prep.documents.tally import Tally
from data_prep.documents.treatment import NOT_SAMPLED, Treatment, treatments
from data_prep.engine.stage import Part, PartOutput, Record, Stage, StageResult
from data_prep.filters.custom import check_functions
from data_prep.filters.quality import FiltersConfig
from data_prep.filters.statistics import FilterStatistics
from data_prep.readers.document import (
    BATCH_CHARACTERS,
    BadRecordPolicy,
    BadRecords,
    Document,
    in_batches,
)
from data_prep.readers.files import SourceFile, Span, opening_bytes
from data_prep.readers.reader import Reader, spans_of_files
from data_prep.text.normalise import DEFAULT_FORM, NormaliseConfig
from data_prep.text.scrub import ScrubConfig


@dataclass(frozen=True, kw_only=True)
class IngestPart(Part):
    """A span of a large file, or several small files, of one source."""

    source: str
    spans: Sequence[Span]
    piece_bytes: int
    """Text after which a new file of documents is started, bytes."""

    @property
    def num_files(self) -> int:
        return len(self.spans)

    def plan(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "spans": [
                [*astuple(span.file), span.start, span.end, span.archive, span.group_bytes]
                for span in self.spans
            ],
            "piece_bytes": self.piece_bytes,
        }


@dataclass(frozen=True, kw_only=True)
class IngestStage(Stage[IngestPart]):
    """Reads the sources; normalises, scrubs and filters the texts."""

    name = "ingest"
    version = 7
    output = "documents and a ledger of all records (Parquet), examples of dropped ones"
    source_settings = frozenset({"order", "sources"})
    less_memory = "; or lower part_mb with --restart-from ingest"

    treatments: Mapping[str, Treatment]
    """By source; the order of the sources decides which of two duplicates is kept."""
    scrub: ScrubConfig
    """Of sources that have none of their own."""
    max_document_bytes: int
    on_bad_record: BadRecordPolicy
    batch_characters: int = BATCH_CHARACTERS
    """Text that is normalised and filtered at once; results do not depend on it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "order": list(self.treatments),
            "sources": {name: treatment.settings() for name, treatment in self.treatments.items()},
            "scrub": self.scrub.settings(),
            "max_document_bytes": self.max_document_bytes,
        }

    def settings_group(self, part: IngestPart) -> str:
        return part.source

    def settings_for(self, part: IngestPart) -> Mapping[str, Any]:
        settings = {key: value for key, value in self.settings.items() if key != "order"}
        return {**settings, "sources": {part.source: settings["sources"][part.source]}}

    def inputs_for(self, part: IngestPart) -> Mapping[str, str]:
        return {}  # the part's plan names its files

    def extends(self, old: Mapping[str, Any]) -> bool:
        """Whether only sources or files were added."""
        return self.extends_settings(old) and has_same_or_more_files(old, self.plan())

    def additions(self, old: Mapping[str, Any]) -> Iterator[str]:
        return additions(old, self.plan())

    def differences(self, old: Mapping[str, Any]) -> Iterator[str]:
        return plan_differences(old, self.plan())

    def result_fingerprint(self, records: Sequence[Record]) -> str:
        """The plan knows the files by their sizes; what was read of them is added here."""
        return fingerprint(
            [self.content_fingerprint, total(record["content"] for record in records)]
        )

    def notices(self) -> Iterator[str]:
        """What it costs that compressed files cannot be shared better."""
        for source in self.treatments:
            lines = poorly_shared(self._spans_of(source).values())
            yield from (f"{source}: {line}" for line in lines)

    def parts_to_repeat(self, records: Mapping[str, Record]) -> Sequence[IngestPart]:
        """Parts with spans of compressed files whose restart did not hold."""
        repeated: list[IngestPart] = []
        parts = {part.name: part for part in self.parts}
        for source in self.treatments:
            spans_of = corrected_spans(self._spans_of(source), records)
            repeated += [replace(parts[name], spans=spans) for name, spans in spans_of.items()]
        return repeated

    def _spans_of(self, source: str) -> dict[str, Sequence[Span]]:
        return {part.name: part.spans for part in self.parts if part.source == source}

    def run_part(self, folder: Path, part: IngestPart) -> PartOutput:
        """Writes PART.NNNN.parquet (text, id), PART.ledger (what became of each record)
        and PART.dropped.jsonl (examples)."""
        ledger_name, examples = f"{part.name}{ledger.SUFFIX}", f"{part.name}.dropped.jsonl"
        treatment = self.treatments[part.source]
        content = 0
        scrubs: Counter[str] = Counter()
        statistics = FilterStatistics()
        with (
            PieceWriter(folder, part.name, part.piece_bytes, treatment.has_metadata) as pieces,
            ledger.LedgerWriter(folder / ledger_name, part.spans) as rows,
        ):
            bad = BadRecords(self.on_bad_record, self.max_document_bytes, report=rows.add_unused)
            tally = Tally(bad)
            documents = _documents(treatment, part.spans, bad, tally, rows)
            for batch in in_batches(documents, self.batch_characters):
                texts = treatment.texts(batch, scrubs)
                verdicts = treatment.judged(batch, texts)
                tally.add(batch, texts, verdicts)
                statistics.add(verdicts)
                rows.add(batch, texts, verdicts)
                kept = np.flatnonzero(verdicts.undecided).tolist()
                stored = treatment.stored(batch, texts, kept)
                content += sum(hashes_of(batch, stored, kept))
                pieces.write(stored)
        write_atomic(folder / examples, "".join(json.dumps(e) + "\n" for e in tally.examples))
        record = {
            "source": part.source,
            **tally.record(),
            "content": as_text(content),
            "pieces": [piece._asdict() for piece in pieces.written],
            "scrubbed": dict(sorted(scrubs.items())),
            "filter_values": statistics.record(),
            **restarts_record(part.spans, bad),
        }
        files = [*(f"{piece.name}.parquet" for piece in pieces.written), ledger_name, examples]
        return PartOutput(record, files)


def ingest_stage(
    sources: Mapping[str, SourceConfig],
    filters: Mapping[str, FiltersConfig],
    *,
    scrub: ScrubConfig,
    form: NormaliseConfig = DEFAULT_FORM,
    max_document_bytes: int,
    on_bad_record: BadRecordPolicy,
    part_bytes: int,
    batch_characters: int = BATCH_CHARACTERS,
    plan: Mapping[str, Any] | None = None,
    known: KnownSpans | None = None,
) -> IngestStage:
    """The stage for the files that exist now, cut into parts of about `part_bytes`; or for the
    files and parts of a frozen `plan`.

    `filters` are the limits of each source; `scrub` and the normal `form` are those of sources that
    do not set them. `known` are the spans of files that were cut before, and receives those of
    others. UserError for sources without files.
    """
    if not plan:
        check_functions([custom for limits in filters.values() for custom in limits.custom])
    parts = list(_parts_in(plan, sources)) if plan else []
    inputs: dict[str, str] = dict(plan["inputs"]) if plan else {}
    for name, files in ({} if plan else source_files(sources)).items():
        inputs.update((f"{name}/{file.name}", f"{file.num_bytes} bytes") for file in files)
        config = sources[name]
        reader = known.reader(config.reader) if known else config.reader.build()
        parts += _parts_of(name, config, reader, files, part_bytes)
    return IngestStage(
        parts=parts,
        inputs=inputs,
        treatments=treatments(sources, filters, scrub, form),
        scrub=scrub,
        max_document_bytes=max_document_bytes,
        on_bad_record=on_bad_record,
        batch_characters=batch_characters,
    )


def _parts_of(
    source: str, config: SourceConfig, reader: Reader, files: Sequence[SourceFile], part_bytes: int
) -> Iterator[IngestPart]:
    """Large files are cut into spans, small files are put together, of which each weighs at least
    what opening it costs."""
    piece_bytes = part_bytes
    if config.limit is not None:  # the first documents: only reading in order knows them
        part_bytes = sys.maxsize
    spans_of = spans_of_files(reader, files, part_bytes)
    groups: list[list[Span]] = [[]]
    group_bytes = 0
    for span in chain.from_iterable(spans_of):
        weight = span.num_bytes + opening_bytes(span.file)
        if groups[-1] and group_bytes + weight > part_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(span)
        group_bytes += weight
    for number, spans in enumerate(groups):
        yield IngestPart(
            name=f"{source}-{number:06d}",
            num_bytes=sum(span.num_bytes for span in spans),
            source=source,
            spans=spans,
            piece_bytes=piece_bytes,
        )


def _parts_in(plan: Mapping[str, Any], sources: Iterable[str]) -> Iterator[IngestPart]:
    """The parts of a frozen plan, in the order of the sources."""
    for source in sources:
        for name, part in sorted(plan["parts"].items()):
            if part["source"] == source:
                spans = [
                    Span(SourceFile(*file), start, end, group_bytes, archive)
                    for *file, start, end, archive, group_bytes in part["spans"]
                ]
                yield IngestPart(
                    name=name, source=source, spans=spans, piece_bytes=part["piece_bytes"]
                )


def ingested_documents(ingested: StageResult[IngestPart]) -> Documents:
    """The documents that the first stage wrote.

    An input part may be long, since not every file can be cut. Its documents are in files of about
    `part_mb`, so that later parts all need about the same memory and time.
    """
    records = [
        {**piece, "source": part.source, "outputs": record["outputs"]}
        for part, record in ingested.with_records()
        for piece in record["pieces"]
    ]
    return documents_in(IngestStage.name, ingested, records)


def _documents(
    treatment: Treatment,
    spans: Sequence[Span],
    bad: BadRecords,
    tally: Tally,
    rows: ledger.LedgerWriter,
) -> Iterator[Document]:
    """The documents of a part; what they are read from is noted in its tally and its ledger."""
    reader, limit = treatment.source.reader.build(), treatment.source.limit
    takes_all, never_too_long = treatment.source.sample is None, bad.max_document_bytes // 4
    num_read = 0
    for number, span in enumerate(spans):
        rows.start_span(number, num_read)
        try:
            for document in tally.in_span(span, reader.read(span, bad)):
                if len(document.text) > never_too_long and bad.is_too_long(
                    document.text, span.file.path, document.offset
                ):
                    continue
                if not (takes_all or treatment.is_sampled(document)):
                    place = span.file.path, document.offset
                    bad.skip(NOT_SAMPLED, len(document.text.encode("utf-8", "ignore")), *place)
                    continue
                num_read += 1
                yield document
                if num_read == limit:
                    return
        except Exception as error:  # an unexpected one, of a parser
            path = visible_name(span.file.path)
            error.add_note(f"while reading {path}, [{span.start}, {span.end})")
            raise

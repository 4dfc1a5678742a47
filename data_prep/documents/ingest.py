"""The first stage: sources to clean documents. Reads, normalises, filters, counts what it drops."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.dataset.atomic import write_atomic
from data_prep.documents.config import SourceConfig
from data_prep.documents.files import PieceWriter
from data_prep.engine.stages import Part, Record, Stage, StageResult
from data_prep.filters.quality import drop_reasons
from data_prep.filters.verdicts import KEPT
from data_prep.readers.document import BadRecords, Document, in_batches
from data_prep.readers.files import SourceFile, Span, list_files
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise
from data_prep.text.scrub import ScrubConfig, scrubbed

NAME = "ingest"
_FILES_AT_ONCE = 16
_EXAMPLES_PER_REASON = 3
_EXAMPLE_BYTES = 400


def ingest_stage(config: DataConfig) -> Stage:
    """The stage for the files that are there now, cut into parts of about `part_mb`."""
    parts: list[Part] = []
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    context: dict[str, Any] = {"on_bad_record": config.on_bad_record, "readers": {}}
    files_of = _files_of(config)
    for name, source in config.sources.items():
        files = files_of[name]
        inputs.update((f"{name}/{file.name}", f"{file.num_bytes} bytes") for file in files)
        limits = source.filters or config.filters
        settings[name] = {
            "reader": source.reader.model_dump(mode="json", exclude={"files"}),
            "filters": limits.model_dump(mode="json"),
        }
        context["readers"][name] = SourceConfig(reader=source.reader, filters=limits)
        parts += _parts_of(name, source, files, int(config.part_mb * 1_000_000))
    # The order of the sources decides which of two duplicates stays, so it is a setting too.
    order = list(config.sources)
    return Stage(
        NAME,
        3,
        {
            "order": order,
            "sources": settings,
            "scrub": config.scrub.model_dump(mode="json"),
            "max_document_bytes": int(config.max_document_mb * 1_000_000),
        },
        inputs,
        parts,
        ingest_part,
        context,
    )


def _files_of(config: DataConfig) -> dict[str, list[SourceFile]]:
    """The files of every source; one UserError that names all sources without."""
    found: dict[str, list[SourceFile]] = {}
    problems = []
    for name, source in config.sources.items():
        try:
            found[name] = list_files(source.reader.files, f"sources.{name}.reader.files")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return found


def _parts_of(
    name: str, source: SourceConfig, files: Sequence[SourceFile], part_bytes: int
) -> Iterator[Part]:
    """Spans of large files alone, small files together."""
    reader = source.reader.build()
    group: list[Span] = []
    weight = number = 0
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # columnar files are opened for that
        spans_of = list(pool.map(lambda file: reader.spans(file, part_bytes), files))
    for span in chain.from_iterable(spans_of):
        if group and weight + span.num_bytes > part_bytes:
            yield _part(name, number, group, part_bytes)
            group, weight, number = [], 0, number + 1
        group.append(span)
        weight += span.num_bytes
    yield _part(name, number, group, part_bytes)


def _part(source: str, number: int, spans: Sequence[Span], piece_bytes: int) -> Part:
    arguments = {
        "source": source,
        "spans": [[*astuple(span.file), span.start, span.end] for span in spans],
        "piece_bytes": piece_bytes,
    }
    return Part(f"{source}-{number:06d}", arguments, sum(span.num_bytes for span in spans))


def ingest_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.NNNN.parquet (text, id) and PART.dropped.jsonl (examples); the stage's task."""
    source: SourceConfig = settings["readers"][part.arguments["source"]]
    assert source.filters is not None
    bad = BadRecords(settings["on_bad_record"], settings["max_document_bytes"])
    tally = _Tally()
    scrubs: Counter[str] = Counter()
    with PieceWriter(folder, part.name, part.arguments["piece_bytes"]) as pieces:
        for batch in in_batches(_documents(source, part, bad)):
            texts = normalise([document.text for document in batch])
            texts = scrubbed(texts, ScrubConfig.model_validate(settings["scrub"]), scrubs)
            reasons = drop_reasons(TextBatch(texts), source.filters)
            tally.add(batch, texts, reasons)
            kept = np.flatnonzero(reasons == KEPT).tolist()
            pieces.write([texts[k] for k in kept], [batch[k].id for k in kept])
    dropped_name = f"{part.name}.dropped.jsonl"
    write_atomic(
        folder / dropped_name, "".join(json.dumps(example) + "\n" for example in tally.examples)
    )
    record = {
        "source": part.arguments["source"],
        **tally.record(),
        "pieces": [piece._asdict() for piece in pieces.written],
        "scrubbed": dict(sorted(scrubs.items())),
        "bad": dict(sorted(bad.counts.items())),
        "bad_examples": bad.examples,
    }
    return record, [*(f"{piece.name}.parquet" for piece in pieces.written), dropped_name]


def documents_of(ingested: StageResult) -> StageResult:
    """The documents that the first stage wrote, a part a file.

    A part of the input may be long, since not every file can be cut; its documents come in pieces
    of about `part_mb`, so that no later part needs more memory or time than others.
    """
    parts, records = [], []
    for record in ingested.records:
        for piece in record["pieces"]:
            parts.append(Part(piece["name"], {}, piece["bytes"]))
            records.append({**piece, "source": record["source"]})
    return replace(ingested, parts=parts, records=records)


def _documents(source: SourceConfig, part: Part, bad: BadRecords) -> Iterator[Document]:
    reader = source.reader.build()
    for *file, start, end in part.arguments["spans"]:
        span = Span(SourceFile(*file), start, end)
        try:
            for document in reader.read(span, bad):
                if not bad.is_too_long(document.text, span.file.path, document.offset):
                    yield document
        except Exception as error:  # of a parser that nobody thought of
            error.add_note(f"while {span.file.path} was read, from {start} to {end}")
            raise


class _Tally:
    """Counts of one part."""

    def __init__(self) -> None:
        self._read = self._read_bytes = self._kept = self._kept_bytes = 0
        self._dropped: Counter[str] = Counter()
        self._dropped_bytes: Counter[str] = Counter()
        self.examples: list[dict[str, Any]] = []

    def add(self, batch: Sequence[Document], texts: Sequence[bytes], reasons: Any) -> None:
        self._read += len(batch)
        self._read_bytes += sum(len(text) for text in texts)
        for k in np.flatnonzero(reasons != KEPT).tolist():
            reason = str(reasons[k])
            if self._dropped[reason] < _EXAMPLES_PER_REASON:
                text = texts[k][:_EXAMPLE_BYTES].decode("utf-8", "ignore")
                self.examples.append({"reason": reason, "id": batch[k].id, "text": text})
            self._dropped[reason] += 1
            self._dropped_bytes[reason] += len(texts[k])

    def record(self) -> Record:
        return {
            "documents_read": self._read,
            "bytes_read": self._read_bytes,
            "documents": self._read - self._dropped.total(),
            "bytes": self._read_bytes - self._dropped_bytes.total(),
            "dropped": dict(sorted(self._dropped.items())),
            "dropped_bytes": dict(sorted(self._dropped_bytes.items())),
        }


def check_bad_share(result: StageResult, max_share: float) -> None:
    """UserError when a source has more bad records than `max_share` of its records."""
    good: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    examples: dict[str, list[Any]] = {}
    for record in result.records:
        good[record["source"]] += record["documents_read"]
        bad[record["source"]] += sum(record["bad"].values())
        examples.setdefault(record["source"], []).extend(record["bad_examples"])
    for source, num_bad in bad.items():
        share = num_bad / max(num_bad + good[source], 1)
        if share > max_share:
            shown = [f"  {e['file']}:{e['offset']}: {e['reason']}" for e in examples[source][:5]]
            raise UserError(
                f"source {source!r}: {num_bad:,} of {num_bad + good[source]:,} records "
                f"({share:.1%}) cannot be read, more than max_bad_share ({max_share:.1%}):\n"
                + "\n".join(shown)
                + "\nmend the files, or raise max_bad_share"
            )
    for source in good:
        if not good[source]:
            raise UserError(f"source {source!r}: its files hold no document")

"""Checks before the work: what would stop a run after days is reported in seconds, all at once.

A check is a function in `CHECKS`, one per subject, which calls what the stages call. To add one,
write a function that yields problems and add it there, in the order of the keys of the config.
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from configs.load import UserError
from configs.terminal import visible_name
from data_prep.config import DataConfig
from data_prep.dedup.decontaminate import ExcludedNgramsStage
from data_prep.dedup.evaluation import no_texts, readers_of, texts_of
from data_prep.documents.ingest import IngestStage
from data_prep.engine.stage import Stage
from data_prep.filters.custom import PythonFilterConfig, ScoreFilterConfig, imported
from data_prep.filters.quality import FiltersConfig
from data_prep.first_records import (
    MAX_EVALUATION_FILES,
    FirstOfFiles,
    FirstRecords,
    first_of_files,
)
from data_prep.folders import folder_problems, own_files_matched, space_notice
from data_prep.packing.order_keys import NO_KEY, key_hashes
from data_prep.readers.metadata import as_json
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise
from data_prep.tokenization.tokenizer import TokenizerStage, notices_before

logger = logging.getLogger(__name__)

_MARKUP = {
    "JSON": (
        re.compile(r'\s*(\[\s*)?\{\s*"'),
        "`type: jsonl` reads the texts of its records",
    ),
    "HTML": (
        re.compile(r"\s*(<\?xml[^>]*>\s*)?<(!doctype html|html)\b", re.IGNORECASE),
        "extract the text of such pages first; `type: warc` does it for web archives",
    ),
}
"""Markup in files of plain text: how it starts, and what to do."""


@dataclass
class Findings:
    """What the checks found."""

    config: DataConfig
    only_new: bool
    """Whether what earlier runs in this work folder checked and finished is left out."""
    again: Collection[str] = ()
    """Stages that are going to be repeated, whatever is finished of them."""
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    """What the user should know; the run is not stopped."""
    sources: dict[str, FirstOfFiles] = field(default_factory=dict)
    """The first records of the sources that were checked."""
    evaluation: dict[str, list[FirstOfFiles]] = field(default_factory=dict)
    """Those of the evaluation sets, by field."""

    @cached_property
    def max_document_bytes(self) -> int:
        """Longest document, bytes."""
        return int(self.config.max_document_mb * 1_000_000)

    def is_done(self, stage: type[Stage[Any]]) -> bool:
        """Whether a stage need not be checked, because it is finished."""
        return self.is_known(stage) and (self.config.work / stage.name / "done.json").exists()

    def is_known(self, stage: type[Stage[Any]]) -> bool:
        """Whether what is in the folder of a stage counts."""
        return self.only_new and stage.name not in self.again


def check(config: DataConfig, only_new: bool = False, again: Collection[str] = ()) -> Findings:
    """Runs all checks. Raises one UserError with all problems, in the order of the config.

    With `only_new`, what was checked before the work folder's frozen plans were made is left out,
    unless it belongs to stages that are to be repeated `again`.
    """
    findings = Findings(config, only_new, again)
    for one in CHECKS:
        findings.problems += one(findings)
    if findings.problems:
        problems = list(dict.fromkeys(findings.problems))
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{len(problems)} problem(s) found before the work\n{lines}")
    return findings


def _folders(findings: Findings) -> Iterator[str]:
    yield from folder_problems(findings.config)


def _sources(findings: Findings) -> Iterator[str]:
    """Files of the right kind, with texts in the field, of every source."""
    config = findings.config
    planned = _planned_readers(config) if findings.is_known(IngestStage) else {}
    for name, source in config.sources.items():
        reader = source.reader.model_dump(mode="json", exclude={"files"})
        if name in planned and planned[name].items() <= reader.items():
            continue
        where = f"sources.{name}.reader"
        found = first_of_files(source.reader, where, findings.max_document_bytes)
        findings.sources[name] = found
        yield from own_files_matched(config, f"{where}.files", source.reader.files)
        yield from found.problems
        without = found.without_documents()
        if without and len(without) == len(found.read):
            yield f"{where}: {_no_documents(without[0])}"
            continue
        findings.notices += [f"{where}: {_no_documents(records)}" for records in without]
        findings.notices += [
            f"{where}: {_bad_start(records)}"
            for records in found.read
            if records.documents
            and records.bad.counts.total() > config.max_bad_share * records.num_read
        ]
        findings.notices += _markup(where, source.reader.type, found)
        yield from _missing_scores(name, config.filters_of(name), found)
    findings.notices += space_notice(config, findings.sources)


def _planned_readers(config: DataConfig) -> dict[str, dict[str, Any]]:
    """The readers of the sources in the frozen plan of the first stage; they were checked then."""
    try:
        plan = json.loads((config.work / IngestStage.name / "plan.json").read_bytes())
        sources = plan["settings"]["sources"]
        return {name: dict(settings["reader"]) for name, settings in sources.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _bad_start(records: FirstRecords) -> str:
    num_bad = records.bad.counts.total()
    return visible_name(
        f"{records.file.path}: {num_bad:,} of its first {records.num_read:,} records cannot be "
        f"used: {_reasons(records)}"
    )


def _no_documents(records: FirstRecords) -> str:
    part = "the file" if records.is_whole else f"its first {records.num_read:,} records"
    return visible_name(f"{records.file.path}: no document in {part}: {_reasons(records)}")


def _reasons(records: FirstRecords) -> str:
    """Why records are bad: the most frequent reasons, and the detail of the first one."""
    counts = ", ".join(f"{reason} ({n:,})" for reason, n in records.bad.counts.most_common(3))
    details = [e["detail"] for e in records.bad.examples[:1] if e["detail"]]
    return counts + "".join(f"; {detail}" for detail in details)


def _markup(where: str, reader_type: str, found: FirstOfFiles) -> Iterator[str]:
    """Files whose markup the reader of plain text would take for text."""
    if reader_type != "text" or found.first is None:
        return
    for kind, (start, advice) in _MARKUP.items():
        if start.match(found.first.text):
            yield (
                f"{where}: {visible_name(found.first.id)} starts as {kind}, and all of it would be "
                f"text to train on: {advice}"
            )


def _missing_scores(name: str, filters: FiltersConfig, found: FirstOfFiles) -> Iterator[str]:
    """Filters by a field that no record at the start of the files has."""
    documents = [document for records in found.read for document in records.documents]
    for custom in filters.custom:
        if not isinstance(custom, ScoreFilterConfig) or custom.missing == "keep" or not documents:
            continue
        if all(custom.field not in (document.metadata or {}) for document in documents):
            yield (
                f"sources.{name}: the filter by {custom.field!r} would drop all: none of the first "
                f"{len(documents)} documents has the field"
            )


def _filters(findings: Findings) -> Iterator[str]:
    """Functions of the user's own can be imported."""
    if findings.is_done(IngestStage):
        return
    config = findings.config
    filters = {f"sources.{name}.filters": s.filters for name, s in config.sources.items()}
    for where, limits in {"filters": config.filters, **filters}.items():
        for custom in limits.custom if limits is not None else ():
            if isinstance(custom, PythonFilterConfig):
                try:
                    imported(custom.function)
                except UserError as error:
                    yield f"{where}: {error}"


def _evaluation(findings: Findings) -> Iterator[str]:
    """Evaluation files with texts in every field."""
    rules = findings.config.decontaminate
    if rules is None or findings.is_done(ExcludedNgramsStage):
        return
    if not rules.evaluation and not rules.heldout:
        yield "decontaminate: nothing to look for: set evaluation, heldout, or decontaminate: null"
    for name in rules.evaluation:
        where = f"decontaminate.evaluation.{name}"
        try:
            readers = readers_of(rules, name)
        except UserError as error:
            yield str(error)
            continue
        files = rules.evaluation[name].files
        yield from own_files_matched(findings.config, f"{where}.files", files)
        for reader in readers:
            found = first_of_files(reader, where, findings.max_document_bytes, MAX_EVALUATION_FILES)
            findings.evaluation.setdefault(name, []).append(found)
            yield from found.problems
            for records in found.read:
                texts = normalise([d.text for d in texts_of(records.documents, reader)])
                num_empty = int((TextBatch(texts).token_counts == 0).sum()) if texts else 0
                if num_empty == len(texts):
                    counts = {"empty": num_empty}
                    yield no_texts(name, reader, records.file, counts, records.bad)


def _tokenizer(findings: Findings) -> Iterator[str]:
    """The files of a given tokenizer exist, load, and have the special tokens."""
    config = findings.config
    if findings.is_done(TokenizerStage):
        return
    try:
        findings.notices += notices_before(config.tokenizer, config.encoder)
    except UserError as error:
        message = str(error)
        yield message if message.startswith("tokenizer") else f"tokenizer: {message}"


def _packing(findings: Findings) -> Iterator[str]:
    """The field that documents are packed by is in the first records of a source at least."""
    field_name = findings.config.pack.order_field
    if field_name is None:
        return
    lacking = {}
    for name, found in findings.sources.items():
        documents = [document for records in found.read for document in records.documents]
        metadata = [as_json(document.metadata or {}) for document in documents]
        if metadata and (key_hashes(metadata, len(metadata), field_name) == NO_KEY).all():
            lacking[name] = f"none of the first {len(documents)} documents of {name}"
    if not lacking:
        return
    which = ", ".join(lacking.values())
    if lacking.keys() == findings.config.sources.keys():
        yield (
            f"pack.order_by.field: {which} has {field_name!r}: it would order nothing; give the "
            "field that the records have, by its dotted path, or order_by: {type: source}"
        )
    else:
        findings.notices.append(
            f"pack.order_by.field: {which} has {field_name!r}: documents without it stay in the "
            "order of their source"
        )


CHECKS: Sequence[Callable[[Findings], Iterator[str]]] = (
    _folders,
    _sources,
    _filters,
    _evaluation,
    _tokenizer,
    _packing,
)
"""In the order of the keys of the config. Languages, scrub patterns, encodings, weights and other
values are checked where the config is read."""

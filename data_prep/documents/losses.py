"""What is lost of each source: an error where it is too much, a warning where it is much.

Bytes that cannot be read are counted in bytes of the source's files, so that they compare with the
size of these files: bytes of damage, the estimated part of the files that bad records take, and
what files that end too early lack.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from configs.load import UserError
from configs.terminal import visible_name
from data_prep.documents.ingest import IngestPart
from data_prep.engine.stage import Record, StageResult

logger = logging.getLogger(__name__)
_SHOWN_REASONS, _SHOWN_RECORDS, _SHOWN_FILES = 3, 5, 20
_LARGE_SHARE = 0.5


@dataclass
class SourceLosses:
    """What of a source could not be read."""

    num_records: int = 0
    """Documents and bad records."""
    num_bad: int = 0
    file_bytes: dict[str, int] = field(default_factory=dict)
    """Size of each file, by its path."""
    bad_file_bytes: int = 0
    """About how many bytes of the files are in bad records."""
    not_read_bytes: Counter[str] = field(default_factory=Counter)
    """Bytes of the files that damage keeps from being read, by reason."""
    cut_files: dict[str, str] = field(default_factory=dict)
    """Files that end too early, with the reason."""
    examples: list[Mapping[str, Any]] = field(default_factory=list)
    """The first bad records."""
    likely_encodings: Counter[str] = field(default_factory=Counter)
    """Encodings that bad records are likely in, where `encoding` can be set."""

    def add(self, part: IngestPart, record: Record) -> None:
        """Adds a part of the source. Records of older versions lack most counts."""
        num_bad = sum(record["bad"].values())
        self.num_records += record["documents_read"] + num_bad
        self.num_bad += num_bad
        self.file_bytes.update((span.file.path, span.file.num_bytes) for span in part.spans)
        self.bad_file_bytes += record.get("bad_file_bytes", 0)
        self.not_read_bytes.update(record.get("not_read_bytes", {}))
        self.cut_files.update(record.get("cut_files", {}))
        self.examples += record["bad_examples"]
        self.likely_encodings.update(record.get("likely_encodings", {}))

    @property
    def missing_bytes(self) -> dict[str, int | None]:
        """About how much each cut file lacks: the mean size of the intact files minus its own.

        None where that is not known: no intact file gives a size, or the sizes of intact files
        differ so much that a whole file may be as small.
        """
        intact = [size for path, size in self.file_bytes.items() if path not in self.cut_files]
        mean = sum(intact) / max(len(intact), 1)
        least = _least_usual(intact) if mean else 0
        sizes = {path: self.file_bytes.get(path) for path in self.cut_files}
        return {
            path: None if size is None or size >= least else max(round(mean - size), 0)
            for path, size in sizes.items()
        }

    @property
    def likely_encoding(self) -> str | None:
        """The encoding that most bad records are likely in; None if there is nothing to go by."""
        ranked = sorted(self.likely_encodings.items(), key=lambda item: (-item[1], item[0]))
        return ranked[0][0] if ranked else None

    @property
    def lost_bytes(self) -> int:
        """Bytes that are damaged, in bad records or, by estimate, missing."""
        missing = sum(size or 0 for size in self.missing_bytes.values())
        return self.not_read_bytes.total() + self.bad_file_bytes + missing

    @property
    def total_bytes(self) -> int:
        """Bytes of the files and, by estimate, of what cut files lack."""
        missing = sum(size or 0 for size in self.missing_bytes.values())
        return sum(self.file_bytes.values()) + missing

    @property
    def is_damaged(self) -> bool:
        """Whether anything is not read or missing, besides bad records."""
        return bool(self.cut_files or self.not_read_bytes.total())


def _least_usual(sizes: list[int]) -> float:
    """The size under which a file is unusually small among files of these sizes.

    Shards have about the same size, and so does this; other files differ, and it is half of the
    smallest one. The factor makes the median deviation three standard deviations.
    """
    middle = median(sizes)
    deviation = median(abs(size - middle) for size in sizes)
    return max(min(sizes) / 2, middle - 3 * 1.4826 * deviation)


def losses_of(ingested: StageResult[IngestPart]) -> dict[str, SourceLosses]:
    """The losses of each source."""
    losses: dict[str, SourceLosses] = {}
    for part, record in ingested.with_records():
        losses.setdefault(part.source, SourceLosses()).add(part, record)
    return losses


def check_bad_share(ingested: StageResult[IngestPart], max_share: float) -> None:
    """UserError when a source has no documents, or when more than `max_share` of its records or of
    the bytes of its files cannot be used; logs a warning where files are damaged or cut."""
    losses = losses_of(ingested)
    advice = "fix the files, or raise max_bad_share"
    for source, lost in losses.items():
        hint = f"; {encoding_hint(lost.likely_encoding)}" if lost.likely_encoding else ""
        share = lost.num_bad / max(lost.num_records, 1)
        if share > max_share:
            shown = "\n".join(_examples(lost))
            raise UserError(
                f"source {source!r}: {lost.num_bad:,} of {lost.num_records:,} records "
                f"({share:.1%}) cannot be read, more than max_bad_share ({max_share:.1%}):\n"
                f"{shown}\n{advice}{hint}"
            )
        message = f"source {source!r}: {_bytes_message(lost)}"
        if lost.lost_bytes > max_share * lost.total_bytes:
            shown = "\n".join(_damaged_files(lost)) or "\n".join(_examples(lost))
            raise UserError(
                f"{message}, more than max_bad_share ({max_share:.1%}):\n{shown}\n{advice}{hint}"
            )
        if lost.is_damaged:
            logger.warning("%s:\n%s", message, "\n".join(_damaged_files(lost)))
    for source, lost in losses.items():
        if lost.num_records == lost.num_bad:
            raise UserError(f"source {source!r}: its files contain no documents")


def encoding_hint(encoding: str) -> str:
    """What to do about bad records that are likely in `encoding`."""
    return f"bad records are likely in {encoding}: set `encoding` if all of their file is"


def _bytes_message(lost: SourceLosses) -> str:
    """How much is lost, and to what."""
    sizes = lost.missing_bytes.values()
    missing, num_unknown = sum(size or 0 for size in sizes), sum(size is None for size in sizes)
    words = []
    if lost.not_read_bytes.total():
        words.append(f"{lost.not_read_bytes.total():,} bytes are not read because of damage")
    if lost.bad_file_bytes:
        words.append(f"about {lost.bad_file_bytes:,} bytes are in bad records")
    if missing:
        words.append(f"about {missing:,} bytes are missing in cut files, by the sizes of others")
    if num_unknown:
        words.append(f"how much is missing in {num_unknown:,} cut file(s) is not known")
    share = lost.lost_bytes / max(lost.total_bytes, 1)
    amount = (
        f"about {share:.2%} of {lost.total_bytes:,}" if lost.lost_bytes else "not known how many"
    )
    return f"{amount} bytes are lost: {', '.join(words)}"


def _examples(lost: SourceLosses) -> Iterator[str]:
    for example in lost.examples[:_SHOWN_RECORDS]:
        yield f"  {visible_name(example['file'])}:{example['offset']}: {example['reason']}"


def _damaged_files(lost: SourceLosses) -> Iterator[str]:
    """The cut files, then what else is damaged; a line each."""
    missing = lost.missing_bytes
    for path, reason in list(lost.cut_files.items())[:_SHOWN_FILES]:
        size = f"{lost.file_bytes[path]:,} bytes" if path in lost.file_bytes else "size not known"
        estimate = missing[path]
        lacks = f", about {estimate:,} missing" if estimate else ""
        yield f"  {visible_name(path)}: {reason} ({size}{lacks})"
    if len(lost.cut_files) > _SHOWN_FILES:
        yield f"  and {len(lost.cut_files) - _SHOWN_FILES} more"
    reasons = lost.not_read_bytes.keys()
    shown = [e for e in lost.examples if e["reason"] in reasons and e["file"] not in lost.cut_files]
    for example in shown[:_SHOWN_RECORDS]:
        yield f"  {visible_name(example['file'])}:{example['offset']}: {example['reason']}"


def check_losses(ingested: StageResult[IngestPart]) -> None:
    """UserError that names the filters when they dropped all documents of a source; logs a warning
    for a source of which they dropped more than half."""
    read: Counter[str] = Counter()
    dropped: dict[str, Counter[str]] = {}
    for part, record in ingested.with_records():
        read[part.source] += record["documents_read"]
        dropped.setdefault(part.source, Counter()).update(record["dropped"])
    problems = []
    for source, reasons in dropped.items():
        total, lost = read[source], reasons.total()
        if lost <= _LARGE_SHARE * total:
            continue
        message = (
            f"source {source!r}: the filters dropped {lost:,} of {total:,} documents "
            f"({lost / total:.1%}): {_shown(reasons)}"
        )
        if lost == total:
            problems.append(message)
        else:
            logger.warning("%s", message)
    if problems:
        raise UserError(
            "\n".join(problems) + f"\nexamples are in {ingested.folder}/*.dropped.jsonl; change "
            "the source's filters, or set filters.document_language"
        )


def _shown(reasons: Counter[str]) -> str:
    """The most frequent reasons with their counts."""
    shown = [f"{reason} ({count:,})" for reason, count in reasons.most_common(_SHOWN_REASONS)]
    return ", ".join(shown) + (", ..." if len(reasons) > _SHOWN_REASONS else "")

"""Which spans of compressed files have to be read once more, since their restart did not hold.

The reader of a span starts at a restart, of which the file says how much content precedes it (see
`data_prep.readers.restarts`). It is read before anyone knows whether that is so. The reader of the
span before notes what he found there; from these notes follows, span by span, what precedes each
restart indeed. It differs where content before is damaged, as lost content has no offsets.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from data_prep.engine.stage import Record
from data_prep.readers.document import BadRecords
from data_prep.readers.files import Span
from data_prep.readers.restarts import Restart

RECORD_KEY = "restarts"
"""Of the record of a part: its spans of compressed files that have or precede a restart."""
_MAX_RESTARTS = 4
"""Restarts that are tried when a span is read once more, before the start of the file."""


class _Notes(NamedTuple):
    """What the reader of a span noted."""

    started: tuple[int, int] | None
    """Byte of the file and offset of the content at which he started; None: that of the file."""
    passed: dict[int, int]
    """Offset of the content at each restart of the next span that he passed."""


def restarts_record(spans: Sequence[Span], bad: BadRecords) -> Record:
    """The notes of the readers of `spans`, for the record of their part; none where none are
    shared."""
    notes = []
    for number, span in enumerate(spans):
        if span.sharing is None or not (span.sharing.restarts or span.sharing.next_restarts):
            continue
        path, following = span.file.path, span.sharing.next_restarts
        raw_ats = [restart.raw_at for restart in following]
        found = bad.passed_restarts
        passed = [[at, found[path, at]] for at in raw_ats if (path, at) in found]
        notes.append([number, bad.used_restarts.get((path, span.start)), passed])
    return {RECORD_KEY: notes} if notes else {}


def corrected_spans(
    parts: Mapping[str, Sequence[Span]], records: Mapping[str, Record]
) -> dict[str, list[Span]]:
    """The spans of each part that has to be run again, with restarts that hold; `parts` are the
    spans of all parts, by name, and `records` those of the finished parts."""
    places = [
        (span, name, number)
        for name, spans in parts.items()
        for number, span in enumerate(spans)
        if span.sharing is not None
    ]
    places.sort(key=lambda place: (place[0].file.path, place[0].start))
    notes = {name: _notes_of(records[name]) for name in {name for _, name, _ in places}}
    corrected: dict[str, list[Span]] = {}
    for _, group in groupby(places, key=lambda place: place[0].file.path):
        of_file = list(group)
        spans = [span for span, _, _ in of_file]
        found = [notes[name].get(number, _Notes(None, {})) for _, name, number in of_file]
        for at, span in _corrected(spans, found):
            _, name, number = of_file[at]
            corrected.setdefault(name, list(parts[name]))[number] = span
    return corrected


def _notes_of(record: Mapping[str, Any]) -> dict[int, _Notes]:
    return {
        number: _Notes(tuple(started) if started else None, dict(map(tuple, passed)))
        for number, started, passed in record.get(RECORD_KEY, ())
    }


def _corrected(spans: Sequence[Span], notes: Iterable[_Notes]) -> Iterator[tuple[int, Span]]:
    """(number, span with restarts that hold) of those spans of a file that were read from a restart
    that does not hold.

    Where nobody passed that restart, as after damage in an xz stream, whose rest is lost, reading
    starts at the last restart before that was passed: what follows it up to the damage is all that
    is decompressed again. Spans that may start beyond what is lost wait until those before them are
    read again: these may pass their restarts.
    """
    true: dict[int, int] = {}
    holding: tuple[Restart, ...] = ()
    lost_to: int | None = None
    for number, (span, (started, passed)) in enumerate(zip(spans, notes, strict=True)):
        shift = 0
        restarts = span.sharing.restarts if span.sharing is not None else ()
        held = (r._replace(offset=true[r.raw_at]) for r in restarts if r.raw_at in true)
        holding = (*held, *holding)[:_MAX_RESTARTS]
        if started is not None:
            raw_at, offset = started
            if lost_to is not None or raw_at not in true:  # no part of the file starts there
                if lost_to is None:
                    lost_to = max((_part_end(restart) for restart in restarts), default=0)
                elif any(restart.raw_at >= lost_to for restart in restarts):
                    return
                yield number, _with_restarts(span, holding)
                continue
            shift = true[raw_at] - offset
            if shift:
                yield number, _with_restarts(span, holding)
        true |= {at: offset + shift for at, offset in passed.items()}


def _part_end(restart: Restart) -> int:
    """A byte of the file up to which all is lost where nothing can be read from the restart."""
    return restart.raw_at if restart.xz is None else restart.xz.stream_end


def _with_restarts(span: Span, holding: tuple[Restart, ...]) -> Span:
    """The span with restarts that hold."""
    assert span.sharing is not None
    return replace(span, sharing=span.sharing._replace(restarts=holding, is_confirmed=True))

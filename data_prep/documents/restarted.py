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

RECORD_KEY = "restarts"
"""Of the record of a part: its spans of compressed files that have or precede a restart."""


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
    that does not hold."""
    true: dict[int, int] = {}
    is_known = True
    for number, (span, (started, passed)) in enumerate(zip(spans, notes, strict=True)):
        shift = 0
        if started is not None:
            raw_at, offset = started
            is_known = is_known and raw_at in true
            if not is_known:  # no part of the file starts there
                yield number, _with_restarts(span, {})
                continue
            shift = true[raw_at] - offset
            if shift:
                yield number, _with_restarts(span, true)
        true = {at: offset + shift for at, offset in passed.items()}


def _with_restarts(span: Span, true: Mapping[int, int]) -> Span:
    """The span with those of its restarts that exist, and the offsets that they have."""
    assert span.sharing is not None
    restarts = tuple(
        restart._replace(offset=true[restart.raw_at])
        for restart in span.sharing.restarts
        if restart.raw_at in true
    )
    return replace(span, sharing=span.sharing._replace(restarts=restarts))

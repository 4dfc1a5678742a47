"""How much the figures of an evaluation rest on, and a warning where that is little."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MIN_ITEMS = 30
"""Of fewer documents, or items of a probe, an interval says little: what it is computed from varies
as much itself."""
MAX_NAMES = 5
HOLD_OUT_MORE = "a larger heldout_share in the config of data preparation"


@dataclass(frozen=True)
class Sample:
    """The documents of a source that figures are computed on."""

    documents: int
    """About how many: parts of them are read, so that only their share is known."""
    available: int
    """Those that there are to read."""

    @classmethod
    def of_share(cls, available: int, share: float) -> "Sample":
        """That of `share` of a source, which is read in its order."""
        return cls(min(available, max(1, math.ceil(available * share))), available)


def few_documents(
    what: str, samples: Mapping[str, Sample], read_more: str, have_more: str
) -> list[str]:
    """A warning on the sources of `samples` that have few documents; none where all have enough.

    `what` the figures are, `read_more` how more of the available documents are read, `have_more`
    how there are more.
    """
    few = {name: sample for name, sample in samples.items() if sample.documents < MIN_ITEMS}
    if not few:
        return []
    unread = [name for name, sample in few.items() if sample.available >= MIN_ITEMS]
    missing = [name for name in few if name not in unread]
    advice = [f"{read_more} reads more of {_listed(unread)}"] if unread else []
    advice += [f"{have_more} gives more of {_listed(missing)}"] if missing else []
    found = _listed([f"{name} (about {sample.documents})" for name, sample in few.items()])
    return [
        f"{what}: fewer than {MIN_ITEMS} documents of {found}: other ones may give quite "
        f"different figures; {', '.join(advice)}"
    ]


def few_items(what: str, items: str, counts: Mapping[str, int]) -> list[str]:
    """A warning on the probes of `counts` that have few `items`; none where all have enough."""
    few = [f"{name} ({count})" for name, count in counts.items() if count < MIN_ITEMS]
    if not few:
        return []
    return [
        f"{what}: fewer than {MIN_ITEMS} {items} of {_listed(few)}: differences of such figures "
        f"are mostly chance; give more {items}"
    ]


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")

"""How much the stages hold in memory at once."""

from dataclasses import dataclass, field

from data_prep.dedup.limits import DedupLimits
from data_prep.packing.order import ORDER_DOCUMENTS
from data_prep.packing.streams import RANGE_DOCUMENTS
from data_prep.readers.document import BATCH_CHARACTERS


@dataclass(frozen=True)
class Limits:
    """Sizes that decide memory and speed. The rows do not depend on them."""

    batch_characters: int = BATCH_CHARACTERS
    """Text that is normalised and filtered at once."""
    dedup: DedupLimits = field(default_factory=DedupLimits)
    interleave_documents: int = RANGE_DOCUMENTS
    """Documents whose order is computed at once."""
    order_documents: int = ORDER_DOCUMENTS
    """Documents that are sorted by `pack.order_by.field` at once. Where more have equal keys, these
    are divided after as many documents of the source."""

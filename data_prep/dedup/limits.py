"""How much deduplication holds in memory at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DedupLimits:
    """Sizes that decide memory and speed of the stages. Results do not depend on them, but for
    `set_documents`."""

    signature_parts: int = 1024
    """Parts of the signatures at most: each range of a join reads a slice of all of them."""
    join_documents: int = 10_000_000
    """Documents of a part of a join."""
    range_keys: int = 2_000_000
    """Keys of it that are in memory together. They take about 25 bytes each, 70 where most are
    those of copies."""
    set_documents: int = 1 << 18
    """Documents with equal keys that are compared in memory; more of them are read a few at a time,
    and each is compared with few others, also where 32 or fewer are left without copies."""
    join_lines: int = 16_000_000
    """Different lines of a part that looks for repeated ones."""
    line_files: int = 500
    """Files of lines that a part reads: those of a source with more are merged first."""
    line_runs: int = 256
    """Files that these are merged to, at most, however many there are."""
    join_ids: int = 20_000_000
    """Document ids of a part that looks for repeated ones."""
    table_ngrams: int = 4_000_000
    """Hashes of evaluation n-grams that are sorted together."""
    table_ranges: int = 16
    """Ranges of a table of them at most, a power of two: every file of documents is looked up in
    all of them."""
    pairs: int = 1 << 20
    """Pairs of documents that are joined to clusters together."""
    cluster_documents: int = 1 << 21
    """Documents whose clusters are in memory together, 10 bytes each; a multiple of 8."""
    labels: int = 1 << 20
    """Documents whose cluster labels are read together."""
    window_bytes: int = 1 << 23
    """Bytes of the cluster labels that a join has in memory together."""
    open_files: int = 2048
    """Files of a folder that a worker keeps open, if the system lets it open three times as
    many."""

    def __post_init__(self) -> None:
        # A byte of the file of copies holds the bits of eight documents.
        assert self.cluster_documents % 8 == 0

"""Tokens per byte of a corpus, with the old and with the extended tokenizer."""

from collections import Counter

import numpy as np

from data_prep.dedup.selection import SAMPLE, Selection, chosen
from data_prep.tokenization.existing import PreparedTokenizer

_MEASURED_BYTES = 1_000_000
"""Text of each source that is measured, bytes."""


def fertility(
    old: PreparedTokenizer, new: PreparedTokenizer, selection: Selection, heldout_share: float
) -> dict[str, dict[str, int]]:
    """By source: `bytes` of text, and the tokens that it has, `tokens_before` and `tokens_after`.

    Measured on held-out documents, which no token was learned from, if there are any; else on a
    random sample of all. About `_MEASURED_BYTES` of each source.
    """
    counts: dict[str, Counter[str]] = {}
    for file in selection.files:
        found = counts.setdefault(file.source, Counter(bytes=0, tokens_before=0, tokens_after=0))
        if found["bytes"] >= _MEASURED_BYTES:
            continue
        flags = selection.kept(file)
        if heldout_share:
            flags &= selection.heldout(file, heldout_share)
        else:
            share = 2 * _MEASURED_BYTES / max(selection.kept_bytes[file.source], 1)
            flags &= chosen(selection.hashes(file), share, SAMPLE)
        for texts in selection.chosen_texts(file, np.asarray(flags)):
            for text in texts:
                if found["bytes"] < _MEASURED_BYTES:
                    before, after = (_ids(tokenizer, text.decode()) for tokenizer in (old, new))
                    # What `extension` promises, on real text.
                    if before != after:
                        assert max(after, default=0) >= old.vocab_size, text[:100]
                    found["bytes"] += len(text)
                    found["tokens_before"] += len(before)
                    found["tokens_after"] += len(after)
    return {source: dict(found) for source, found in counts.items()}


def _ids(prepared: PreparedTokenizer, text: str) -> list[int]:
    return prepared.tokenizer.encode(text, add_special_tokens=False).ids

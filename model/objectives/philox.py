"""Random 64-bit words keyed by what they decide for, the same on every machine and rank.

numpy's Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a
counter-based bit generator: the words of a row are a function of (key, counter) alone. Only its raw
output is used, whose stability numpy guarantees; the methods of `Generator` may change.
"""

import numpy as np
from numpy.typing import NDArray

# A row's words start at counter row_number * 2**32 (each counter step yields four words).
_COUNTERS_PER_ROW = 1 << 32
_MAX_SEED = (1 << 64) - 1
_MAX_HALF = (1 << 32) - 1


def row_words(
    num_words: int,
    *,
    seed: int,
    passes: NDArray[np.integer],
    sources: NDArray[np.integer],
    row_numbers: NDArray[np.integer],
) -> NDArray[np.uint64]:
    """[n, num_words] uint64: row i's words, a function of (seed, pass, source, row number) of it.

    `passes`, `sources`, `row_numbers` are [n] and not negative; passes and sources below 2**32.
    """
    if not 0 <= seed <= _MAX_SEED:
        raise ValueError(f"seed must be between 0 and 2**64 - 1, not {seed}")
    words = np.empty((len(row_numbers), num_words), dtype=np.uint64)
    generators: dict[tuple[int, int], tuple[np.random.Philox, int]] = {}
    # Words come in fours: a request that is no multiple of four leaves a partly used buffer,
    # which `advance` throws away.
    counters_used = -(-num_words // 4)
    rows = zip(passes.tolist(), sources.tolist(), row_numbers.tolist(), strict=True)
    for i, (pass_number, source, row_number) in enumerate(rows):
        entry = generators.get((pass_number, source))
        if entry is None:
            entry = (np.random.Philox(key=_key(seed, pass_number, source)), 0)
        generator, counter = entry
        start = row_number * _COUNTERS_PER_ROW
        if start != counter:
            generator.advance(start - counter)
        words[i] = generator.random_raw(num_words)
        generators[pass_number, source] = (generator, start + counters_used)
    return words


def _key(seed: int, pass_number: int, source: int) -> int:
    if not (0 <= pass_number <= _MAX_HALF and 0 <= source <= _MAX_HALF):
        raise ValueError(f"pass {pass_number} and source {source} must be between 0 and 2**32 - 1")
    return seed | (pass_number << 64) | (source << 96)

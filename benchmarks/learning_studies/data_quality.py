"""Study 3: the base of the ablations on the corpus without deduplication, and without filters.

Rows, tokenizer, network and order are the same; held-out rows are those of the clean corpus. All
corpora leave out what overlaps with their held-out documents, so no copy of those is trained on.
"""

from functools import partial
from pathlib import Path

from benchmarks.learning_studies.ablations import Variant, train_variants
from benchmarks.learning_studies.corpora import prepare_corpus, summary
from benchmarks.learning_studies.results import Results

STUDY = "data"
VARIANTS = {
    "no-dedup": Variant(corpus="small-no-dedup"),
    "no-filters": Variant(corpus="small-no-filters"),
    "neither": Variant(corpus="small-raw"),
}
"""Compared with the runs `base` of the ablations."""


def run(folder: Path, scale: float) -> None:
    """All of the study; `scale` times the rows of every run."""
    results = Results(folder, STUDY)
    for name in ("small", *(variant.corpus for variant in VARIANTS.values())):
        rows = prepare_corpus(folder, name)
        results.compute(f"corpus-{name}", partial(summary, rows=rows))
    train_variants(Results(folder, "ablations"), {"base": Variant(seeds=(1, 2, 3))}, scale)
    train_variants(results, VARIANTS, scale)

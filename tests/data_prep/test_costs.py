"""What stages cost: counted for each part, and in proportion to the documents at any size."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse.csgraph  # noqa: F401 (loading it would count as reading)

from data_prep.dataset.atomic import save_array
from data_prep.dedup.candidates import all_bands, first_pairs_stage, pairs_stage
from data_prep.dedup.cluster_stages import all_clusters_stage, clusters_stage
from data_prep.dedup.config import DecontaminateConfig, DedupConfig, LineDedupConfig
from data_prep.dedup.decontaminate import excluded_ngrams_stage, overlap_stage
from data_prep.dedup.evaluation import set_names
from data_prep.dedup.exclusion import exclusion_stage
from data_prep.dedup.keys import keys_stage
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.line_runs import line_runs_stage
from data_prep.dedup.lines import line_counts_stage, line_repeats_stage, line_table_stage
from data_prep.dedup.repeated_ids import ids_stage, repeated_ids_stage
from data_prep.dedup.selection import select
from data_prep.dedup.signatures import signatures_stage
from data_prep.dedup.verdicts import verdicts_stage
from data_prep.documents.files import DocumentFile, Documents
from data_prep.engine.costs import count_open, measured_costs
from data_prep.engine.execution import StageRunner
from data_prep.engine.stage import Reads, Stage, StageResult
from data_prep.engine.tasks import divided
from data_prep.kernels.build import kernels
from data_prep.limits import Limits
from data_prep.run import prepare
from data_prep.stages import STAGES
from data_prep.tokenization.config import TrainTokenizerConfig
from data_prep.tokenization.sample import sample_stage
from tests.data_prep.corpora import config_of, write_corpus

DOCUMENTS, PARTITIONS = 3_000_000_000, 100_000
DOCUMENT_BYTES, LINES, NGRAMS = 3_300, 20, 300
"""Of a made-up document of 10 TB."""
MADE_UP = Path("/made-up")
OPENS_PER_FILE, OPENS_PER_PART = 12, 50
"""What a part opens at most for each file that it reads or writes, and besides."""


def test_opened_files_bytes_memory_and_processor_time_are_counted(tmp_path: Path) -> None:
    with measured_costs() as costs:
        save_array(tmp_path / "a.npy", np.zeros(1_000_000))
        content = (tmp_path / "a.npy").read_bytes()
        count_open()
        held = np.ones(20_000_000, np.uint8)
    assert len(content) == 8_000_128
    assert costs.bytes_written >= 8_000_128
    assert 8_000_128 <= costs.bytes_read < 8_100_000
    assert 3 <= costs.opens <= 10
    assert costs.peak_bytes > held.nbytes
    used = time.process_time()
    with measured_costs() as busy:
        while time.process_time() < used + 0.05:
            pass
    assert 40 <= busy.cpu_ms < 1000
    with measured_costs() as nothing:
        pass
    assert nothing.opens <= 2
    assert nothing.bytes_written == 0


@pytest.fixture(scope="module")
def stages_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Stage[Any]]]:
    """A run in many small parts: its folder, and its stages."""
    folder = tmp_path_factory.mktemp("costs")
    write_corpus(folder / "raw")
    for kernel in kernels():
        kernel.compile()  # loading them would count as reading
    limits = DedupLimits(
        signature_parts=6,
        join_documents=60,
        join_lines=200,
        line_files=4,
        line_runs=3,
        join_ids=60,
        table_ngrams=400,
        cluster_documents=64,
        labels=8,
    )
    stages: list[Stage[Any]] = []
    run = StageRunner.run

    def remembered(self: StageRunner, stage: Stage[Any], *arguments: Any) -> StageResult[Any]:
        stages.append(stage)
        return run(self, stage, *arguments)

    config = config_of(
        folder,
        part_mb=0.05,
        dedup={"lines": {"min_words": 2, "max_documents": 4}},
        decontaminate={"ngram_words": 2, "max_share": 0.15},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageRunner, "run", remembered)
        prepare(config, Limits(dedup=limits))
    return folder, stages


def test_every_part_costs_about_what_its_stage_expects(
    stages_run: tuple[Path, list[Stage[Any]]],
) -> None:
    folder, stages = stages_run
    # A shard here holds documents of many files; of usual size, those of few.
    for stage in (stage for stage in stages if stage.name != "rows"):
        records = json.loads((folder / "work" / stage.name / "done.json").read_text())["records"]
        assert records or stage.name in ("layout", "line_runs"), stage.name
        for part, record in zip(stage.parts, records, strict=True):
            reads, costs = stage.reads_of(part), record["costs"]
            files = reads.files + len(record["outputs"])
            written = sum(entry["bytes"] for entry in record["outputs"].values())
            assert costs["opens"] <= OPENS_PER_FILE * files + OPENS_PER_PART, (part.name, costs)
            # A file that is opened is read at least in pages; what is written is hashed.
            most = 4 * (reads.bytes + written) + 10_000 * costs["opens"] + 100_000
            if stage.name not in ("ingest", "tokenizer"):  # they load code
                assert costs["bytes_read"] <= most, (part.name, costs, most)


def test_the_report_has_the_costs_of_every_stage(
    stages_run: tuple[Path, list[Stage[Any]]],
) -> None:
    folder, stages = stages_run
    costs = json.loads((folder / "rows/report.json").read_text())["costs"]
    assert list(costs) == [stage.name for stage in stages]
    assert costs["pairs"]["comparisons"] + costs["first_pairs"]["comparisons"] > 20
    assert all(value["opens"] > 0 for value in costs.values() if value["parts"])
    assert sum(value["cpu_ms"] for value in costs.values()) > 0
    assert max(value["peak_bytes"] for value in costs.values()) > 50_000_000
    page = (folder / "rows/report.html").read_text()
    assert "What the stages cost" in page


def made_up_documents(each: int, partitions: int) -> Documents:
    files = [
        DocumentFile(
            name=f"web-{k:06d}",
            num_bytes=each * DOCUMENT_BYTES,
            source="web",
            num_documents=each,
            first=k * each,
            content=f"{k}",
        )
        for k in range(partitions)
    ]
    return Documents(MADE_UP, files, "ingest", "made-up")


def done(stage: Stage[Any], count_of: Callable[[Any], dict[str, Any]]) -> StageResult[Any]:
    """The stage with a record of each part, as if it had run."""
    hashes = {"outputs": {"file": {"xxh3_128": "0"}}}
    records = [{**hashes, **count_of(part)} for part in stage.parts]
    return StageResult(
        folder=MADE_UP, parts=stage.parts, records=records, content_fingerprint="made-up"
    )


def made_up_run(documents: int, partitions: int) -> Iterable[Stage[Any]]:
    """The stages of a run with so many documents in so many files, none of which exists."""
    docs, limits = made_up_documents(documents // partitions, partitions), DedupLimits()

    def of_run(run: Any) -> dict[str, Any]:
        return {"documents": run.num_documents}

    ids = ids_stage(docs, ["web"], limits)
    repeated = repeated_ids_stage(done(ids, of_run), docs, limits)
    counts = line_counts_stage(docs, LineDedupConfig())
    counted = done(counts, lambda file: {"lines": LINES * file.num_documents})
    runs = line_runs_stage(counted, limits)
    merged = done(runs, lambda run: {"lines": run.num_lines})
    repeats = line_repeats_stage(counted, merged, LineDedupConfig(), limits)
    of_range = LINES * documents // max(len(repeats.parts), 1) // 100
    table = line_table_stage(done(repeats, lambda part: {"repeated_lines": of_range}))
    yield from (ids, repeated, counts, runs, repeats, table)

    config = DedupConfig()
    signatures = signatures_stage(docs, config, limits)
    signed = done(signatures, of_run)
    keys = keys_stage(signed, all_bands(config))
    sorted_keys = done(keys, of_run)
    first = first_pairs_stage(signed, sorted_keys, config, limits)
    found = done(first, lambda part: {"pairs": documents // 5 // part.num_ranges})
    clusters = clusters_stage(signed, found, limits)
    joined = done(clusters, lambda part: {})
    pairs = pairs_stage(signed, sorted_keys, joined, config, limits)
    later = done(pairs, lambda part: {"pairs": documents // 100 // part.num_ranges})
    all_clusters = all_clusters_stage(signed, joined, later, limits)
    whole = done(all_clusters, lambda part: {})
    verdicts = verdicts_stage(signed, joined, whole, ["web"], limits)
    yield from (signatures, keys, first, clusters, pairs, all_clusters, verdicts)

    def judged(run: Any) -> dict[str, Any]:
        return {"kept_bytes": run.num_bytes, "files": {file.name: "" for file in run.files}}

    selection = select(docs, done(verdicts, judged), MADE_UP, ["web"])
    rules = DecontaminateConfig()
    excluded = excluded_ngrams_stage(rules, selection, 0.0001, "skip", limits)
    ngrams = int(NGRAMS * documents * 0.0001 / len(excluded.parts))
    hashed = done(excluded, lambda part: {"ngrams": ngrams, "short": 0, "prefixes": 0})
    exclusion = exclusion_stage(set_names(rules), hashed, limits)
    tables = done(exclusion, lambda part: {"combinations": [], "lengths": []})
    overlap = overlap_stage(rules, selection, 0.0001, tables)
    sample = sample_stage(TrainTokenizerConfig(vocab_size=50_000), selection, {}, 0.0001, limits)
    yield from (excluded, exclusion, overlap, sample)


def totals(documents: int, partitions: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for stage in made_up_run(documents, partitions):
        total["tasks"] += len(divided(range(len(stage.parts)), 32 * 64))
        for part in stage.parts:
            reads: Reads = stage.reads_of(part)
            total["opens"] += OPENS_PER_FILE * reads.files + OPENS_PER_PART
            total["bytes"] += reads.bytes
    return total


def test_ten_terabytes_cost_as_much_for_each_document_as_one() -> None:
    """c of docs/data.md, for 3 x 10^9 documents in 10^5 partitions."""
    whole, tenth = totals(DOCUMENTS, PARTITIONS), totals(DOCUMENTS // 10, PARTITIONS // 10)
    assert whole["tasks"] <= 1.1e-5 * DOCUMENTS
    assert whole["opens"] <= 0.1 * DOCUMENTS
    assert whole["bytes"] <= 7 * DOCUMENT_BYTES * DOCUMENTS
    for key, slack in (("tasks", 1.05), ("opens", 1.05), ("bytes", 1.05)):
        assert whole[key] <= slack * 10 * tenth[key], key


@pytest.mark.parametrize(
    ("documents", "num_ranges"), [(DOCUMENTS // 10, 4), (DOCUMENTS, 16), (10 * DOCUMENTS, 16)]
)
def test_ngrams_of_heldout_documents_are_joined_by_many_workers(
    documents: int, num_ranges: int
) -> None:
    """And documents are looked up in few files, however many n-grams there are."""
    stages = {stage.name: stage for stage in made_up_run(documents, PARTITIONS // 10)}
    exclusion, overlap = stages["exclusion"], stages["overlap"]
    reads = [exclusion.reads_of(part) for part in exclusion.parts]
    assert len(reads) == num_ranges
    assert sum(read.bytes for read in reads) == pytest.approx(
        8 * NGRAMS * documents / 1e4, rel=1e-4
    )
    assert all(read.files <= DedupLimits().signature_parts for read in reads)
    assert overlap.reads_of(overlap.parts[0]).files == 1 + 3 * num_ranges


def test_all_stages_that_join_documents_are_in_the_made_up_run() -> None:
    made = {stage.name for stage in made_up_run(1000, 10)}
    one_file_a_part = {"ingest", "clean", "encode", "order_keys"}
    of_rows = {"interleave", "order_runs", "order", "layout", "rows"}
    assert made | one_file_a_part | of_rows | {"tokenizer"} == {entry.name for entry in STAGES}

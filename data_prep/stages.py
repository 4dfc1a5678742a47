"""The list of stages: the run, ``--dry-run``, ``--restart-from`` and the docs follow it.

To add a stage, write a `Stage` (`data_prep.engine.stage`) in its package, a function that builds it
in `data_prep.stage_builders`, and here an entry in `STAGES`.
"""

from data_prep import stage_builders as builders
from data_prep.dedup import (
    candidates,
    clean,
    cluster_stages,
    decontaminate,
    exclusion,
    keys,
    line_runs,
    lines,
    repeated_ids,
    signatures,
    verdicts,
)
from data_prep.documents import ingest
from data_prep.packing import layout, order, order_keys, order_runs, rows, streams
from data_prep.stage_entry import (
    DECONTAMINATE,
    LEARNED_TOKENIZER,
    LINES,
    MIXED,
    ORDERED,
    StageEntry,
)
from data_prep.tokenization import encode, sample, tokenizer

DOCUMENTS = (ingest.IngestStage, clean.CleanStage)
SIGNED = (signatures.SignaturesStage, keys.KeysStage)
DEDUPLICATED = (*DOCUMENTS, signatures.SignaturesStage, verdicts.VerdictsStage)
SELECTED = (*DEDUPLICATED, decontaminate.OverlapStage)
STREAMED = (encode.EncodeStage, streams.InterleaveStage, order.OrderStage)
READ_FOR_REPORT = (
    *DEDUPLICATED,
    encode.EncodeStage,
    order_keys.OrderKeysStage,
    tokenizer.TokenizerStage,
    rows.RowsStage,
)
"""Whose outputs are read when the rows are published."""

STAGES = (
    StageEntry(ingest.IngestStage, builders.build_ingest, check=builders.check_ingested),
    StageEntry(repeated_ids.IdsStage, builders.build_ids, [ingest.IngestStage]),
    StageEntry(
        repeated_ids.RepeatedIdsStage,
        builders.build_repeated_ids,
        [ingest.IngestStage, repeated_ids.IdsStage],
        check=builders.check_ids,
    ),
    StageEntry(lines.LineCountsStage, builders.build_line_counts, [ingest.IngestStage], LINES),
    StageEntry(line_runs.LineRunsStage, builders.build_line_runs, [lines.LineCountsStage], LINES),
    StageEntry(
        lines.LineRepeatsStage,
        builders.build_line_repeats,
        [lines.LineCountsStage, line_runs.LineRunsStage],
        LINES,
    ),
    StageEntry(lines.LineTableStage, builders.build_line_table, [lines.LineRepeatsStage], LINES),
    StageEntry(
        clean.CleanStage, builders.build_clean, [ingest.IngestStage, lines.LineTableStage], LINES
    ),
    StageEntry(signatures.SignaturesStage, builders.build_signatures, DOCUMENTS),
    StageEntry(keys.KeysStage, builders.build_keys, [signatures.SignaturesStage]),
    StageEntry(candidates.FirstPairsStage, builders.build_first_pairs, SIGNED),
    StageEntry(cluster_stages.ClustersStage, builders.build_clusters, [candidates.FirstPairsStage]),
    StageEntry(
        candidates.PairsStage, builders.build_pairs, [*SIGNED, cluster_stages.ClustersStage]
    ),
    StageEntry(
        cluster_stages.AllClustersStage,
        builders.build_all_clusters,
        [cluster_stages.ClustersStage, candidates.PairsStage],
    ),
    StageEntry(
        verdicts.VerdictsStage,
        builders.build_verdicts,
        [
            signatures.SignaturesStage,
            cluster_stages.ClustersStage,
            cluster_stages.AllClustersStage,
        ],
    ),
    StageEntry(
        decontaminate.ExcludedNgramsStage,
        builders.build_excluded_ngrams,
        DEDUPLICATED,
        DECONTAMINATE,
        check=builders.check_excluded,
    ),
    StageEntry(
        exclusion.ExclusionStage,
        builders.build_exclusion,
        [decontaminate.ExcludedNgramsStage],
        DECONTAMINATE,
    ),
    StageEntry(
        decontaminate.OverlapStage,
        builders.build_overlap,
        [*DEDUPLICATED, exclusion.ExclusionStage],
        DECONTAMINATE,
    ),
    StageEntry(sample.SampleStage, builders.build_sample, SELECTED, LEARNED_TOKENIZER),
    StageEntry(
        tokenizer.TokenizerStage,
        builders.build_tokenizer,
        [*SELECTED, sample.SampleStage],
        check=builders.check_tokenizer,
    ),
    StageEntry(
        encode.EncodeStage,
        builders.build_encode,
        [*SELECTED, tokenizer.TokenizerStage],
        check=builders.check_encoded,
    ),
    StageEntry(streams.InterleaveStage, builders.build_interleave, [encode.EncodeStage], MIXED),
    StageEntry(order_keys.OrderKeysStage, builders.build_order_keys, SELECTED, ORDERED),
    StageEntry(
        order_runs.OrderRunsStage,
        builders.build_order_runs,
        [encode.EncodeStage, order_keys.OrderKeysStage],
        ORDERED,
    ),
    StageEntry(order.OrderStage, builders.build_order, [order_runs.OrderRunsStage], ORDERED),
    StageEntry(layout.LayoutStage, builders.build_layout, STREAMED),
    StageEntry(rows.RowsStage, builders.build_rows, [*STREAMED, layout.LayoutStage]),
)
"""All stages in their order; a run has those whose condition its config meets."""


def names_from(name: str) -> list[str]:
    """The names of a stage and of all stages after it."""
    names = [entry.name for entry in STAGES]
    return names[names.index(name) :]


def stages_table() -> str:
    """The stages as a Markdown table, for the docs."""
    lines = ["| stage | what it does | only with | its output |", "|---|---|---|---|"]
    for entry in STAGES:
        key = f"`{entry.condition.key}`" if entry.condition.key else ""
        stage = entry.stage
        lines.append(f"| `{entry.name}` | {stage.summary()} | {key} | {stage.output} |")
    return "\n".join(lines) + "\n"

"""Builds each stage from the config and earlier results, and checks what some of them found."""

from collections.abc import Mapping
from typing import Any

from data_prep.dedup import (
    candidates,
    clean,
    cluster_stages,
    decontaminate,
    evaluation,
    exclusion,
    keys,
    line_runs,
    lines,
    repeated_ids,
    signatures,
    verdicts,
)
from data_prep.documents import ingest, losses
from data_prep.documents.known_spans import KnownSpans
from data_prep.engine.stage import Stage
from data_prep.packing import layout, order, order_keys, order_runs, rows, streams
from data_prep.preparation import Preparation
from data_prep.tokenization import encode, sample, tokenizer
from data_prep.tokenization.config import LEARNED


def build_ingest(
    run: Preparation, plan: Mapping[str, Any] | None = None, is_dry: bool = False
) -> ingest.IngestStage:
    """The first stage, which needs no other; for the files that exist, or those of a `plan`.

    How files that exist are cut is remembered in the work folder, unless the run `is_dry`.
    """
    config = run.config
    known = KnownSpans(config.work / ingest.IngestStage.name)
    stage = ingest.ingest_stage(
        config.sources,
        {name: config.filters_of(name) for name in config.sources},
        scrub=config.scrub,
        form=config.normalise,
        max_document_bytes=int(config.max_document_mb * 1_000_000),
        on_bad_record=config.on_bad_record,
        part_bytes=int(config.part_mb * 1_000_000),
        batch_characters=run.limits.batch_characters,
        plan=plan,
        known=known,
    )
    if plan is None and not is_dry:
        known.write()
    return stage


def check_ingested(run: Preparation) -> None:
    losses.check_bad_share(run.result(ingest.IngestStage), run.config.max_bad_share)
    losses.check_losses(run.result(ingest.IngestStage))


def build_ids(run: Preparation) -> repeated_ids.IdsStage:
    sources = run.config.sources_with_ids
    return repeated_ids.ids_stage(run.ingested_documents, sources, run.limits.dedup)


def build_repeated_ids(run: Preparation) -> repeated_ids.RepeatedIdsStage:
    hashed = run.result(repeated_ids.IdsStage)
    return repeated_ids.repeated_ids_stage(hashed, run.ingested_documents, run.limits.dedup)


def check_ids(run: Preparation) -> None:
    repeated = run.result(repeated_ids.RepeatedIdsStage)
    repeated_ids.check_ids(repeated, run.config.on_bad_record)


def build_line_counts(run: Preparation) -> lines.LineCountsStage:
    assert run.config.dedup.lines is not None
    return lines.line_counts_stage(run.ingested_documents, run.config.dedup.lines)


def build_line_runs(run: Preparation) -> line_runs.LineRunsStage:
    return line_runs.line_runs_stage(run.result(lines.LineCountsStage), run.limits.dedup)


def build_line_repeats(run: Preparation) -> lines.LineRepeatsStage:
    assert run.config.dedup.lines is not None
    counted, merged = run.result(lines.LineCountsStage), run.result(line_runs.LineRunsStage)
    return lines.line_repeats_stage(counted, merged, run.config.dedup.lines, run.limits.dedup)


def build_line_table(run: Preparation) -> lines.LineTableStage:
    return lines.line_table_stage(run.result(lines.LineRepeatsStage))


def build_clean(run: Preparation) -> clean.CleanStage:
    config, tables = run.config, run.result(lines.LineTableStage)
    assert config.dedup.lines is not None
    filters = {name: config.filters_of(name) for name in config.sources}
    min_words = {name: limits.min_words * limits.apply for name, limits in filters.items()}
    kept = [name for name in config.sources if config.form_of(name).keeps_whitespace]
    return clean.clean_stage(run.ingested_documents, tables, config.dedup.lines, min_words, kept)


def build_signatures(run: Preparation) -> signatures.SignaturesStage:
    return signatures.signatures_stage(run.documents, run.config.dedup, run.limits.dedup)


def build_keys(run: Preparation) -> keys.KeysStage:
    signed = run.result(signatures.SignaturesStage)
    return keys.keys_stage(signed, candidates.all_bands(run.config.dedup))


def build_first_pairs(run: Preparation) -> candidates.FirstPairsStage:
    signed, sorted_keys = run.result(signatures.SignaturesStage), run.result(keys.KeysStage)
    return candidates.first_pairs_stage(signed, sorted_keys, run.config.dedup, run.limits.dedup)


def build_clusters(run: Preparation) -> cluster_stages.ClustersStage:
    signed = run.result(signatures.SignaturesStage)
    first_pairs = run.result(candidates.FirstPairsStage)
    return cluster_stages.clusters_stage(signed, first_pairs, run.limits.dedup)


def build_pairs(run: Preparation) -> candidates.PairsStage:
    return candidates.pairs_stage(
        run.result(signatures.SignaturesStage),
        run.result(keys.KeysStage),
        run.result(cluster_stages.ClustersStage),
        run.config.dedup,
        run.limits.dedup,
    )


def build_all_clusters(run: Preparation) -> cluster_stages.AllClustersStage:
    return cluster_stages.all_clusters_stage(
        run.result(signatures.SignaturesStage),
        run.result(cluster_stages.ClustersStage),
        run.result(candidates.PairsStage),
        run.limits.dedup,
    )


def build_verdicts(run: Preparation) -> verdicts.VerdictsStage:
    return verdicts.verdicts_stage(
        run.result(signatures.SignaturesStage),
        run.result(cluster_stages.ClustersStage),
        run.result(cluster_stages.AllClustersStage),
        list(run.config.sources),
        run.limits.dedup,
    )


def build_excluded_ngrams(run: Preparation) -> decontaminate.ExcludedNgramsStage:
    config = run.config
    assert config.decontaminate is not None
    return decontaminate.excluded_ngrams_stage(
        config.decontaminate,
        run.deduplicated,
        config.heldout_share,
        config.on_bad_record,
        run.limits.dedup,
    )


def check_excluded(run: Preparation) -> None:
    assert run.config.decontaminate is not None
    excluded = run.result(decontaminate.ExcludedNgramsStage)
    decontaminate.warn_of_unusable_texts(excluded, run.config.decontaminate)


def build_exclusion(run: Preparation) -> exclusion.ExclusionStage:
    assert run.config.decontaminate is not None
    excluded = run.result(decontaminate.ExcludedNgramsStage)
    names = evaluation.set_names(run.config.decontaminate)
    return exclusion.exclusion_stage(names, excluded, run.limits.dedup)


def build_overlap(run: Preparation) -> decontaminate.OverlapStage:
    assert run.config.decontaminate is not None
    tables = run.result(exclusion.ExclusionStage)
    return decontaminate.overlap_stage(
        run.config.decontaminate, run.deduplicated, run.config.heldout_share, tables
    )


def build_sample(run: Preparation) -> sample.SampleStage:
    config, limits = run.config, run.limits.dedup
    assert isinstance(config.tokenizer, LEARNED)
    return sample.sample_stage(
        config.tokenizer, run.selection, run.selection_inputs, config.heldout_share, limits
    )


def build_tokenizer(run: Preparation) -> tokenizer.TokenizerStage:
    config, inputs = run.config, run.selection_inputs
    sampled = run.result_if_any(sample.SampleStage)
    files = sampled.files(".parquet") if sampled else []
    return tokenizer.tokenizer_stage(
        config.tokenizer, run.selection, inputs, config.heldout_share, config.encoder, files
    )


def check_tokenizer(run: Preparation) -> None:
    if not (run.config.work / encode.EncodeStage.name / "done.json").exists():
        made = run.result(tokenizer.TokenizerStage)
        run.notice(tokenizer.notices(run.config.encoder, made))


def build_encode(run: Preparation) -> encode.EncodeStage:
    return encode.encode_stage(
        run.selection,
        run.selection_inputs,
        run.result(tokenizer.TokenizerStage),
        heldout_share=run.config.heldout_share,
        checked_share=run.config.checked_share,
        encoder=run.config.encoder,
    )


def check_encoded(run: Preparation) -> None:
    encode.warn_of_unknown_text(run.result(encode.EncodeStage))


def build_interleave(run: Preparation) -> streams.InterleaveStage:
    encoded = run.result(encode.EncodeStage)
    repeats = {name: s.repeat for name, s in run.config.sources.items() if s.repeat != 1}
    at_once = run.limits.interleave_documents
    return streams.interleave_stage(encoded, run.source_streams, at_once, repeats)


def build_order_keys(run: Preparation) -> order_keys.OrderKeysStage:
    config = run.config
    assert config.pack.order_field is not None
    return order_keys.order_keys_stage(
        run.selection, run.selection_inputs, config.pack.order_field, config.heldout_share
    )


def build_order_runs(run: Preparation) -> order_runs.OrderRunsStage:
    encoded, hashed = run.result(encode.EncodeStage), run.result(order_keys.OrderKeysStage)
    return order_runs.order_runs_stage(encoded, hashed, run.result(signatures.SignaturesStage))


def build_order(run: Preparation) -> order.OrderStage:
    sorted_keys = run.result(order_runs.OrderRunsStage)
    return order.order_stage(sorted_keys, run.source_streams, run.limits.order_documents)


def build_layout(run: Preparation) -> layout.LayoutStage:
    streamed_by: type[Stage[Any]] = encode.EncodeStage
    if run.config.pack.mixed:
        streamed_by = streams.InterleaveStage
    elif run.config.pack.order_field is not None:
        streamed_by = order.OrderStage
    streamed = run.result(streamed_by)
    return layout.layout_stage(streamed, streamed_by.name, run.config.pack, run.streams)


def build_rows(run: Preparation) -> rows.RowsStage:
    return rows.rows_stage(
        run.result(layout.LayoutStage),
        run.config.pack,
        run.streams,
        run.special_tokens,
        run.config.output,
    )

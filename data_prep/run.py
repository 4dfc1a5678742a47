"""Makes rows from sources: ``python -m data_prep.run CONFIG.yaml [key.sub=value ...]``.

Run again, it does no finished work; interrupted, it goes on where it stopped.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs import command
from configs.load import load
from data_prep.config import DataConfig
from data_prep.dry_run import describe
from data_prep.engine.stages import PartRunner, Stage, StageResult, restart_from, run_stage

if TYPE_CHECKING:
    from data_prep.dedup.selection import Selection

STAGES = (
    *("ingest", "ids", "repeated_ids", "line_counts", "line_repeats", "line_table", "clean"),
    *("signatures", "first_pairs", "clusters", "pairs", "verdicts"),
    *("excluded_ngrams", "exclusion", "overlap"),
    *("tokenizer", "encode", "interleave", "layout", "rows"),
)
"""All stages in their order; a run has those that its config asks for."""


def main() -> None:
    """Runs data preparation as the command line says."""
    parser = command.parser(__doc__ or "")
    parser.add_argument(
        "--restart-from",
        metavar="STAGE",
        choices=STAGES,
        help=f"do this stage and those after it anew ({', '.join(STAGES)})",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan with sizes, and do nothing"
    )
    parser.add_argument(
        "--scheduler-file",
        metavar="FILE",
        help="run the parts on the workers of the Dask scheduler that wrote this file",
    )
    arguments = parser.parse_args()
    overrides = list(arguments.overrides)
    if arguments.scheduler_file:
        overrides.append(
            f"engine={{type: scheduler, scheduler_file: '{arguments.scheduler_file}'}}"
        )
    config = load(arguments.config, DataConfig, overrides)
    if arguments.dry_run:
        print(describe(config, STAGES))
        return
    if arguments.restart_from:
        restart_from(config.work, STAGES[STAGES.index(arguments.restart_from) :])
    prepare(config)


def prepare(config: DataConfig) -> None:
    """Makes the rows of `config`, or finds them finished."""
    begun = time.monotonic()
    with config.engine.build() as engine:
        job = _Job(config.work, engine, _progress_line())
        _run_stages(config, job)
    seconds = time.monotonic() - begun
    if job.num_worked:
        print(f"done in {seconds:.1f} s: {config.output / 'report.html'}")
    else:
        print(f"{config.output}: finished before, nothing to do ({seconds:.1f} s)")


@dataclass
class _Job:
    """One run over the stages."""

    work: Path
    runner: PartRunner
    show: Callable[[str, bool], None]
    num_worked: int = 0
    results: dict[str, StageResult] = field(default_factory=dict)

    def run(self, stage: Stage) -> StageResult:
        def show(line: str, is_last: bool) -> None:
            self.num_worked += is_last
            self.show(line, is_last)

        result = run_stage(stage, self.work, self.runner, show)
        self.results[stage.name] = result
        return result


def _run_stages(config: DataConfig, job: _Job) -> None:
    from data_prep.dataset.manifest import narrowest_dtype
    from data_prep.dataset.tokenizer import load_tokenizer, special_tokens
    from data_prep.dedup import candidates as dedup
    from data_prep.dedup import repeated_ids, signatures, verdicts
    from data_prep.dedup.selection import select
    from data_prep.documents import ingest
    from data_prep.packing import id_stream, rows
    from data_prep.publish import publish, withdraw_if_other
    from data_prep.tokenization import encode

    sources = list(config.sources)
    ingested = job.run(ingest.ingest_stage(config))
    ingest.check_bad_share(ingested, config.max_bad_share)
    documents = ingest.documents_of(ingested)
    hashed = job.run(repeated_ids.ids_stage(config, documents))
    repeated_ids.check_ids(job.run(repeated_ids.repeated_stage(hashed, documents)), config)
    documents = _without_repeated_lines(config, job, documents)
    signed = job.run(signatures.signatures_stage(documents, config.dedup))
    first = job.run(dedup.first_pairs_stage(signed, config.dedup))
    joined = job.run(verdicts.clusters_stage(signed, first))
    paired = job.run(dedup.pairs_stage(signed, joined, config.dedup))
    judged = job.run(verdicts.verdicts_stage(signed, first, joined, paired, sources))
    selection = select(documents, signed, judged)
    selection, inputs = _without_overlap(config, job, selection)
    trained = job.run(encode.tokenizer_stage(config, selection, inputs))
    encoded = job.run(encode.encode_stage(config, selection, inputs, trained))
    special = special_tokens(load_tokenizer(trained.folder / "tokenizer.tokenizer.json"))
    dtype = narrowest_dtype(special.mask + 1)
    streamed, streams = encoded, id_stream.source_streams(encoded, sources, dtype)
    interleave = id_stream.interleave_stage(encoded, config.pack, streams)
    if interleave is not None:
        streamed = job.run(interleave)
        streams = id_stream.mixed_streams(streams, streamed)
    laid_out = job.run(rows.layout_stage(streamed, config.pack, streams))
    stage = rows.rows_stage(laid_out, config.pack, streams, special, config.output)
    withdraw_if_other(config.output, stage.content_fingerprint)
    job.run(stage)
    publish(config, job.results, special, streams)


def _without_repeated_lines(config: DataConfig, job: _Job, documents: StageResult) -> StageResult:
    """The documents without repeated lines, where the config asks for that."""
    rules = config.dedup.lines
    if rules is None:
        return documents
    from data_prep.dedup import lines

    counted = job.run(lines.counts_stage(documents, rules))
    repeated = job.run(lines.repeats_stage(counted, rules))
    table = job.run(lines.table_stage(repeated))
    return job.run(lines.clean_stage(config, rules, documents, table))


def _without_overlap(
    config: DataConfig, job: _Job, selection: "Selection"
) -> tuple["Selection", dict[str, str]]:
    """The selection without contaminated documents, and the fingerprints that decide it."""
    rules = config.decontaminate
    if rules is None:
        return selection, {"verdicts": selection.fingerprint}
    from data_prep.dedup import decontaminate

    excluded = job.run(decontaminate.excluded_stage(config, rules, selection))
    exclusion = job.run(decontaminate.exclusion_stage(excluded))
    overlap = job.run(decontaminate.overlap_stage(config, rules, selection, exclusion))
    return replace(selection, overlap=str(overlap.folder)), {"overlap": overlap.content_fingerprint}


def _progress_line() -> Callable[[str, bool], None]:
    """Shows progress in one line that is written over on a terminal, else only its last state."""
    terminal = sys.stdout.isatty()
    last_shown = 0.0

    def show(line: str, is_last: bool) -> None:
        nonlocal last_shown
        if terminal and (is_last or time.monotonic() - last_shown > 0.1):
            print(f"\r\x1b[2K{line}", end="\n" if is_last else "", flush=True)
            last_shown = time.monotonic()
        elif is_last:
            print(line, flush=True)

    return show


if __name__ == "__main__":
    command.run(main)

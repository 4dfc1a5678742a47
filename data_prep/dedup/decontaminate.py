"""Training documents that share word n-grams with evaluation texts are found and dropped.

Three stages: the n-grams of the evaluation texts and of the held-out documents; all of them as one
table; the training documents that have more of them than allowed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from data_prep.config import DataConfig
from data_prep.dataset.atomic import save_array
from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.hash_table import HashTable, in_range, write_hash_table
from data_prep.dedup.selection import Selection
from data_prep.documents.files import read_texts
from data_prep.engine.stages import Part, Record, Stage, StageResult
from data_prep.readers import ReaderConfig
from data_prep.readers.document import BadRecords, in_batches
from data_prep.readers.files import SourceFile, Span, list_files
from data_prep.text.batch import U64, TextBatch
from data_prep.text.normalise import normalise

EXCLUDED, EXCLUSION, OVERLAP = "excluded_ngrams", "exclusion", "overlap"
_NGRAMS_AT_ONCE = 16_000_000


def excluded_stage(config: DataConfig, rules: DecontaminateConfig, selection: Selection) -> Stage:
    """A part an evaluation file, and one a part of the documents for what is held out of it."""
    parts: list[Part] = []
    inputs = {"verdicts": selection.fingerprint}
    for name, reader in rules.evaluation.items():
        files = list_files(reader.files, f"decontaminate.evaluation.{name}.files")
        for number, file in enumerate(files):
            inputs[f"{name}/{file.name}"] = f"{file.num_bytes} bytes"
            arguments = {
                "reader": reader.model_dump(mode="json"),
                "spans": [
                    [*astuple(s.file), s.start, s.end] for s in reader.build().spans(file, 1 << 62)
                ],
            }
            parts.append(Part(f"evaluation-{name}-{number:06d}", arguments, file.num_bytes))
    if rules.heldout:
        parts += [Part(f"heldout-{part.name}", {"part": part.name}) for part in selection.parts]
    return Stage(
        EXCLUDED,
        1,
        {
            "rules": rules.model_dump(mode="json", exclude={"evaluation", "max_share"}),
            "heldout_share": config.heldout_share,
        },
        inputs,
        parts,
        excluded_part,
        {"selection": selection, "on_bad_record": config.on_bad_record},
    )


def excluded_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.ngrams.npy [n]: hashes of word n-grams, ascending."""
    words = settings["rules"]["ngram_words"]
    bad = BadRecords(settings["on_bad_record"])
    if "reader" in part.arguments:
        batches = _evaluation_texts(part, bad)
    else:
        selection: Selection = settings["selection"]
        name = part.arguments["part"]
        heldout = selection.kept(name) & selection.heldout(name, settings["heldout_share"])
        batches = selection.chosen_texts(name, heldout)
    found = [TextBatch(texts).ngram_hashes(words)[0] for texts in batches if texts]
    ngrams = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *found]))
    save_array(folder / f"{part.name}.ngrams.npy", ngrams)
    record = {"ngrams": len(ngrams), "bad": dict(sorted(bad.counts.items()))}
    return record, [f"{part.name}.ngrams.npy"]


def _evaluation_texts(part: Part, bad: BadRecords) -> Iterator[list[bytes]]:
    reader = TypeAdapter(ReaderConfig).validate_python(part.arguments["reader"]).build()
    for *file, start, end in part.arguments["spans"]:
        for batch in in_batches(reader.read(Span(SourceFile(*file), start, end), bad)):
            yield normalise([document.text for document in batch])


def exclusion_stage(excluded: StageResult) -> Stage:
    """All n-grams as one table."""
    paths = [str(excluded.folder / f"{part.name}.ngrams.npy") for part in excluded.parts]
    total = excluded.total("ngrams")
    return Stage(
        EXCLUSION,
        2,
        {},
        {"ngrams": excluded.content_fingerprint},
        [Part("exclusion", {}, 8 * total)],
        exclusion_part,
        {"paths": paths, "ngrams": total},
    )


def exclusion_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes the table of n-grams, a range of hashes after the other."""
    ranges = -(-settings["ngrams"] // _NGRAMS_AT_ONCE) or 1

    def ngrams_of(number: int) -> U64:
        found = [np.empty(0, np.uint64)]
        for path in settings["paths"]:
            ngrams = np.load(path, mmap_mode="r")
            found.append(np.array(ngrams[in_range(ngrams, number, ranges)]))
        return np.unique(np.concatenate(found))[None]

    pieces = (ngrams_of(number) for number in range(ranges))
    length, names = write_hash_table(folder, part.name, pieces, 1, settings["ngrams"])
    return {"ngrams": length}, names


def overlap_stage(
    config: DataConfig, rules: DecontaminateConfig, selection: Selection, exclusion: StageResult
) -> Stage:
    """Part for part of the documents: which training documents overlap too much."""
    return Stage(
        OVERLAP,
        1,
        {
            "ngram_words": rules.ngram_words,
            "max_share": rules.max_share,
            "heldout_share": config.heldout_share,
        },
        {"exclusion": exclusion.content_fingerprint, "verdicts": selection.fingerprint},
        list(selection.parts),
        overlap_part,
        {"selection": selection, "exclusion": str(exclusion.folder)},
    )


def overlap_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes PART.overlap.npy [D]: whether each document is dropped."""
    selection: Selection = settings["selection"]
    excluded = HashTable(Path(settings["exclusion"]), "exclusion")
    kept = selection.kept(part.name)
    trained = kept & ~selection.heldout(part.name, settings["heldout_share"])
    dropped = np.zeros(len(kept), dtype=bool)
    dropped_bytes = 0
    for at, texts in read_texts(Path(selection.documents) / f"{part.name}.parquet", trained):
        batch = TextBatch(texts)
        hashes, first = batch.ngram_hashes(settings["ngram_words"])
        text = batch.word_text[first]
        found, _ = excluded.find(hashes)
        total = np.bincount(text, minlength=len(texts))
        share = np.bincount(text[found], minlength=len(texts)) / np.maximum(total, 1)
        window = slice(at, at + len(texts))
        dropped[window] = trained[window] & (share > settings["max_share"])
        dropped_bytes += int(batch.lengths[dropped[window]].sum())
    save_array(folder / f"{part.name}.overlap.npy", dropped)
    counts = {"documents": int(dropped.sum()), "bytes": dropped_bytes}
    return counts, [f"{part.name}.overlap.npy"]

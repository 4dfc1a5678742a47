"""The stage that turns kept documents into token ids.

Ids come from the fast encoder (gigatoken); a share of the documents of every part is encoded by
`tokenizers` too, and a difference stops the job.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from configs.load import UserError
from data_prep.dataset.atomic import open_atomic, save_array
from data_prep.dataset.manifest import SPLITS, file_sha256
from data_prep.dedup.selection import CHECK, Selection, chosen
from data_prep.documents.files import DocumentFile, document_ids, read_texts
from data_prep.engine.stage import Part, PartOutput, Record, Stage, StageResult
from data_prep.tokenization.encoder import Encoder, TokenizerContents, encoder_of
from data_prep.tokenization.tokenizer import TOKENIZER_FILE

_BATCHES_AT_ONCE = 32  # about 8 MB of text

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class EncodeStage(Stage[DocumentFile]):
    """Encodes the kept documents, held-out ones apart."""

    name = "encode"
    version = 2
    output = "token ids, lengths"

    selection: Selection
    tokenizer: TokenizerContents
    heldout_share: float
    checked_share: float
    encoder: Literal["fast", "reference"]

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"heldout_share": self.heldout_share}

    def inputs_for(self, part: DocumentFile) -> Mapping[str, str]:
        return {**self.selection.inputs_for(part), "tokenizer_file": self.tokenizer.sha256}

    def run_part(self, folder: Path, part: DocumentFile) -> PartOutput:
        """Writes, for each split, PART.SPLIT.ids (each document's ids, then ``</s>``) and
        PART.SPLIT.lengths.npy [documents], without the separators."""
        keep = self.selection.kept(part)
        heldout = self.selection.heldout(part, self.heldout_share)
        checked = chosen(self.selection.hashes(part), self.checked_share, CHECK)
        checked[np.flatnonzero(keep)[:1]] = True  # at least one document per part
        checked &= keep
        encoder = encoder_of(self.tokenizer, self.encoder)
        counts: Record = {"bytes": 0, "words": 0, "checked_documents": int(checked.sum())}
        lengths: dict[str, list[Any]] = {split: [np.empty(0, np.uint32)] for split in SPLITS}
        with (
            open_atomic(folder / f"{part.name}.train.ids") as train,
            open_atomic(folder / f"{part.name}.heldout.ids") as held,
        ):
            path = self.selection.path(part)
            for first, texts in read_texts(path, keep, _BATCHES_AT_ONCE):
                window = slice(first, first + len(texts))
                _check(encoder, texts, checked[window], path, first)
                for split, file, chosen_here in (
                    ("train", train, keep[window] & ~heldout[window]),
                    ("heldout", held, keep[window] & heldout[window]),
                ):
                    kept_texts = [texts[k] for k in np.flatnonzero(chosen_here).tolist()]
                    if kept_texts:
                        stream, num = encoder.encode(kept_texts)
                        file.write(stream.data)
                        lengths[split].append(num)
                        counts["bytes"] += sum(map(len, kept_texts))
                        counts["words"] += sum(map(_num_words, kept_texts))
        names = []
        for split in SPLITS:
            array = np.concatenate(lengths[split])
            save_array(folder / f"{part.name}.{split}.lengths.npy", array)
            counts[f"{split}_documents"] = len(array)
            counts[f"{split}_tokens"] = int(array.sum(dtype=np.int64))
            names += [f"{part.name}.{split}.ids", f"{part.name}.{split}.lengths.npy"]
        return PartOutput(counts, names)


def encode_stage(
    selection: Selection,
    inputs: Mapping[str, str],
    tokenizer: StageResult[Part],
    *,
    heldout_share: float,
    checked_share: float,
    encoder: Literal["fast", "reference"],
) -> EncodeStage:
    """A part for each file of documents.

    `inputs` are the content fingerprints of the stages that decide which documents there are.
    """
    path = tokenizer.folder / TOKENIZER_FILE
    digest = file_sha256(path)
    return EncodeStage(
        parts=selection.files,
        inputs={
            **inputs,
            "tokenizer": tokenizer.content_fingerprint,
            "tokenizer_file": digest,
        },
        selection=selection,
        tokenizer=TokenizerContents(digest, path),
        heldout_share=heldout_share,
        checked_share=checked_share,
        encoder=encoder,
    )


def _check(encoder: Encoder, texts: list[bytes], checked: Flags, path: Path, first: int) -> None:
    """UserError where the two encoders give different ids for a checked text."""
    for k in np.flatnonzero(checked).tolist():
        if not encoder.agrees(texts[k]):
            name = document_ids(path, [first + k])[first + k]
            raise UserError(
                f"document {name!r}: the fast encoder (gigatoken) and tokenizers give different "
                "ids; nothing was written for this part. Set encoder: reference to encode with "
                "tokenizers alone, and report the document to gigatoken"
            )


def _num_words(text: bytes) -> int:
    """Words between white space; a normalised text has no runs of it but blank lines."""
    return text.count(b" ") + text.count(b"\n") - text.count(b"\n\n") + 1

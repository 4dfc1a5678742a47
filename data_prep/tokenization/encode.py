"""The stage that turns kept documents into token ids.

Ids come from the fast encoder (gigatoken), where it can be used; a share of the documents of every
part is then encoded by `tokenizers` too, and a difference stops the job.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.load import UserError
from data_prep.dataset.atomic import open_atomic, save_array
from data_prep.dataset.manifest import SPLITS
from data_prep.dedup.selection import CHECK, Selection, chosen
from data_prep.documents.files import DocumentFile, document_ids, read_texts
from data_prep.engine.stage import Part, PartOutput, Record, Stage, StageResult
from data_prep.kernels.words import words_between_spaces
from data_prep.tokenization.encoder import Encoder, EncoderKind, TokenizerContents, encoder_of
from data_prep.tokenization.tokenizer import chosen_encoder, tokenizer_contents

logger = logging.getLogger(__name__)

MAX_UNKNOWN_SHARE = 0.001
"""Share of unknown tokens of a source above which the user is warned: that text is lost."""
_BATCHES_AT_ONCE = 8  # about 8 MB of text

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
    encoder: EncoderKind

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
        encoder = encoder_of(self.tokenizer, self.encoder)
        checked = self._checked(part, keep)
        unknown = self.tokenizer.special.unk
        counts: Record = {"bytes": 0, "words": 0, "unknown_tokens": 0, "without_tokens": 0}
        counts["checked_documents"] = int(checked.sum())
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
                        if unknown not in (None, self.tokenizer.special.eos):
                            counts["unknown_tokens"] += int(np.count_nonzero(stream == unknown))
                        counts["bytes"] += sum(map(len, kept_texts))
                        joined = np.frombuffer(b"\n".join(kept_texts), dtype=np.uint8)
                        counts["words"] += words_between_spaces(joined)
        names = []
        for split in SPLITS:
            array = np.concatenate(lengths[split])
            save_array(folder / f"{part.name}.{split}.lengths.npy", array)
            counts[f"{split}_documents"] = len(array)
            counts[f"{split}_tokens"] = int(array.sum(dtype=np.int64))
            counts["without_tokens"] += int((array == 0).sum())
            names += [f"{part.name}.{split}.ids", f"{part.name}.{split}.lengths.npy"]
        return PartOutput(counts, names)

    def _checked(self, part: DocumentFile, keep: Flags) -> Flags:
        """[D] which documents `tokenizers` encodes too; none where it encodes all."""
        if self.encoder == "reference":
            return np.zeros_like(keep)
        checked = chosen(self.selection.hashes(part), self.checked_share, CHECK)
        checked[np.flatnonzero(keep)[:1]] = True  # at least one document per part
        return checked & keep


def encode_stage(
    selection: Selection,
    inputs: Mapping[str, str],
    tokenizer: StageResult[Part],
    *,
    heldout_share: float,
    checked_share: float,
    encoder: EncoderKind,
) -> EncodeStage:
    """A part for each file of documents.

    `inputs` are the content fingerprints of the stages that decide which documents there are.
    """
    contents = tokenizer_contents(tokenizer)
    return EncodeStage(
        parts=selection.files,
        inputs={
            **inputs,
            "tokenizer": tokenizer.content_fingerprint,
            "tokenizer_file": contents.sha256,
        },
        selection=selection,
        tokenizer=contents,
        heldout_share=heldout_share,
        checked_share=checked_share,
        encoder=chosen_encoder(encoder, tokenizer),
    )


def warn_of_unknown_text(encoded: StageResult[DocumentFile]) -> None:
    """A warning for every source with more unknown tokens than `MAX_UNKNOWN_SHARE`."""
    tokens: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for part, record in encoded.with_records():
        tokens[part.source] += sum(record[f"{split}_tokens"] for split in SPLITS)
        unknown[part.source] += record.get("unknown_tokens", 0)  # older records lack it
    for source, number in unknown.items():
        if number > MAX_UNKNOWN_SHARE * tokens[source]:
            logger.warning(
                "%s: %s of %s tokens (%.2f%%) are unknown to the tokenizer: the text in their "
                "place is lost; choose a tokenizer that knows the language, or one with bytes",
                *(source, f"{number:,}", f"{tokens[source]:,}", 100 * number / tokens[source]),
            )


def _check(encoder: Encoder, texts: list[bytes], checked: Flags, path: Path, first: int) -> None:
    """UserError where the two encoders give different ids for a checked text."""
    for k in np.flatnonzero(checked).tolist():
        if not encoder.agrees(texts[k]):
            name = document_ids(path, [first + k])[first + k]
            raise UserError(
                f"document {name!r}: the fast encoder (gigatoken) and tokenizers give different "
                "ids; nothing was written for this part. Set encoder: reference and run with "
                "--restart-from encode to encode all with tokenizers, and report the document to "
                "gigatoken"
            )

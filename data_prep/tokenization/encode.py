"""The tokenizer of a run, and the stage that turns kept documents into ids.

Ids come from the fastest encoder (gigatoken); a share of the documents of every part is encoded by
`tokenizers` too, and a difference stops the job.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.dataset.atomic import open_atomic, save_array, write_atomic
from data_prep.dataset.manifest import SPLITS, file_sha256, narrowest_dtype
from data_prep.dataset.tokenizer import load_tokenizer
from data_prep.dedup.selection import CHECK, SAMPLE, Selection, chosen
from data_prep.documents.files import document_ids, read_texts
from data_prep.engine.stages import Part, Record, Stage, StageResult, source_of
from data_prep.tokenization.config import TokenizerConfig, TrainTokenizerConfig
from data_prep.tokenization.train import tokenizer_from_vocabulary, train_tokenizer

TOKENIZER, ENCODE = "tokenizer", "encode"
_BATCHES_AT_ONCE = 32  # about 8 MB of text
_RENEW_ENCODER_BYTES = 256_000_000  # gigatoken 0.10.0 caches words without bound
_CHECKED_BYTES = 1 << 14
"""Bytes of a checked document that are encoded both ways: a long one would take minutes."""


def tokenizer_stage(config: DataConfig, selection: Selection, inputs: Mapping[str, str]) -> Stage:
    """One part that trains, or takes over, the tokenizer.

    `inputs` are the content fingerprints of what decides which documents there are.
    """
    choice = config.tokenizer
    settings = choice.model_dump(mode="json", exclude={"path", "vocab", "merges"})
    if isinstance(choice, TrainTokenizerConfig):
        settings["heldout_share"] = config.heldout_share
    else:
        inputs = {}
        for key, path in choice.model_dump(exclude={"type"}).items():
            if not Path(path).is_file():
                raise UserError(f"tokenizer.{key}: {path}: no such file")
            inputs[key] = file_sha256(Path(path))
    context = {"config": choice, "selection": selection}
    return Stage(TOKENIZER, 1, settings, inputs, [Part("tokenizer", {})], tokenizer_part, context)


def tokenizer_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes tokenizer.json under the part's name."""
    config: TokenizerConfig = settings["config"]
    if isinstance(config, TrainTokenizerConfig):
        tokenizer = train_tokenizer(_sample(settings, config), config.vocab_size)
    elif config.type == "file":
        tokenizer = load_tokenizer(config.path)
    else:
        tokenizer = tokenizer_from_vocabulary(config.vocab, config.merges)
    write_atomic(folder / "tokenizer.tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    return {"vocab_size": tokenizer.get_vocab_size()}, ["tokenizer.tokenizer.json"]


def _sample(settings: Mapping[str, Any], config: TrainTokenizerConfig) -> Iterator[str]:
    """Training documents of all sources, each source by its weight."""
    selection: Selection = settings["selection"]
    weights = config.weights or selection.kept_bytes
    scale = config.sample_mb * 1_000_000 / max(sum(weights.values()), 1e-9)
    for part in selection.parts:
        source = source_of(part.name)
        share = scale * weights[source] / max(selection.kept_bytes[source], 1)
        sampled = chosen(selection.hashes(part.name), share, SAMPLE)
        sampled &= selection.kept(part.name)
        sampled &= ~selection.heldout(part.name, settings["heldout_share"])
        for texts in selection.chosen_texts(part.name, sampled):
            for text in texts:
                yield text.decode()


def encode_stage(
    config: DataConfig, selection: Selection, inputs: Mapping[str, str], tokenizer: StageResult
) -> Stage:
    """Part for part of the documents: ids and lengths, train and held-out apart."""
    path = tokenizer.folder / "tokenizer.tokenizer.json"
    digest = file_sha256(path)
    return Stage(
        ENCODE,
        2,
        {"heldout_share": config.heldout_share},
        {
            **inputs,
            "tokenizer": tokenizer.content_fingerprint,
            "tokenizer_file": digest,
        },
        list(selection.parts),
        encode_part,
        {
            "selection": selection,
            "tokenizer": _TokenizerContents(digest, str(path)),
            "checked_share": config.checked_share,
            "encoder": config.encoder,
        },
    )


def encode_part(
    folder: Path, part: Part, settings: Mapping[str, Any]
) -> tuple[Record, Sequence[str]]:
    """Writes, for each split, PART.SPLIT.ids (each document's ids, then ``</s>``) and
    PART.SPLIT.lengths.npy [documents], without the separators."""
    selection: Selection = settings["selection"]
    keep = selection.kept(part.name)
    heldout = selection.heldout(part.name, settings["heldout_share"])
    checked = chosen(selection.hashes(part.name), settings["checked_share"], CHECK)
    checked[np.flatnonzero(keep)[:1]] = True  # at least one document a part
    encoder = _encoder_of(settings["tokenizer"], settings["encoder"])
    counts: dict[str, Any] = {
        "bytes": 0,
        "words": 0,
        "checked_documents": int((checked & keep).sum()),
    }
    names = []
    lengths: dict[str, list[Any]] = {split: [np.empty(0, np.uint32)] for split in SPLITS}
    with (
        open_atomic(folder / f"{part.name}.train.ids") as train,
        open_atomic(folder / f"{part.name}.heldout.ids") as held,
    ):
        path = Path(selection.documents) / f"{part.name}.parquet"
        for first, texts in read_texts(path, keep, _BATCHES_AT_ONCE):
            window = slice(first, first + len(texts))
            for k in np.flatnonzero(checked[window] & keep[window]).tolist():
                if not encoder.agrees(texts[k]):
                    raise UserError(_disagreement(document_ids(path, [first + k])[first + k]))
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
    for split in SPLITS:
        array = np.concatenate(lengths[split])
        save_array(folder / f"{part.name}.{split}.lengths.npy", array)
        counts[f"{split}_documents"] = len(array)
        counts[f"{split}_tokens"] = int(array.sum(dtype=np.int64))
        names += [f"{part.name}.{split}.ids", f"{part.name}.{split}.lengths.npy"]
    return counts, names


def _num_words(text: bytes) -> int:
    """Words between white space, of which a normalised text has no other runs than blank lines."""
    return text.count(b" ") + text.count(b"\n") - text.count(b"\n\n") + 1


def _disagreement(name: str) -> str:
    return (
        f"document {name!r}: the fast encoder (gigatoken) and tokenizers give different ids; "
        "nothing was written for this part. Set encoder: reference to encode with tokenizers "
        "alone, and report the document to gigatoken"
    )


@dataclass(frozen=True)
class _TokenizerContents:
    """A tokenizer file, known by what is in it."""

    sha256: str
    path: str = field(compare=False)


@lru_cache(maxsize=1)
def _encoder_of(tokenizer: _TokenizerContents, kind: Literal["fast", "reference"]) -> "_Encoder":
    """The encoder of a tokenizer. Building one takes a quarter of a second, so that a worker keeps
    it from part to part."""
    return _Encoder(Path(tokenizer.path), kind)


class _Encoder:
    """Encodes batches of texts; special tokens in the text are text."""

    def __init__(self, path: Path, kind: Literal["fast", "reference"]) -> None:
        self._kind = kind
        self._reference = load_tokenizer(path)
        tree = orjson.loads(path.read_bytes())
        tree["added_tokens"], tree["post_processor"] = [], None
        self._json = orjson.dumps(tree)
        self.dtype = np.dtype(narrowest_dtype(self._reference.get_vocab_size())).newbyteorder("<")
        self._separator = self._reference.token_to_id("</s>")
        self._left_bytes = 0

    def encode(self, texts: Sequence[bytes]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint32]]:
        """The ids of all texts, each with a separator behind it, and the lengths without it."""
        encode = self._fast_ids if self._kind == "fast" else self._reference_ids
        ids = [encode(text) for text in texts]
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        ends = np.cumsum(lengths + 1)
        result = np.full(ends[-1], self._separator, dtype=self.dtype)
        for array, length, end in zip(ids, lengths.tolist(), ends.tolist(), strict=True):
            result[end - 1 - length : end - 1] = array
        return result, lengths.astype(np.uint32)

    def agrees(self, text: bytes) -> bool:
        """Whether both encoders give the same ids for `text`, or the beginning of a long one."""
        if len(text) > _CHECKED_BYTES:
            text = text[:_CHECKED_BYTES].decode("utf-8", "ignore").encode()
        return bool(np.array_equal(self._fast_ids(text), self._reference_ids(text)))

    def _reference_ids(self, text: bytes) -> npt.NDArray[np.uint32]:
        (encoding,) = self._reference.encode_batch_fast([text.decode()], add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.uint32)

    def _fast_ids(self, text: bytes) -> npt.NDArray[np.uint32]:
        if self._left_bytes <= 0:
            import gigatoken

            self._fast = gigatoken.Tokenizer.from_json(self._json)
            self._left_bytes = _RENEW_ENCODER_BYTES
        self._left_bytes -= len(text)
        ids: npt.NDArray[np.uint32] = self._fast.encode(text)
        return ids

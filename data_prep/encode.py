"""The tokenizer of a run, and the stage that turns kept documents into ids.

Ids come from the fastest encoder (gigatoken); a share of the documents of every part is encoded by
`tokenizers` too, and a difference stops the job.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from configs.load import UserError
from data_prep.atomic import open_atomic, write_atomic
from data_prep.config import DataConfig, TokenizerConfig, TrainTokenizerConfig
from data_prep.dedup import save_array
from data_prep.ingest import read_documents
from data_prep.selection import CHECK, SAMPLE, Selection, chosen
from data_prep.shards import Split, file_sha256, narrowest_dtype
from data_prep.stages import Part, Record, Stage, StageResult
from data_prep.tokenizer import load_tokenizer, tokenizer_from_vocabulary, train_tokenizer

TOKENIZER, ENCODE = "tokenizer", "encode"
SPLITS: tuple[Split, ...] = ("train", "heldout")
_BATCHES_AT_ONCE = 8  # about 2 MB a call: gigatoken's result costs time by the call
_RENEW_ENCODER_BYTES = 256_000_000  # gigatoken 0.10.0 caches words without bound


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
        source = part.name.rpartition("-")[0]
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
        1,
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
            "tokenizer": str(path),
            "tokenizer_sha256": digest,
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
    encoder = _encoder_of(settings["tokenizer"], settings["tokenizer_sha256"], settings["encoder"])
    counts: dict[str, Any] = {"bytes": 0, "checked_documents": int((checked & keep).sum())}
    names = []
    lengths: dict[str, list[Any]] = {split: [np.empty(0, np.uint32)] for split in SPLITS}
    with (
        open_atomic(folder / f"{part.name}.train.ids") as train,
        open_atomic(folder / f"{part.name}.heldout.ids") as held,
    ):
        at = 0
        path = Path(selection.documents) / f"{part.name}.parquet"
        for texts, ids in read_documents(path, _BATCHES_AT_ONCE):
            window = slice(at, at + len(texts))
            at += len(texts)
            for split, file, chosen_here in (
                ("train", train, keep[window] & ~heldout[window]),
                ("heldout", held, keep[window] & heldout[window]),
            ):
                numbers = np.flatnonzero(chosen_here)
                if not len(numbers):
                    continue
                kept_texts = [texts[k] for k in numbers]
                stream, num = encoder.encode(kept_texts)
                for k in np.flatnonzero(checked[window][numbers]):
                    encoder.check(kept_texts[k], stream, num, int(k), ids[numbers[k]])
                file.write(stream.tobytes())
                lengths[split].append(num)
                counts["bytes"] += sum(map(len, kept_texts))
    for split in SPLITS:
        array = np.concatenate(lengths[split])
        save_array(folder / f"{part.name}.{split}.lengths.npy", array)
        counts[f"{split}_documents"] = len(array)
        counts[f"{split}_tokens"] = int(array.sum(dtype=np.int64))
        names += [f"{part.name}.{split}.ids", f"{part.name}.{split}.lengths.npy"]
    return counts, names


@lru_cache(maxsize=1)
def _encoder_of(path: str, sha256: str, kind: Literal["fast", "reference"]) -> "_Encoder":
    """The encoder for a tokenizer file with these contents. Building one takes half a second, so
    that a worker keeps it from part to part."""
    del sha256  # part of the key only
    return _Encoder(Path(path), kind)


class _Encoder:
    """Encodes batches of texts; special tokens in the text are text."""

    def __init__(self, path: Path, kind: Literal["fast", "reference"]) -> None:
        self._kind = kind
        self._reference = load_tokenizer(path)
        tree = json.loads(path.read_bytes())
        tree["added_tokens"], tree["post_processor"] = [], None
        self._json = json.dumps(tree)
        self.dtype = np.dtype(narrowest_dtype(self._reference.get_vocab_size())).newbyteorder("<")
        self._separator = self._reference.token_to_id("</s>")
        self._left_bytes = 0

    def encode(self, texts: Sequence[bytes]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint32]]:
        """The ids of all texts, each with a separator behind it, and the lengths without it."""
        if self._kind == "fast":
            ids, lengths = self._encode_fast(texts)
        else:
            encodings = self._reference.encode_batch_fast(
                [text.decode() for text in texts], add_special_tokens=False
            )
            lengths = np.array([len(encoding.ids) for encoding in encodings])
            ids = np.concatenate([encoding.ids for encoding in encodings])
        result = np.full(len(ids) + len(texts), self._separator, dtype=self.dtype)
        is_text = np.ones(len(result), dtype=bool)
        is_text[np.cumsum(lengths + 1) - 1] = False
        result[is_text] = ids
        return result, lengths.astype(np.uint32)

    def _encode_fast(
        self, texts: Sequence[bytes]
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        if self._left_bytes <= 0:
            import gigatoken

            self._fast = gigatoken.Tokenizer.from_json(self._json)
            self._left_bytes = _RENEW_ENCODER_BYTES
        self._left_bytes -= sum(map(len, texts))
        layout = self._fast.encode_batch(list(texts), parallel=False).layout
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)

    def check(
        self,
        text: bytes,
        stream: npt.NDArray[Any],
        lengths: npt.NDArray[np.uint32],
        number: int,
        name: str,
    ) -> None:
        """UserError when the reference encoder gives text `number` other ids than `stream` has."""
        start = int((lengths[:number].astype(np.int64) + 1).sum())
        got = stream[start : start + int(lengths[number])].tolist()
        (expected,) = self._reference.encode_batch_fast([text.decode()], add_special_tokens=False)
        if got != expected.ids:
            raise UserError(
                f"document {name!r}: the fast encoder (gigatoken) and tokenizers give different "
                "ids; nothing was written for this part. Set encoder: reference to encode with "
                "tokenizers alone, and report the document to gigatoken"
            )

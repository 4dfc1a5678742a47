"""The manifest of a data set: its schema, reading and writing.

``manifest.json`` at the top of the folder is written last: without it the data set does not exist.
It holds the sha256 of its other content. Data sets of version 0.1.0 lack that and the checksums of
blocks; they are read without.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from configs.load import Config, UserError, fingerprint
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.blocks import SUM_BYTES, Offsets, Sums, compact, ends_inside, plain
from data_prep.dataset.files import RelativePath, first_error, open_regular, read_json

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


ADVICE = "restore it from a copy, or delete it and run data preparation again"

Count = Annotated[int, Field(ge=0, le=1 << 53)]
Size = Annotated[int, Field(gt=0, le=1 << 53)]
TokenId = Annotated[int, Field(ge=0, le=1 << 32)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]


class Shard(Config):
    """One tar file of blocks."""

    path: RelativePath
    """Path of the tar file, relative to the data folder."""
    bytes: Size
    """Size of the tar file in bytes."""
    sha256: Sha256
    """sha256 of the tar file, hexadecimal."""
    rows: Count
    """Number of rows in the shard."""
    block_offsets: Offsets
    """For each block, the byte at which its first row starts (after the tar and npy headers)."""
    block_xxh3_64: Sums | None = None
    """For each block, 16 hexadecimal digits (here 8 bytes): the xxh3-64 of its rows, from the first
    byte of the first row to the last byte of the last. None in data sets of version 0.1.0."""

    def errors(self, block_rows: int, row_bytes: int) -> Iterator[str]:
        """What is wrong with the numbers, in blocks of `block_rows` rows of `row_bytes` bytes."""
        num_blocks = -(-self.rows // block_rows)
        if len(self.block_offsets) != num_blocks:
            yield f"{len(self.block_offsets)} block_offsets for {num_blocks} blocks"
            return
        if self.block_xxh3_64 is not None:
            num_sums = len(self.block_xxh3_64) // SUM_BYTES
            if num_sums != num_blocks:
                yield f"{num_sums} checksums for {num_blocks} blocks"
        number = ends_inside(self.block_offsets, self.rows, block_rows, row_bytes)
        if number is not None:
            offset = self.block_offsets[number]
            yield f"block {number} starts at byte {offset}, inside of the block before it"
            return
        rows_before = (num_blocks - 1) * block_rows
        end = self.block_offsets[-1] + (self.rows - rows_before) * row_bytes if num_blocks else 0
        if end > self.bytes:
            yield f"its blocks end at byte {end}, after its end at byte {self.bytes}"


class SourceRows(Config):
    """The rows of one source in one split."""

    rows: Count
    """Number of rows."""
    documents: Count
    """Number of documents whose tokens went into the rows."""
    tokens: Count
    """Number of text tokens in the rows: ids other than special tokens."""
    block_rows: Size
    """Rows in every block but the last one of the source, which may have fewer."""
    shards: tuple[Shard, ...]
    """The shards in the order of their rows."""

    def errors(self, row_tokens: int, id_bytes: int) -> Iterator[str]:
        """What is wrong with the numbers, in rows of `row_tokens` ids of `id_bytes` bytes."""
        if self.rows != sum(shard.rows for shard in self.shards):
            yield f"{self.rows} rows, but its shards have {sum(s.rows for s in self.shards)}"
        if self.tokens > self.rows * row_tokens:
            yield f"{self.tokens} tokens do not fit into {self.rows} rows of {row_tokens}"
        for number, shard in enumerate(self.shards):
            if number < len(self.shards) - 1 and shard.rows % self.block_rows:
                yield f"{shard.path}: not the last shard, but its last block is not full"
            for error in shard.errors(self.block_rows, row_tokens * id_bytes):
                yield f"{shard.path}: {error}"


class SpecialTokens(Config):
    """Ids of the special tokens."""

    bos: TokenId
    """Start of a row or piece: ``<s>``, ``[CLS]``."""
    pad: TokenId
    """Padding."""
    eos: TokenId
    """End of a row or piece and separator: ``</s>``, ``[SEP]``."""
    unk: TokenId | None = None
    """Unknown; None for a tokenizer without one. A byte-level tokenizer never produces it."""
    mask: TokenId
    """``<mask>``, ``[MASK]``."""
    others: tuple[tuple[TokenId, TokenId], ...] | None = None
    """Ranges [first, end) of all other ids that are no ordinary tokens: further special tokens,
    unused tokens, and ids without a token. None: there are none."""

    def errors(self, vocab_size: int) -> Iterator[str]:
        """What is wrong with the ids in a vocabulary of `vocab_size` ids."""
        ids = {key: value for key, value in self if isinstance(value, int)}
        for key, number in ids.items():
            if number >= vocab_size:
                yield f"{key} {number} is not in a vocabulary of {vocab_size}"
            if key in ("pad", "mask") and list(ids.values()).count(number) > 1:
                yield f"the id of {key}, {number}, is that of a different special token too"
        end = 0
        for first, after in self.others or ():
            if not end <= first < after <= vocab_size:
                yield f"special_tokens.others: [{first}, {after}) is out of place"
            end = after
        num_others = sum(after - first for first, after in self.others or ())
        if len(set(ids.values())) + num_others >= vocab_size:
            yield f"a vocabulary of {vocab_size} has no ordinary token beside the special ones"

    def tree(self) -> dict[str, object]:
        """As JSON values; optional fields that are not given are left out."""
        return self.model_dump(mode="json", exclude_none=True)


class TokenizerFile(Config):
    """The file of the tokenizer that made the ids."""

    path: RelativePath
    """Path of tokenizer.json, relative to the data folder."""
    sha256: Sha256
    """sha256 of that file, hexadecimal."""
    parent_sha256: Sha256 | None = None
    """sha256 of the tokenizer.json that was extended, whose ids it has too. None: a tokenizer that
    was trained or taken over."""


class Manifest(Config):
    """What a data set consists of. Nothing in it depends on when, where or in how many parts it was
    made."""

    format_version: Literal[1]
    """Version of this layout."""
    row_tokens: Annotated[int, Field(gt=0, le=1 << 24)]
    """Ids in every row."""
    vocab_size: Annotated[int, Field(gt=0, le=1 << 32)]
    """Size of the vocabulary: the highest id + 1. Ordinary tokens are all ids but those that
    `special_tokens` names."""
    dtype: Literal["uint16", "uint32"]
    """Type of the ids on disk."""
    packing: Literal["full_sentences", "doc_sentences", "best_fit"]
    """How documents were put into rows."""
    tokenizer: TokenizerFile
    """The tokenizer that made the ids."""
    special_tokens: SpecialTokens
    """Ids of the special tokens."""
    stages: dict[str, str]
    """Fingerprint of the frozen plan of every stage that led to the rows."""
    splits: dict[Split, dict[str, SourceRows]]
    """Split, then source, to rows."""

    @model_validator(mode="after")
    def _numbers_agree(self) -> "Manifest":
        id_bytes = {"uint16": 2, "uint32": 4}[self.dtype]
        errors = []
        if self.vocab_size > 1 << (8 * id_bytes):
            errors.append(f"a vocabulary of {self.vocab_size} does not fit {self.dtype}")
        errors += self.special_tokens.errors(self.vocab_size)
        for split, sources in self.splits.items():
            for name, source in sources.items():
                found = source.errors(self.row_tokens, id_bytes)
                errors += [f"{split}/{name}: {error}" for error in found]
        paths = sorted(shard.path for shard in self.shards())
        errors += [f"{path} appears twice" for path, after in pairwise(paths) if path == after]
        if errors:
            raise ValueError("; ".join(errors[:5]))
        return self

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the content: equal exactly for data sets with the same rows.

        The checksums of blocks are left out, so that it is that of version 0.1.0.
        """
        tree = self.model_dump(mode="json", exclude={"splits"})
        tree["special_tokens"] = self.special_tokens.tree()  # without fields added later
        if self.tokenizer.parent_sha256 is None:
            del tree["tokenizer"]["parent_sha256"]
        # Offsets stay as they are until they are hashed: as lists they take ten times the memory.
        splits = self.model_dump(include={"splits"})["splits"]
        for source in (source for sources in splits.values() for source in sources.values()):
            for shard in source["shards"]:
                del shard["block_xxh3_64"]
        return fingerprint({**tree, "splits": splits}, plain)

    def shards(self) -> Iterator[Shard]:
        """All shards of all splits and sources."""
        for sources in self.splits.values():
            for source in sources.values():
                yield from source.shards

    def source(self, split: str, source: str) -> SourceRows:
        """The rows of one source; UserError that lists the known ones if there are none."""
        sources = self.splits.get(split, {})  # type: ignore[call-overload]
        if source not in sources:
            known = ", ".join(f"{s}/{name}" for s, names in self.splits.items() for name in names)
            raise UserError(f"the data set has no rows {split}/{source}; it has: {known or 'none'}")
        result: SourceRows = sources[source]
        return result


def narrowest_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The narrowest unsigned type that holds every id below `vocab_size`."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of the data set in `folder`; UserError when it is missing or unusable."""
    path = Path(folder) / MANIFEST_NAME
    try:
        tree = read_json(path, hook=compact)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file, so {folder} holds no finished data set; prepare it with "
            "'python -m data_prep.run CONFIG.yaml' (an interrupted run resumes where it stopped)"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    sha256 = tree.pop("sha256", None)
    if sha256 is not None and sha256 != fingerprint(tree, plain):
        raise UserError(
            f"{path}: damaged manifest: its content does not match its sha256; {ADVICE}"
        )
    version = tree.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {version!r}, but this program reads version {FORMAT_VERSION}; "
            "run data preparation again"
        )
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: damaged manifest: {first_error(error)}; {ADVICE}") from None
    if sha256 is None and any(s.block_xxh3_64 is not None for s in manifest.shards()):
        raise UserError(f"{path}: damaged manifest: its own sha256 is missing; {ADVICE}")
    return manifest


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Writes `manifest` to `folder`, whole or not at all: the last step of preparing a data set."""
    tree = manifest.model_dump(mode="json", exclude_none=True)
    text = json.dumps({**tree, "sha256": fingerprint(tree)}, indent=1, sort_keys=True)
    text = re.sub(r"\[\s+(\d[\d,\s]*?)\s+\]", _on_one_line, text)
    write_atomic(Path(folder) / MANIFEST_NAME, text + "\n")


def _on_one_line(numbers: re.Match[str]) -> str:
    return "[" + ", ".join(re.findall(r"\d+", numbers[1])) + "]"


def file_sha256(path: Path) -> str:
    """The sha256 (hexadecimal) of a file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The manifest of a data set: its schema, reading and writing.

``manifest.json`` at the top of the folder is written last: without it the data set does not exist.
"""

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationError

from configs.load import Config, UserError, fingerprint
from data_prep.dataset.atomic import write_atomic

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


def _inside_the_folder(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{path!r} must be a path inside the data folder")
    return path


RelativePath = Annotated[str, AfterValidator(_inside_the_folder)]


class Shard(Config):
    """One tar file of blocks."""

    path: RelativePath
    """Path of the tar file, relative to the data folder."""
    bytes: int
    """Size of the tar file in bytes."""
    sha256: str
    """sha256 of the tar file, hexadecimal."""
    rows: int
    """Number of rows in the shard."""
    block_offsets: tuple[int, ...]
    """For each block, the byte at which its first row starts (after the tar and npy headers)."""


class SourceRows(Config):
    """The rows of one source in one split."""

    rows: int
    """Number of rows."""
    documents: int
    """Number of documents whose tokens went into the rows."""
    tokens: int
    """Number of text tokens in the rows: ids other than special tokens."""
    block_rows: int
    """Rows in every block but the last one of the source, which may have fewer."""
    shards: tuple[Shard, ...]
    """The shards in the order of their rows."""


class SpecialTokens(Config):
    """Ids of the five special tokens."""

    bos: int
    """Start of a row or piece, ``<s>``."""
    pad: int
    """Padding, ``<pad>``."""
    eos: int
    """End of a row or piece and separator, ``</s>``."""
    unk: int
    """Unknown, ``<unk>``; a byte-level tokenizer never produces it."""
    mask: int
    """``<mask>``; always vocab_size - 1."""


class TokenizerFile(Config):
    """The file of the tokenizer that made the ids."""

    path: RelativePath
    """Path of tokenizer.json, relative to the data folder."""
    sha256: str
    """sha256 of that file, hexadecimal."""


class Manifest(Config):
    """What a data set consists of. Nothing in it depends on when, where or in how many parts it was
    made."""

    format_version: Literal[1]
    """Version of this layout."""
    row_tokens: int
    """Ids in every row."""
    vocab_size: int
    """Size of the vocabulary; ordinary tokens are the ids 4 .. vocab_size - 2."""
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

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the content: equal exactly for data sets with the same rows."""
        return fingerprint(self)

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
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file, so {folder} holds no finished data set; prepare it with "
            "'python -m data_prep.run CONFIG.yaml' (an interrupted run resumes where it stopped)"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a manifest: {error}") from None
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {version!r}, but this program reads version {FORMAT_VERSION}; "
            "run data preparation again"
        )
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: damaged manifest: {where}: {first['msg']}") from None


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Writes `manifest` to `folder`, whole or not at all: the last step of preparing a data set."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
    text = re.sub(r"\[\s+(\d[\d,\s]*?)\s+\]", _on_one_line, text)
    write_atomic(Path(folder) / MANIFEST_NAME, text + "\n")


def _on_one_line(numbers: re.Match[str]) -> str:
    return "[" + ", ".join(re.findall(r"\d+", numbers[1])) + "]"


def file_sha256(path: Path) -> str:
    """The sha256 (hexadecimal) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

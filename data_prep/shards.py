"""The rows on disk: WebDataset tar shards with one manifest, their writer and their reader.

A sample of a shard is a block of rows: ``KEY.rows.npy`` (unsigned integers, [rows, row_tokens]) and
``KEY.json`` (split, source, number of the first row, number of rows). Plain ``webdataset`` opens
the shards; ``RowReader`` reads any row by its number, by offset, without scanning.

``manifest.json`` at the top of the folder is written last: without it the data set does not exist.

Contract of the ids, besides the special tokens that the manifest names (RoBERTa's): ordinary tokens
are exactly the ids 4 .. vocab_size - 2, and the mask token is the last id, vocab_size - 1.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, ValidationError

from configs.load import Config, UserError, fingerprint
from data_prep.atomic import open_atomic, write_atomic

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
_TAR_BLOCK_BYTES = 512
_MAX_OPEN_SHARDS = 256

Split = Literal["train", "heldout"]


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
    """For each block, the byte at which its first row begins (after the tar and npy headers)."""


class SourceRows(Config):
    """The rows of one source in one split."""

    rows: int
    """Number of rows."""
    documents: int
    """Number of documents whose tokens went into the rows."""
    tokens: int
    """Number of text tokens in the rows: ids that are no separator and no padding."""
    block_rows: int
    """Rows in every block but the last one of the source, which may have fewer."""
    shards: tuple[Shard, ...]
    """The shards in the order of their rows."""


class SpecialTokens(Config):
    """Ids of the five special tokens."""

    bos: int
    """Begin of a row or piece, ``<s>``."""
    pad: int
    """Padding, ``<pad>``."""
    eos: int
    """End of a row or piece and separator, ``</s>``."""
    unk: int
    """Unknown, ``<unk>``; a byte-level tokenizer never produces it."""
    mask: int
    """``<mask>``; always vocab_size - 1."""


class TokenizerFile(Config):
    """The tokenizer that made the ids."""

    path: RelativePath
    """Path of tokenizer.json, relative to the data folder."""
    sha256: str
    """sha256 of that file, hexadecimal."""


class Manifest(Config):
    """What a data set consists of. Holds nothing that depends on when, where or how it was made."""

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
        """The rows of one source; UserError that names the known ones when there is no such."""
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
            f"{path}: no such file, so {folder} holds no finished data set; make it with "
            "'python -m data_prep.run CONFIG.yaml' (an interrupted run goes on where it stopped)"
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
    """Writes `manifest` to `folder`, whole or not at all: the last step of making a data set."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
    text = re.sub(r"\[\s+(\d[\d,\s]*?)\s+\]", _on_one_line, text)
    write_atomic(Path(folder) / MANIFEST_NAME, text + "\n")


def _on_one_line(numbers: re.Match[str]) -> str:
    return "[" + ", ".join(re.findall(r"\d+", numbers[1])) + "]"


def verify_shards(folder: str | Path, manifest: Manifest, *, full: bool = False) -> None:
    """Checks every file of the data set: sizes, or with `full` also the sha256 of every byte.

    Raises one UserError that names all missing and wrong files.
    """
    problems = []
    tokenizer = Path(folder) / manifest.tokenizer.path
    if not tokenizer.is_file():
        problems.append(f"{manifest.tokenizer.path}: missing")
    elif file_sha256(tokenizer) != manifest.tokenizer.sha256:
        problems.append(f"{manifest.tokenizer.path}: its sha256 is not the manifest's")
    for sources in manifest.splits.values():
        for source in sources.values():
            for shard in source.shards:
                problem = _shard_problem(Path(folder), shard, full)
                if problem:
                    problems.append(f"{shard.path}: {problem}")
    if problems:
        raise UserError(
            f"{folder}: {len(problems)} file(s) differ from {MANIFEST_NAME}:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nrestore them from a copy, or delete them and run data preparation again"
        )


def _shard_problem(folder: Path, shard: Shard, full: bool) -> str | None:
    path = folder / shard.path
    try:
        size = path.stat().st_size
    except OSError as error:
        return "missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
    if size != shard.bytes:
        return f"{size:,} bytes instead of {shard.bytes:,}"
    if full and file_sha256(path) != shard.sha256:
        return "its sha256 is not the manifest's (damaged bytes)"
    return None


def file_sha256(path: Path) -> str:
    """The sha256 (hexadecimal) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardWriter:
    """Writes one shard; the file appears, whole, when the ``with`` block ends well.

    Equal blocks give equal bytes: the tar headers carry no time, owner or host. After the block,
    `shard` is the entry for the manifest.
    """

    def __init__(
        self, folder: Path, path: str, split: Split, source: str, first_row: int, dtype: str
    ) -> None:
        """`path` is relative to `folder`; `first_row` is the source's row that comes first here."""
        self.shard: Shard | None = None
        self._path = path
        self._key = {"split": split, "source": source}
        self._next_row = self._first_row = first_row
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._block_offsets: list[int] = []
        self._bytes = 0
        self._hash = hashlib.sha256()
        self._opened = open_atomic(folder / path)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self._opened.__enter__()
        return self

    def write_block(self, rows: npt.NDArray[np.unsignedinteger]) -> None:
        """Appends one block; `rows` is [rows, row_tokens]."""
        num_rows, _ = rows.shape
        block = np.ascontiguousarray(rows, dtype=self._dtype)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, np.lib.format.header_data_from_array_1_0(block)
        )
        key = f"{self._key['split']}-{self._key['source']}-{self._next_row:012d}"
        note = {**self._key, "first_row": self._next_row, "rows": num_rows}
        ids = block.tobytes()
        data_at = self._bytes + _TAR_BLOCK_BYTES + header.tell()
        self._write_member(f"{key}.rows.npy", header.getvalue() + ids)
        self._block_offsets.append(data_at)
        self._write_member(f"{key}.json", json.dumps(note, sort_keys=True).encode())
        self._next_row += num_rows

    def _write_member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o644
        padding = -len(content) % _TAR_BLOCK_BYTES
        self._write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(padding))

    def _write(self, content: bytes) -> None:
        assert self._file is not None, "use ShardWriter in a 'with' block"
        self._file.write(content)
        self._hash.update(content)
        self._bytes += len(content)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._write(bytes(2 * _TAR_BLOCK_BYTES))  # the end of a tar file
        self._opened.__exit__(kind, error, traceback)
        if kind is None:
            self.shard = Shard(
                path=self._path,
                bytes=self._bytes,
                sha256=self._hash.hexdigest(),
                rows=self._next_row - self._first_row,
                block_offsets=tuple(self._block_offsets),
            )


class RowReader:
    """Reads rows of one split by number. Can be pickled and used after a fork."""

    def __init__(
        self,
        folder: str | Path,
        manifest: Manifest,
        split: Split,
        open_shard: Callable[[Shard], BinaryIO] | None = None,
    ) -> None:
        """Touches no shard yet; see `verify_shards` for checking them all beforehand.

        `open_shard` gives the file of a shard, where that takes more than opening it in `folder`.
        """
        self._folder = Path(folder)
        self._open_shard = open_shard or self._open_local
        self._row_tokens = manifest.row_tokens
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._sources = {
            name: _SourceIndex(rows) for name, rows in manifest.splits.get(split, {}).items()
        }
        self._split = split
        self._open: dict[str, npt.NDArray[Any]] = {}

    def read(self, source: str, row_numbers: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        """The rows `row_numbers` of `source`, in that order: [n, row_tokens], as on disk.

        Raises IndexError for a number outside the source, UserError for an unknown source and for
        a shard that is missing or not of the manifest's size.
        """
        if source not in self._sources:
            known = ", ".join(self._sources) or "none"
            raise UserError(f"{self._folder}: no {self._split} rows of {source!r}; it has: {known}")
        index = self._sources[source]
        numbers = np.asarray(row_numbers, dtype=np.int64)
        rows = np.empty((len(numbers), self._row_tokens), dtype=self._dtype)
        if not len(numbers):
            return rows
        order = np.argsort(numbers, kind="stable")  # shard by shard, each from its front to its end
        ascending = numbers[order]
        if ascending[0] < 0 or ascending[-1] >= index.rows:
            bad = ascending[0] if ascending[0] < 0 else ascending[-1]
            raise IndexError(f"row {bad} of {source}: its rows are 0 .. {index.rows - 1}")
        bounds = np.searchsorted(ascending, index.shard_first_rows)
        for shard, start, end in zip(index.shards, bounds[:-1], bounds[1:], strict=True):
            if start == end:
                continue
            ids = self._ids(shard)
            starts = index.byte_offsets(ascending[start:end], self._row_bytes) // ids.itemsize
            windows = np.lib.stride_tricks.sliding_window_view(ids, self._row_tokens)
            rows[order[start:end]] = windows[starts]
        return rows

    @property
    def _row_bytes(self) -> int:
        return self._row_tokens * self._dtype.itemsize

    def _ids(self, shard: Shard) -> npt.NDArray[Any]:
        """The whole shard as ids; blocks are aligned, so each begins at a whole element."""
        ids = self._open.pop(shard.path, None)
        if ids is None:
            with self._open_shard(shard) as file:
                size = os.fstat(file.fileno()).st_size
                if size != shard.bytes:
                    raise UserError(
                        f"{self._folder / shard.path}: {size:,} bytes, but the manifest says "
                        f"{shard.bytes:,}; the shard is damaged: restore it, or delete it and run "
                        "data preparation again"
                    )
                ids = np.memmap(file, dtype=self._dtype, mode="r")
            if len(self._open) >= _MAX_OPEN_SHARDS:
                del self._open[next(iter(self._open))]
        self._open[shard.path] = ids  # the most recently used one is last
        return ids

    def _open_local(self, shard: Shard) -> BinaryIO:
        path = self._folder / shard.path
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise UserError(
                f"{path}: missing, though the manifest names it; restore it, or run data "
                "preparation again"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


class _SourceIndex:
    """Where the rows of one source lie."""

    def __init__(self, source: SourceRows) -> None:
        self.rows = source.rows
        self.shards = source.shards
        self.block_rows = source.block_rows
        self.shard_first_rows = _cumulative([shard.rows for shard in source.shards])
        self.block_offsets = np.array(
            [offset for shard in source.shards for offset in shard.block_offsets], dtype=np.int64
        )

    def byte_offsets(self, rows: npt.NDArray[np.int64], row_bytes: int) -> npt.NDArray[np.int64]:
        """Where in its shard each of `rows` begins."""
        block, row_in_block = np.divmod(rows, self.block_rows)
        offsets: npt.NDArray[np.int64] = self.block_offsets[block] + row_in_block * row_bytes
        return offsets


def _cumulative(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

"""Compares the tokenizer of a Hugging Face folder with the one that rows were made with.

Weights belong to ids: with a vocabulary of equal size in a different order, every word would get
the vector of a different one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from configs.load import UserError
from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.tokenizer import load_tokenizer

MAX_SHOWN = 5
PROBES = (
    *("The CAT sat", " the cat\n\n", "Ça va, naïve 1,234 €", "don't\t日本語"),
    *("e\u0301 ﬁ Ａ x² …", "internationalisation  of unbelievably long words", "Москва हिन्दी ไทย"),
)
"""Texts that tokenizers of equal vocabularies split differently if they treat case, accents, spaces
or digits differently."""


@dataclass(frozen=True)
class FolderVocabulary:
    """The vocabulary of a folder's model."""

    origin: Path
    ids: Mapping[str, int]
    """The id of every token, special ones included."""
    merges: tuple[str, ...] | None
    """Merges of a BPE in their order, "left right" each; None where there are none."""
    tokenizer: Tokenizer | None
    """None where the folder holds the vocabulary without a tokenizer.json."""


def read_vocabulary(folder: Path, tokenizer: Path | None = None) -> FolderVocabulary:
    """The vocabulary in `folder`: tokenizer.json, vocab.json with merges.txt, or vocab.txt.

    `tokenizer` names a tokenizer.json to read in place of the folder's. Raises UserError where
    there is none or it cannot be read.
    """
    file = tokenizer or folder / "tokenizer.json"
    try:
        if file.is_file() or tokenizer is not None:
            found = load_tokenizer(file)
            ids = found.get_vocab(with_added_tokens=True)
            return FolderVocabulary(file, ids, _merges(found), found)
        for name in ("vocab.json", "vocab.txt"):
            file = folder / name
            if file.is_file():
                return FolderVocabulary(file, _ids(file), _merges_beside(file), None)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UserError(f"{file}: cannot be read: {error}") from None
    raise UserError(
        f"{folder}: no tokenizer.json, vocab.json or vocab.txt to compare with the "
        "vocabulary of the rows; name the model's tokenizer.json by --tokenizer FILE"
    )


def has_vocabulary(folder: Path) -> bool:
    """Whether `read_vocabulary` finds one in the folder itself."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt"))


def vocabulary_errors(
    theirs: FolderVocabulary,
    rows: Tokenizer,
    special: SpecialTokens,
    special_ids: Mapping[str, int],
) -> Iterator[str]:
    """A line for every way in which the tokenizer of the rows is not that of the folder.

    `special` are the ids in the rows, `special_ids` those of the folder's config.json by key.
    """
    for key, wanted in (
        ("bos_token_id", special.bos),
        ("pad_token_id", special.pad),
        ("eos_token_id", special.eos),
    ):
        if special_ids.get(key, wanted) != wanted:
            yield f"{key} of the folder's config.json is {special_ids[key]}, of the rows {wanted}"
    ours = rows.get_vocab(with_added_tokens=True)
    if different := sorted(
        (ours.get(token, theirs.ids.get(token, 0)), token)
        for token in ours.keys() | theirs.ids.keys()
        if ours.get(token) != theirs.ids.get(token)
    ):
        shown = "; ".join(
            f"{token!r} is {_id_text(ours, token)} for the rows, {_id_text(theirs.ids, token)} "
            "in the folder"
            for _, token in different[:MAX_SHOWN]
        )
        yield f"{len(different):,} tokens have different ids, the first: {shown}"
        return
    merges = _merges(rows)
    if theirs.merges is not None and merges is not None and theirs.merges != merges:
        first = _first_difference(merges, theirs.merges)
        yield f"the merges differ, the first of them: number {first}"
    elif theirs.tokenizer is not None:
        yield from _split_differently(rows, theirs.tokenizer)


def _split_differently(ours: Tokenizer, theirs: Tokenizer) -> Iterator[str]:
    for text in PROBES:
        mine, its = (t.encode(text, add_special_tokens=False).tokens for t in (ours, theirs))
        if mine != its:
            yield f"{text!r} is {mine} by the rows' tokenizer, {its} by the folder's"
            return


def _merges(tokenizer: Tokenizer) -> tuple[str, ...] | None:
    merges = json.loads(tokenizer.to_str())["model"].get("merges")
    if merges is None:
        return None
    return tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in merges)


def _ids(file: Path) -> dict[str, int]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".txt":
        return {token: number for number, token in enumerate(text.splitlines())}
    return {str(token): int(number) for token, number in json.loads(text).items()}


def _merges_beside(vocabulary: Path) -> tuple[str, ...] | None:
    path = vocabulary.with_name("merges.txt")
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    return tuple(line for line in lines if line and not line.startswith("#version"))


def _id_text(ids: Mapping[str, int], token: str) -> str:
    return str(ids[token]) if token in ids else "missing"


def _first_difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    for number, (mine, its) in enumerate(zip(ours, theirs, strict=False)):
        if mine != its:
            return f"{number}, {mine!r} for the rows, {its!r} in the folder"
    return f"{min(len(ours), len(theirs))}, {len(ours)} for the rows, {len(theirs)} in the folder"

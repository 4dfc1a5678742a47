"""Small corpora and configs for the tests of data preparation."""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import validate
from data_prep.config import DataConfig
from data_prep.dataset.manifest import Split, read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.tokenizer import load_tokenizer

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "nd", "st", "ra")]


def write_corpus(folder: Path, num_documents: int = 240) -> None:
    """Two sources; in "forum", every fourth document copies or nearly copies an earlier one."""
    generate = random.Random(0)

    def text(num_words: int) -> str:
        words = generate.choices(WORDS, k=num_words)
        for at in range(0, num_words, 9):
            words[at] = generate.choice(["the", "of", "and"])
        lines = [" ".join(words[at : at + 12]) for at in range(0, num_words, 12)]
        return ".\n".join(lines)

    folder.mkdir(parents=True)
    forum = [text(generate.randint(60, 300)) for _ in range(num_documents)]
    for number in range(4, num_documents, 4):
        forum[number] = forum[number - 3] + ("" if number % 8 else " and so on")
    with open(folder / "forum.jsonl", "w") as file:
        for number, document in enumerate(forum):
            file.write(json.dumps({"text": document, "id": number}) + "\n")
    (folder / "short.txt").write_text("too short\n")
    for number in range(12):
        (folder / f"book{number}.txt").write_text(text(900))


def config_of(folder: Path, **changes: Any) -> DataConfig:
    tree: dict[str, Any] = {
        "output": str(folder / "rows"),
        "work": str(folder / "work"),
        "sources": {
            "books": {"reader": {"type": "text", "files": [str(folder / "raw/*.txt")]}},
            "forum": {
                "reader": {
                    "type": "jsonl",
                    "files": [str(folder / "raw/*.jsonl")],
                    "id_field": "id",
                    "metadata_fields": ["id"],
                }
            },
        },
        "filters": {"document_language": "en"},  # its words are invented
        "tokenizer": {"type": "train", "vocab_size": 400},
        "pack": {"row_tokens": 32, "block_rows": 8, "shard_mb": 1},
        "heldout_share": 0.1,
        "engine": {"type": "serial"},
    }
    return validate(tree | changes, DataConfig, "test")


def hashes_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a data set but those that depend on its folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("report", "request"))
    }


def write_forum(folder: Path, texts: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "forum.jsonl").write_text("".join(lines))


def forum_config(folder: Path, **changes: Any) -> DataConfig:
    reader = {"type": "jsonl", "files": [str(folder / "raw/forum.jsonl")]}
    filters = {"min_words": 5, "min_stop_words": 0, "repetition": None, "min_alphabetic_share": 0}
    return config_of(
        folder,
        **{
            "sources": {"forum": {"reader": reader}},
            "filters": filters,
            "heldout_share": 0.2,
            **changes,
        },
    )


def decoded_documents(folder: Path, split: Split = "train") -> list[str]:
    manifest = read_manifest(folder / "rows")
    rows = RowReader(folder / "rows", manifest, split)
    ids = rows.read("forum", np.arange(manifest.source(split, "forum").rows))[:, 1:-1].ravel()
    tokenizer = load_tokenizer(folder / "rows/tokenizer.json")
    pieces = np.split(ids[ids != 1], np.flatnonzero(ids[ids != 1] == 2) + 1)
    return [tokenizer.decode(piece[piece != 2].tolist()) for piece in pieces if len(piece) > 1]


def random_texts(number: int, words: int = 40, seed: int = 0) -> list[str]:
    generate = random.Random(seed)
    return [" ".join(generate.choices(WORDS, k=words)) for _ in range(number)]

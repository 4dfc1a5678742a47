"""A corpus of which a run drops documents for every reason."""

import json
import random
from pathlib import Path
from typing import Any

from data_prep.config import DataConfig
from tests.data_prep.corpora import config_of, random_texts, write_corpus

NOTICE = "Subscribe to our weekly letter for more of the same."


def write_corpus_with_drops(folder: Path) -> None:
    """Writes FOLDER/raw and FOLDER/evaluation.txt."""
    write_corpus(folder / "raw")
    generate = random.Random(3)
    secret = random_texts(1, words=60, seed=8)[0]
    (folder / "evaluation.txt").write_text(secret)
    with open(folder / "raw/forum.jsonl", "a") as file:
        for number in range(40):
            text = " ".join(random_texts(1, words=70, seed=100 + number)) + " the of and " * 4
            text += f"\n{NOTICE}\n" + (secret if generate.random() < 0.3 else "")
            file.write(json.dumps({"text": text, "id": f"new{number % 35}"}) + "\n")
        file.write(json.dumps({"text": NOTICE, "id": "only"}) + "\n")
        file.write('no JSON\n{"text": null}\n' + json.dumps({"text": "\x00"}) + "\n")
        file.write(json.dumps({"text": "the \u200b of\u200b", "id": "tiny"}) + "\n")
        file.write(json.dumps({"text": "\u200b"}) + "\n")


def config_with_drops(folder: Path, **changes: Any) -> DataConfig:
    """The config of a run over that corpus."""
    reader = {"type": "text", "files": [str(folder / "evaluation.txt")]}
    forum = {"type": "jsonl", "files": [str(folder / "raw/forum.jsonl")], "id_field": "id"}
    filters = {"min_words": 10, "document_language": "en"}
    tree: dict[str, Any] = {
        "sources": {
            "books": {"reader": {"type": "text", "files": [str(folder / "raw/*.txt")]}},
            "forum": {"reader": forum, "filters": filters},
        },
        "scrub": {"emails": True},
        "dedup": {"lines": {"max_documents": 5}},
        "decontaminate": {"evaluation": {"exam": reader}},
        "part_mb": 0.05,
    }
    return config_of(folder, **{**tree, **changes})

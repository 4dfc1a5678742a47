"""The pretraining rows: the corpus of configs/data_packages.yaml in the forms that studies need.

Every form leaves out documents that have 13 words in a row in common with the tasks' dev and test
texts, or with its own held-out documents.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.learning_studies.launches import run_command
from benchmarks.learning_studies.tasks import TEXTS_NAME

CONFIG = "configs/data_packages.yaml"
ROW_TOKENS = 128
NO_FILTERS = {"apply": False}
NO_DEDUP = {"exact": False, "near": None, "lines": None}


@dataclass(frozen=True)
class Corpus:
    """A data set to be made."""

    vocab_size: int | None = None
    """Of a tokenizer trained on this corpus."""
    tokenizer_of: str | None = None
    """The corpus whose tokenizer is taken over."""
    pack_mode: str = "full_sentences"
    dedup: bool = True
    filters: bool = True
    sources: tuple[str, ...] = ()
    """Of the config; empty: all."""


CORPORA = {
    "encoder": Corpus(vocab_size=32_000),
    "small": Corpus(vocab_size=8192),
    "small-documents": Corpus(tokenizer_of="small", pack_mode="doc_sentences"),
    "small-no-dedup": Corpus(tokenizer_of="small", dedup=False),
    "small-no-filters": Corpus(tokenizer_of="small", filters=False),
    "small-raw": Corpus(tokenizer_of="small", dedup=False, filters=False),
    "domain": Corpus(tokenizer_of="minilm", sources=("kernel",)),
}
"""By name; `minilm` is the folder of the model that is continued, which has a tokenizer.json."""


def rows_folder(folder: Path, name: str) -> Path:
    """Where the rows of the corpus `name` are."""
    return folder / "corpora" / name / "rows"


def prepare_corpus(folder: Path, name: str, workers: int = 1) -> Path:
    """The rows of the corpus `name` in the studies' folder, made now if they are not finished.

    The raw sources are in `folder`/raw, the tasks in `folder`/tasks.
    """
    corpus, rows = CORPORA[name], rows_folder(folder, name)
    if not (rows / "manifest.json").exists():
        if corpus.tokenizer_of in CORPORA:
            prepare_corpus(folder, corpus.tokenizer_of or "", workers)
        rows.parent.mkdir(parents=True, exist_ok=True)
        config = rows.parent / "config.yaml"
        config.write_text(yaml.safe_dump(data_config(folder, name, workers), sort_keys=False))
        run_command(["-m", "data_prep.run", str(config)], rows.parent / "log.txt", threads=workers)
    return rows


def data_config(folder: Path, name: str, workers: int) -> dict[str, Any]:
    """The data config of the corpus `name`."""
    corpus, rows = CORPORA[name], rows_folder(folder, name)
    tree: dict[str, Any] = yaml.safe_load(Path(CONFIG).read_text())
    chosen = corpus.sources or tuple(tree["sources"])
    for source in chosen:
        settings = tree["sources"][source]
        settings["reader"]["files"] = [str(folder / "raw" / f"{source}.jsonl")]
        if not corpus.filters:
            settings.pop("filters", None)
    tree["sources"] = {source: tree["sources"][source] for source in chosen}
    tree |= {"output": str(rows), "work": str(rows.parent / "work")}
    tree["engine"] = {"type": "local", "workers": workers}
    tree["pack"] |= {"mode": corpus.pack_mode, "row_tokens": ROW_TOKENS}
    texts = {"type": "jsonl", "files": [str(folder / "tasks" / TEXTS_NAME)]}
    tree["decontaminate"] |= {"evaluation": {"tasks": texts}, "max_share": 0}
    if not corpus.filters:
        tree["filters"] = NO_FILTERS
    if not corpus.dedup:
        tree["dedup"] = NO_DEDUP
    if corpus.tokenizer_of is None:
        tree["tokenizer"] |= {"vocab_size": corpus.vocab_size}
    else:
        other = corpus.tokenizer_of
        path = rows_folder(folder, other) if other in CORPORA else folder / other
        tree["tokenizer"] = {"type": "file", "path": str(path / "tokenizer.json")}
    return tree


def summary(_: Path, rows: Path) -> dict[str, Any]:
    """What the corpus in `rows` holds, for the page of results."""
    report = json.loads((rows / "report.json").read_text())
    sources = json.loads((rows / "manifest.json").read_text())["splits"]["train"]
    dropped: dict[str, int] = {}
    for account in report["accounts"].values():
        for reason, count in account["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count["documents"]
    return {
        "rows": {name: source["rows"] for name, source in sources.items()},
        "kept_mb": sum(a["kept"]["bytes"] for a in report["accounts"].values()) / 1e6,
        "dropped_documents": dropped,
        "evaluation_sets": report["evaluation_sets"],
    }

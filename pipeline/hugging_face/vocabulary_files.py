"""The vocabulary of an export as text files: vocab.json and merges.txt, or vocab.txt.

tokenizer.json holds all of it; older programs and readers of other languages look for these.
"""

import json
import logging
from pathlib import Path

from data_prep.dataset.tokenizer import load_tokenizer, read_tree

VOCABULARY_NAMES = ("vocab.json", "merges.txt", "vocab.txt")
MERGES_HEADER = "#version: 0.2"
"""First line of merges.txt, as in all published ones."""

logger = logging.getLogger(__name__)


def vocabulary_files(tokenizer: Path) -> dict[str, str]:
    """By name, the content of the vocabulary files of a tokenizer.json.

    BPE has vocab.json and merges.txt, WordPiece vocab.txt, other kinds none. A vocabulary that the
    format cannot hold (white space inside of a merged token, ids without a token) has none either,
    which is logged. All ids are in them, those of special tokens too.
    """
    model = read_tree(tokenizer)["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind not in ("BPE", "WordPiece"):
        return {}
    ids = load_tokenizer(tokenizer).get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    if kind == "BPE":
        lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        if any(len(line.split()) != 2 or len(line.split(" ")) != 2 for line in lines):
            logger.warning("no merges.txt and vocab.json: a merged token has white space in it")
            return {}
        vocabulary = {token: ids[token] for token in tokens}
        return {
            "vocab.json": json.dumps(vocabulary, ensure_ascii=False) + "\n",
            "merges.txt": "\n".join([MERGES_HEADER, *lines]) + "\n",
        }
    has_holes = [ids[token] for token in tokens] != list(range(len(tokens)))
    if has_holes or any(len(token.splitlines()) != 1 for token in tokens):
        logger.warning("no vocab.txt: ids without a token, or a line break in a token")
        return {}
    return {"vocab.txt": "".join(f"{token}\n" for token in tokens)}

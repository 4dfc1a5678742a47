"""Whether rows were made with the tokenizer of a start."""

from collections.abc import Iterator
from pathlib import Path

from configs.load import UserError
from data_prep.dataset.manifest import Manifest
from data_prep.dataset.tokenizer import load_tokenizer, same_tokenizer
from pipeline.hugging_face.vocabulary import read_vocabulary, vocabulary_errors
from pipeline.start.start import Start


def check_vocabulary(start: Start, rows: Manifest, tokenizer: Path, where: str) -> None:
    """Raises UserError unless the ids in the rows are those of the start, with the differences.

    `tokenizer` is the file that the rows were made with, `where` names them.
    """
    errors = list(vocabulary_differences(start, rows, tokenizer))
    if not errors:
        return
    size = f", vocab_size: {start.vocab_size}" if _is_padded(start) else ""
    more = "has all tokens of the start, and more" if _extends(tokenizer, start) else "is another"
    raise UserError(
        f"{where}: its rows were not made with the tokenizer of {start.description}:\n  "
        + "\n  ".join(errors)
        + "\nprepare the rows with that tokenizer (tokenizer: {type: file, path: "
        + f"{start.tokenizer}{size}}} in the config of data preparation), or set start.new_tokens: "
        + f"the tokenizer of the rows {more}"
    )


def vocabulary_differences(start: Start, rows: Manifest, tokenizer: Path) -> Iterator[str]:
    """A line for each way in which the ids in rows are not those of the start."""
    special = rows.special_tokens
    for role in ("bos", "pad", "eos", "mask"):
        mine, theirs = getattr(special, role), getattr(start.special, role)
        if mine != theirs:
            yield f"the special token {role} has the id {mine} in the rows, {theirs} in the start"
    if rows.vocab_size != start.vocab_size:
        yield f"the vocabulary has {rows.vocab_size} ids, {start.vocab_size} in the start"
    ours = load_tokenizer(tokenizer)
    if start.tokenizer == tokenizer:  # a folder with a vocabulary, but without tokenizer.json
        yield from vocabulary_errors(read_vocabulary(Path(start.record.path)), ours, special, {})
    elif not same_tokenizer(tokenizer, start.tokenizer):
        its = read_vocabulary(start.tokenizer.parent, start.tokenizer)
        yield from list(vocabulary_errors(its, ours, special, {})) or [
            "it splits texts differently"
        ]


def _extends(tokenizer: Path, start: Start) -> bool:
    """Whether `tokenizer` has every token of the start, with the same id, and more."""
    ours = load_tokenizer(tokenizer).get_vocab(with_added_tokens=True)
    theirs = load_tokenizer(start.tokenizer).get_vocab(with_added_tokens=True)
    return len(ours) > len(theirs) and theirs.items() <= ours.items()


def _is_padded(start: Start) -> bool:
    vocabulary = load_tokenizer(start.tokenizer).get_vocab(with_added_tokens=True)
    return max(vocabulary.values(), default=-1) + 1 < start.vocab_size

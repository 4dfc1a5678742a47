"""Whether rows were made with the tokenizer of a start, or with one that extends it."""

from collections.abc import Iterator
from pathlib import Path

from configs.load import UserError
from data_prep.dataset.manifest import Manifest
from data_prep.dataset.tokenizer import load_tokenizer, same_tokenizer
from pipeline.hugging_face.vocabulary import FolderVocabulary, read_vocabulary, vocabulary_errors
from pipeline.start.start import Start


def check_vocabulary(
    start: Start, rows: Manifest, tokenizer: Path, new_tokens: str | None, where: str
) -> None:
    """Raises UserError unless the ids in the rows are those of the start, with the differences.

    `tokenizer` is the file that the rows were made with, `where` names them. With `new_tokens`,
    the tokenizer of the rows may have more tokens.
    """
    errors = list(
        vocabulary_differences(start, rows, tokenizer, is_extended=new_tokens is not None)
    )
    if not errors:
        return
    size = f", vocab_size: {start.vocab_size}" if _is_padded(start) else ""
    advice = (
        "prepare the rows with that tokenizer (tokenizer: {type: file, path: "
        f"{start.tokenizer}{size}}} in the config of data preparation)"
    )
    if new_tokens is None and _extends(tokenizer, start.tokenizer):
        advice += ", or set start.new_tokens: it has all tokens of the start, and more"
    raise UserError(
        f"{where}: its rows were not made with the tokenizer of {start.description}:\n  "
        + "\n  ".join(errors)
        + f"\n{advice}"
    )


def vocabulary_differences(
    start: Start, rows: Manifest, tokenizer: Path, is_extended: bool
) -> Iterator[str]:
    """A line for each way in which the ids in rows are not those of the start."""
    special = rows.special_tokens
    mine = {role: getattr(special, role) for role in ("bos", "pad", "eos", "mask")}
    theirs = {role: getattr(start.special, role) for role in mine}
    for role, wanted in theirs.items():
        if mine[role] != wanted:
            yield f"the special token {role} has the id {mine[role]} in the rows, {wanted} there"
    if is_extended:
        if not _extends(tokenizer, start.tokenizer):
            yield "start.new_tokens: not every token of the start has the same id in the rows"
        if rows.vocab_size < start.vocab_size:
            yield f"the vocabulary has {rows.vocab_size} ids, {start.vocab_size} there"
        return
    if rows.vocab_size != start.vocab_size:
        yield f"the vocabulary has {rows.vocab_size} ids, {start.vocab_size} there"
    if start.tokenizer == tokenizer:  # a folder with a vocabulary, but without tokenizer.json
        yield from _details(read_vocabulary(Path(start.record.path)), tokenizer, rows)
    elif not same_tokenizer(tokenizer, start.tokenizer):
        theirs_read = read_vocabulary(start.tokenizer.parent, start.tokenizer)
        details = list(_details(theirs_read, tokenizer, rows))
        yield from details or ["it splits texts differently"]


def _details(theirs: FolderVocabulary, tokenizer: Path, rows: Manifest) -> Iterator[str]:
    return vocabulary_errors(theirs, load_tokenizer(tokenizer), rows.special_tokens, {})


def _extends(tokenizer: Path, of_start: Path) -> bool:
    """Whether every token of the start has the same id in `tokenizer`."""
    ours = load_tokenizer(tokenizer).get_vocab(with_added_tokens=True)
    theirs = load_tokenizer(of_start).get_vocab(with_added_tokens=True)
    return len(ours) > len(theirs) and theirs.items() <= ours.items()


def _is_padded(start: Start) -> bool:
    vocabulary = load_tokenizer(start.tokenizer).get_vocab(with_added_tokens=True)
    return max(vocabulary.values(), default=-1) + 1 < start.vocab_size

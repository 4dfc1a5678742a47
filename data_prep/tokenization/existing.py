"""An existing tokenizer.json: its special tokens, and what is changed in it for training."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from tokenizers import Tokenizer, processors

from configs.load import UserError
from data_prep.dataset.files import read_regular
from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.special_tokens import FILES_BESIDE, added_around, find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids, read_tree, switched_off
from data_prep.tokenization.config import SpecialTokenNames, TokenizerFromFileConfig


@dataclass(frozen=True)
class PreparedTokenizer:
    """A tokenizer as the rows and all that follows need it."""

    tokenizer: Tokenizer
    special: SpecialTokens
    vocab_size: int
    """Ids of the model."""
    notices: list[str] = field(default_factory=list)
    """What was changed, in words."""


def prepared_from_file(config: TokenizerFromFileConfig) -> PreparedTokenizer:
    """The tokenizer of the file, its post-processor putting around a text what rows have.

    Raises UserError for a file that is no tokenizer.json, for a special token that cannot be found,
    and for a `vocab_size` below the highest id.
    """
    path = Path(config.path)
    files = [path, *filter(Path.is_file, map(path.with_name, FILES_BESIDE))]
    try:
        sha256s = tuple(sha256(read_regular(file)).hexdigest() for file in files)
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    return _prepared(path, sha256s, config.special_tokens, config.vocab_size)


@lru_cache(maxsize=1)  # the checks before the work and the stage take the same
def _prepared(
    path: Path, sha256s: tuple[str, ...], names: SpecialTokenNames, vocab_size: int | None
) -> PreparedTokenizer:
    """`prepared_from_file`; `sha256s` are those of the file and of the files beside it."""
    tokenizer = load_tokenizer(path)
    size = max(num_ids(tokenizer), vocab_size or 0)
    special = find_special_tokens(tokenizer, path, names.by_role(), size)
    notices = [
        f"{path}: {key} is switched off: it would change texts"
        for key in switched_off(read_tree(path))
    ]
    if vocab_size is not None and vocab_size < size:
        notices.append(f"{path}: has {size} ids, more than tokenizer.vocab_size {vocab_size}")
    before, after = added_around(tokenizer)
    if (before, after) != ([special.bos], [special.eos]):
        _put_around(tokenizer, special)
        bos, eos = (tokenizer.id_to_token(number) for number in (special.bos, special.eos))
        notices.append(
            f"{path}: its post-processor puts {_texts(tokenizer, before)} before a text and "
            f"{_texts(tokenizer, after)} after it; rows, and the tokenizer beside them, have "
            f"{bos} and {eos}"
        )
    return PreparedTokenizer(tokenizer, special, size, notices)


def _put_around(tokenizer: Tokenizer, special: SpecialTokens) -> None:
    """Makes the post-processor put the ids of rows around a text, and around two."""
    bos, eos = (tokenizer.id_to_token(number) for number in (special.bos, special.eos))
    template = processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, "$B:1", f"{eos}:1"],
        special_tokens=[(bos, special.bos), (eos, special.eos)],
    )
    old = json.loads(tokenizer.to_str())["post_processor"] or {}
    parts = old.get("processors", [old])
    if any(part.get("type") == "ByteLevel" for part in parts):  # the places of tokens in the text
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    else:
        tokenizer.post_processor = template


def _texts(tokenizer: Tokenizer, ids: list[int]) -> str:
    return " ".join(str(tokenizer.id_to_token(number)) for number in ids) or "nothing"

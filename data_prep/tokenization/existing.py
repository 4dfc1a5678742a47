"""An existing tokenizer.json: its special tokens, and what is changed in it for training."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer, processors

from configs.load import UserError
from data_prep.dataset.manifest import SpecialTokens, file_sha256
from data_prep.dataset.special_tokens import FILES_BESIDE, added_around, find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids, read_tree, switched_off
from data_prep.tokenization.config import TokenizerFromFileConfig


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
        sha256s = tuple(map(file_sha256, files))
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    return _prepared(_Read(config.model_dump_json(), sha256s, config))


@dataclass(frozen=True)
class _Read:
    """What a prepared tokenizer depends on."""

    settings: str
    sha256s: tuple[str, ...]
    """Of the file, and of those beside it."""
    config: TokenizerFromFileConfig = field(compare=False)


@lru_cache(maxsize=1)  # the checks before the work and the stage take the same
def _prepared(read: _Read) -> PreparedTokenizer:
    config, path = read.config, Path(read.config.path)
    tokenizer = load_tokenizer(path)
    size = max(num_ids(tokenizer), config.vocab_size or 0)
    names = config.special_tokens.by_role()
    special = find_special_tokens(tokenizer, path, names, size)
    notices = [
        f"{path}: {key} is switched off: it would change texts"
        for key in switched_off(read_tree(path))
    ]
    if config.vocab_size is not None and config.vocab_size < size:
        notices.append(
            f"{path}: has {size} ids, more than tokenizer.vocab_size {config.vocab_size}"
        )
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

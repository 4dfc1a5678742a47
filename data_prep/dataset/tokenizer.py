"""Byte-level BPE tokenizers with RoBERTa's five special tokens under RoBERTa's ids.

``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, and ``<mask>`` last; every id between is an
ordinary token. The name of a special token in a text is encoded as text, never as the token.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from configs.load import UserError
from data_prep.dataset.files import read_regular
from data_prep.dataset.manifest import SpecialTokens

FIRST_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK_TOKEN = "<mask>"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json; UserError if it lacks RoBERTa's special tokens."""
    try:
        tokenizer = Tokenizer.from_str(read_regular(path).decode())
    except FileNotFoundError:
        raise UserError(f"{path}: no such tokenizer file") from None
    except Exception as error:  # the library raises bare Exception for a file it cannot read
        raise UserError(f"{path}: not a tokenizer.json: {error}") from None
    special_tokens(tokenizer, str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def special_tokens(tokenizer: Tokenizer, name: str = "tokenizer") -> SpecialTokens:
    """The ids of the special tokens; UserError if they are not RoBERTa's. `name` is for errors."""
    last = tokenizer.get_vocab_size() - 1
    wanted = {token: number for number, token in enumerate(FIRST_SPECIAL_TOKENS)}
    wanted[MASK_TOKEN] = last
    wrong = [
        f"{token} is {tokenizer.token_to_id(token)}, not {number}"
        for token, number in wanted.items()
        if tokenizer.token_to_id(token) != number
    ]
    if wrong:
        raise UserError(
            f"{name}: special tokens must have RoBERTa's ids (and {MASK_TOKEN} the last one), but "
            + "; ".join(wrong)
        )
    return SpecialTokens(bos=0, pad=1, eos=2, unk=3, mask=last)


def same_tokenizer(first: str | Path, second: str | Path) -> bool:
    """Whether two tokenizer.json give every text the same ids, whatever else the files say.

    Compared are the vocabulary with the special tokens and the merges: a file that another program
    wrote, or that was written again, differs in its bytes. Raises UserError for other files.
    """
    return _content(first) == _content(second)


def _content(path: str | Path) -> tuple[dict[str, int], Any]:
    tokenizer = load_tokenizer(path)
    merges = json.loads(tokenizer.to_str())["model"].get("merges")
    return tokenizer.get_vocab(with_added_tokens=True), merges

"""Which tokens of a tokenizer are special, and what each is for.

Where more than one says it, the first of these decides: the caller's names, the post-processor
(what stands around a text), the model (its unknown token), special_tokens_map.json and
tokenizer_config.json beside the file, and well-known names.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from tokenizers import Tokenizer

from configs.load import UserError
from data_prep.dataset.files import parse_json, read_regular
from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.tokenizer import FIRST_SPECIAL_TOKENS, MASK_TOKEN, num_ids

logger = logging.getLogger(__name__)

Role = Literal["bos", "pad", "eos", "unk", "mask"]
ROLES: tuple[Role, ...] = get_args(Role)

_WELL_KNOWN: Mapping[Role, Sequence[Sequence[str]]] = {
    "bos": (
        ("[CLS]", "<s>", "<cls>", "<bos>", "[BOS]", "<|startoftext|>", "<|begin_of_text|>"),
        ("<|endoftext|>",),
    ),
    "pad": (("[PAD]", "<pad>", "<PAD>", "<|pad|>", "<|padding|>"),),
    "eos": (
        ("[SEP]", "</s>", "<sep>", "<eos>", "[EOS]", "<|end_of_text|>"),
        ("<|endoftext|>",),
    ),
    "unk": (("[UNK]", "<unk>", "<UNK>", "<|unk|>"),),
    "mask": (("[MASK]", "<mask>", "<MASK>", "<|mask|>"),),
}
"""Names by role; those of a later list are used where the vocabulary has none of an earlier one."""
_KEYS: Mapping[Role, Sequence[str]] = {
    "bos": ("cls_token", "bos_token"),
    "pad": ("pad_token",),
    "eos": ("sep_token", "eos_token"),
    "unk": ("unk_token",),
    "mask": ("mask_token",),
}
"""Keys of Hugging Face's files by role."""
FILES_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")
"""Hugging Face's files beside a tokenizer.json that say which tokens are special."""
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_UNUSED = re.compile(
    r"\[unused\d+\]|<unused\d+>|<extra_id_\d+>|<\|(reserved_special_token|unused)_?\d+\|>"
    r"|madeupword\d{4}|.+NOTUSED"
)
"""Names of tokens that published vocabularies keep in reserve."""
_MAX_SHOWN = 12


def find_special_tokens(
    tokenizer: Tokenizer,
    path: str | Path,
    names: Mapping[Role, str | None] | None = None,
    vocab_size: int | None = None,
) -> SpecialTokens:
    """The special tokens of the tokenizer of the file `path`.

    `names` are tokens that the caller gives by role; `vocab_size` is the number of ids of a model
    that has more than the tokenizer. UserError, with the tokens that come into question, where a
    role cannot be found.
    """
    given = {role: name for role, name in (names or {}).items() if name is not None}
    size = vocab_size or num_ids(tokenizer)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    _check_ids(vocabulary, path)
    beside = _beside(Path(path))
    if not given and _is_roberta(vocabulary):
        ids: dict[Role, int] = {role: vocabulary[name] for role, name in _roberta_names().items()}
    else:
        ids = _Roles(tokenizer, vocabulary, beside, given, str(path)).ids()
    others = _others(tokenizer, vocabulary, set(ids.values()), beside, size)
    special = SpecialTokens(**ids, others=others)
    if errors := list(special.errors(size)):
        raise UserError(
            f"{path}: its special tokens ({_shown_roles(tokenizer, special)}) cannot be used: "
            f"{'; '.join(errors)}. {_SET}"
        )
    return special


_SET = "Set tokenizer.special_tokens.ROLE (bos, pad, eos, unk, mask) to the token of each role"
_ADD = (
    "add one to a copy: python -c \"from tokenizers import Tokenizer; t = Tokenizer.from_file('{}')"
    "; t.add_special_tokens(['{}']); t.save('new/tokenizer.json')\""
)


class _Roles:
    """Finds the token of every role."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocabulary: Mapping[str, int],
        beside: Mapping[str, Any],
        given: Mapping[Role, str],
        path: str,
    ) -> None:
        self._vocabulary, self._beside = vocabulary, beside
        self._given, self._path = given, path
        self._tree = json.loads(tokenizer.to_str())
        self._special = {t["content"] for t in self._tree["added_tokens"] if t["special"]}
        self._around = added_around(tokenizer)
        self._text = {number: token for token, number in vocabulary.items()}

    def ids(self) -> dict[Role, int]:
        """The id of every role; ``unk`` is left out for a tokenizer without one."""
        tokens = {role: self._token(role) for role in ROLES}
        if missing := [role for role in ROLES if tokens[role] is None and role != "unk"]:
            raise self._missing(missing)
        tokens["pad"] = self._padding_of_its_own(tokens)
        return {role: self._vocabulary[token] for role, token in tokens.items() if token}

    def _padding_of_its_own(self, tokens: Mapping[Role, str | None]) -> str | None:
        """The padding token; the first in reserve where it has a second role, as EuroBERT's has.

        Padding is known by its id here: the end of a text must not have it.
        """
        pad = tokens["pad"]
        others = {token for role, token in tokens.items() if role != "pad"}
        reserve = [t for t in self._vocabulary if _UNUSED.fullmatch(t) and t not in others]
        if pad not in others or "pad" in self._given or not reserve:
            return pad
        chosen = min(reserve, key=self._vocabulary.__getitem__)
        logger.info(
            "%s: %s is padding and has another role too: padding is %s here",
            *(self._path, pad, chosen),
        )
        return chosen

    def _token(self, role: Role) -> str | None:
        if role in self._given:
            token = self._given[role]
            if token not in self._vocabulary:
                raise UserError(
                    f"tokenizer.special_tokens.{role}: {token!r} is no token of {self._path}; "
                    + _ADD.format(self._path, token)
                )
            return token
        for candidates in (self._said_by_file(role), self._said_beside(role)):
            known = [token for token in candidates if token in self._vocabulary]
            if known:
                return known[0]
        return self._by_name(role)

    def _said_by_file(self, role: Role) -> list[str]:
        before, after = self._around
        if role == "bos" and before and before[0] in self._text:
            return [self._text[before[0]]]
        if role == "eos" and after and after[0] in self._text:
            return [self._text[after[0]]]
        model = self._tree["model"]
        if role == "unk" and model.get("unk_token") is not None:
            return [model["unk_token"]]
        if role == "unk" and model.get("unk_id") is not None:
            return [model["vocab"][model["unk_id"]][0]]
        return []

    def _said_beside(self, role: Role) -> list[str]:
        return [text for key in _KEYS[role] if (text := _text_of(self._beside.get(key)))]

    def _by_name(self, role: Role) -> str | None:
        merges = self._tree["model"].get("merges") or ()
        learned = {"".join(m.split(" ") if isinstance(m, str) else m) for m in merges}
        for names in _WELL_KNOWN[role]:
            # A byte-level BPE may have learned "<s>" from its texts: it is a piece of text there.
            for known in (self._special, self._vocabulary.keys() - learned):
                found = [name for name in names if name in known]
                if len(found) > 1:
                    raise UserError(
                        f"{self._path}: which token is {role}? Candidates: {', '.join(found)}. "
                        f"Set tokenizer.special_tokens.{role} to one of them"
                    )
                if found:
                    return found[0]
        return None

    def _missing(self, roles: Sequence[Role]) -> UserError:
        reserve = sorted(token for token in self._vocabulary if _UNUSED.fullmatch(token))
        candidates = [*sorted(self._special), *(t for t in reserve if t not in self._special)]
        shown = ", ".join(candidates[:_MAX_SHOWN]) + ", ..." * (len(candidates) > _MAX_SHOWN)
        keys = ", ".join(f"tokenizer.special_tokens.{role}" for role in roles)
        names = "', '".join(_WELL_KNOWN[role][0][1] for role in roles)
        return UserError(
            f"{self._path}: no token is known to be {', '.join(roles)}. Set {keys} to the token "
            f"that is, or to one that no text needs (candidates: {shown or 'none'}), or "
            + _ADD.format(self._path, names)
        )


def added_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the post-processor puts before and after a text."""
    for text in ("a", "1", "\u4e00", ""):
        encoding = tokenizer.encode(text)
        is_added = encoding.special_tokens_mask
        if 0 in is_added:
            first = is_added.index(0)
            last = len(is_added) - is_added[::-1].index(0)
            return encoding.ids[:first], encoding.ids[last:]
    half = len(encoding.ids) // 2  # no text has tokens
    return encoding.ids[:half], encoding.ids[half:]


def _is_roberta(vocabulary: Mapping[str, int]) -> bool:
    """Whether the vocabulary has RoBERTa's special tokens under RoBERTa's ids."""
    names = (*FIRST_SPECIAL_TOKENS, MASK_TOKEN)
    places = (0, 1, 2, 3, max(vocabulary.values(), default=0))
    return all(vocabulary.get(name) == at for name, at in zip(names, places, strict=True))


def _roberta_names() -> dict[Role, str]:
    bos, pad, eos, unk = FIRST_SPECIAL_TOKENS
    return {"bos": bos, "pad": pad, "eos": eos, "unk": unk, "mask": MASK_TOKEN}


def _check_ids(vocabulary: Mapping[str, int], path: str | Path) -> None:
    """Raises UserError if two tokens have one id, as tokens added to a vocabulary with holes do."""
    by_id: dict[int, str] = {}
    for token, number in vocabulary.items():
        if number in by_id:
            raise UserError(
                f"{path}: {by_id[number]!r} and {token!r} have the same id {number}: the library "
                "numbers added tokens from the size of the vocabulary, which here has ids without "
                "a token. Give these tokens ids in the model's own vocabulary"
            )
        by_id[number] = token


def _others(
    tokenizer: Tokenizer,
    vocabulary: Mapping[str, int],
    roles: set[int],
    beside: Mapping[str, Any],
    vocab_size: int,
) -> tuple[tuple[int, int], ...] | None:
    """The ranges of all ids below `vocab_size` that are no ordinary tokens, without `roles`."""
    is_roberta = _is_roberta(vocabulary)
    found = set(range(vocab_size)) - set(vocabulary.values())
    added = tokenizer.get_added_tokens_decoder()
    found |= {number for number, token in added.items() if token.special}
    listed = [beside.get(key) for keys in _KEYS.values() for key in keys]
    listed += [item for key in _LISTS for item in _items(beside.get(key))]
    names = set(map(_text_of, listed))
    for token, number in vocabulary.items():
        # RoBERTa's own vocabulary: its runs draw these three, as they always have.
        is_drawn = is_roberta and token.startswith("madeupword")
        if token in names or (_UNUSED.fullmatch(token) and not is_drawn):
            found.add(number)
    return tuple(_ranges(sorted(found - roles))) or None


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The ranges [first, end) of ascending `numbers`."""
    starts = [n for before, n in pairwise([-2, *numbers]) if n != before + 1]
    ends = [n for n, after in pairwise([*numbers, -2]) if after != n + 1]
    for first, last in zip(starts, ends, strict=True):
        yield first, last + 1


def _beside(path: Path) -> dict[str, Any]:
    """What Hugging Face's files beside a tokenizer.json say; the older, plainer one first."""
    found: dict[str, Any] = {}
    for name in FILES_BESIDE:
        file = path.parent / name
        if not file.is_file():
            continue
        try:
            found |= parse_json(read_regular(file))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read: {error}") from None
    return found


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _text_of(token: Any) -> str | None:
    """The name of a token of Hugging Face's files: a text, or an object with a content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _shown_roles(tokenizer: Tokenizer, special: SpecialTokens) -> str:
    ids = {role: getattr(special, role) for role in ROLES}
    return ", ".join(
        f"{role} {tokenizer.id_to_token(n)!r}" for role, n in ids.items() if n is not None
    )

"""Trains a byte-level BPE tokenizer, or builds one from a vocabulary."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from configs.load import UserError
from data_prep.dataset.tokenizer import FIRST_SPECIAL_TOKENS, MASK_TOKEN

_MIN_FREQUENCY = 2


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` tokens, trained on `texts`.

    The same texts give the same tokenizer. UserError when there is too little text for so many
    tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # the mask token comes last
        min_frequency=_MIN_FREQUENCY,
        special_tokens=list(FIRST_SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = tokenizer.get_vocab_size()
    if learned < vocab_size - 1:
        raise UserError(
            f"tokenizer.vocab_size: the documents give only {learned + 1} tokens, not {vocab_size};"
            " set a smaller one, or give more text (tokenizer.sample_mb, sources)"
        )
    model = json.loads(tokenizer.to_str())["model"]
    return _build(model["vocab"], [tuple(pair) for pair in model["merges"]])


def tokenizer_from_vocabulary(vocab_path: str | Path, merges_path: str | Path) -> Tokenizer:
    """The tokenizer of a GPT-2 or RoBERTa vocab.json with merges.txt.

    A vocabulary without RoBERTa's special tokens (GPT-2's) gets them: ordinary tokens are moved
    after the first four and ``<mask>`` is put last, as fairseq did; GPT-2's own end-of-text token
    is left out. UserError for files that cannot be read.
    """
    try:
        vocabulary = json.loads(Path(vocab_path).read_text(encoding="utf-8"))
        lines = Path(merges_path).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{vocab_path}, {merges_path}: cannot be read: {error}") from None
    merges = [
        (left, right)
        for left, _, right in (
            line.partition(" ") for line in lines if not line.startswith("#version")
        )
        if right
    ]
    if MASK_TOKEN not in vocabulary:
        ordinary = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
        ordinary = [token for token in ordinary if token != "<|endoftext|>"]
        ordered = [*FIRST_SPECIAL_TOKENS, *ordinary]
        vocabulary = {token: number for number, token in enumerate(ordered)}
    else:
        vocabulary = {token: n for token, n in vocabulary.items() if token != MASK_TOKEN}
    _check_places(vocabulary, vocab_path)
    return _build(vocabulary, merges)


def _check_places(vocabulary: dict[str, int], path: str | Path) -> None:
    """Raises UserError for a vocabulary without RoBERTa's special tokens at RoBERTa's ids."""
    wrong = [
        f"{token} is {vocabulary.get(token)}, not {number}"
        for number, token in enumerate(FIRST_SPECIAL_TOKENS)
        if vocabulary.get(token) != number
    ]
    if max(vocabulary.values()) != len(vocabulary) - 1:
        wrong.append("ids without a token")
    if wrong:
        raise UserError(
            f"{path}: not the layout of RoBERTa: {'; '.join(wrong)}; use its tokenizer.json with "
            "tokenizer.type: file"
        )


def _build(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer as Hugging Face's RoBERTa has it; `<mask>` takes the next free id."""
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False, trim_offsets=True
    )
    first = [AddedToken(token, special=True, normalized=True) for token in FIRST_SPECIAL_TOKENS]
    mask = AddedToken(MASK_TOKEN, lstrip=True, special=True, normalized=False)
    tokenizer.add_special_tokens([*first, mask])
    tokenizer.encode_special_tokens = True
    return tokenizer

"""Tiny models with random weights and tokenizers of words, for tests of the checks."""

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer

from data_prep.dataset.manifest import SpecialTokens
from data_prep.tokenization.train import train_tokenizer
from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.parallel.grid import single_rank_grid
from pipeline.evaluation.models import FoundModel

SENTENCES = (
    "the cat sat on the mat and the dog ate the hat of the rat in a red bed",
    "a man saw the mat under the hat, then the rat ran to the bed of the cat",
)
SPECIAL = SpecialTokens(bos=0, pad=1, eos=2, unk=3, mask=299)


def tokenizer_of(vocab_size: int, sentences: tuple[str, ...] = SENTENCES) -> Tokenizer:
    """A byte-level BPE: the more tokens, the fewer tokens a word has."""
    return train_tokenizer(list(sentences) * 60, vocab_size)


def tiny_model(
    name: str, tokenizer: Tokenizer, max_row_tokens: int = 64, **changes: object
) -> FoundModel:
    """A model of `tokenizer` without weights."""
    size = tokenizer.get_vocab_size()
    tree = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, **changes}
    config = ModelConfig.model_validate({**tree, "max_row_tokens": max_row_tokens})
    return FoundModel(
        name=name,
        path=Path(name),
        config=config,
        vocab_size=size,
        tokenizer=tokenizer,
        special=SPECIAL.model_copy(update={"mask": size - 1}),
        no_masks="",
        origin={"sha256": name},
    )


def random_module(model: FoundModel, seed: int = 0) -> MaskedLanguageModel:
    """Weights for `model`, large enough that its predictions depend on the context."""
    with single_rank_grid() as grid:
        module = build_masked_lm(model.config, model.vocab_size, grid, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def log_probability(
    module: MaskedLanguageModel, row: list[int], hidden: Mapping[int, int], place: int
) -> float:
    """Of the token at `place` of `row`, when the places in `hidden` hold the tokens given there."""
    tokens = [hidden.get(n, token) for n, token in enumerate(row)]
    with torch.no_grad():
        logits = module.logits(torch.tensor([tokens]))[0, place]
    return float(logits.log_softmax(-1)[row[place]])

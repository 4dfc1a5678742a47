"""ModernBERT with a decoder of its own."""

from typing import Any

import pytest
import torch

from configs.load import ConfigError
from model.config import ModelConfig
from model.hugging_face.families import family_of_model
from model.hugging_face.modernbert import MODERNBERT
from tests.gloo import run_ranks
from tests.model.hugging_face.test_parity import (
    MODELS,
    SIZES,
    VOCAB_SIZE,
    hf_model,
    our_logits,
    tokens_with_padding,
)

UNTIED: dict[str, Any] = {**SIZES, **MODELS["modernbert"], "tied_decoder": False}


def test_its_own_decoder_equals_hugging_face_and_returns() -> None:
    config = ModelConfig(**UNTIED)
    assert family_of_model(config) is MODERNBERT
    theirs = hf_model(config)
    state = theirs.state_dict()
    embedding = state["model.embeddings.tok_embeddings.weight"]
    assert not torch.equal(state["decoder.weight"], embedding)
    tokens = tokens_with_padding(config)
    is_text = tokens != config.pad_token_id
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=is_text.long()).logits
    full = MODERNBERT.from_hf(state, config, VOCAB_SIZE)
    for tp_size in (1, 2):
        for logits, _ in run_ranks(our_logits, tp_size, UNTIED, full, tp_size):
            torch.testing.assert_close(logits[is_text], expected[is_text], rtol=1e-5, atol=1e-5)
    back = MODERNBERT.to_hf(full, config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in back)
    tied = config.model_copy(update={"tied_decoder": True})
    with pytest.raises(ConfigError, match=r"decoder\.weight: differs from .* that they are tied"):
        MODERNBERT.from_hf(state, tied, VOCAB_SIZE)

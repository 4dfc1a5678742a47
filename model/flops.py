"""How many floating-point operations the matrix products of a config take, by arithmetic."""

from model.config import ModelConfig
from model.size import attention_width

FORWARD_AND_BACKWARD = 3
"""The backward pass of a matrix product is two products of the same size."""


def encoder_flops(config: ModelConfig, row_tokens: int, is_causal: bool = False) -> int:
    """Operations of the forward pass of one row through all layers (a multiply-add is two)."""
    hidden = config.hidden_size
    matrices = hidden * attention_width(config) + weights_after_attention(config)
    total = attention_flops(config, row_tokens, is_causal)
    total += config.num_layers * 2 * row_tokens * matrices
    if config.embedding_size is not None:
        total += 2 * row_tokens * config.embedding_size * hidden
    return total


def weights_after_attention(config: ModelConfig) -> int:
    """Weights of a layer's matrices that follow attention."""
    inner = config.ffn_hidden_size
    up = 2 * inner if config.is_gated else inner
    return config.hidden_size * (config.hidden_size + up + inner)


def attention_flops(config: ModelConfig, row_tokens: int, is_causal: bool = False) -> int:
    """Of these, scores and sums of values by them."""
    windows = (config.attention_pattern.window(layer) for layer in range(config.num_layers))
    pairs = sum(attended_pairs(row_tokens, window, is_causal) for window in windows)
    return 4 * pairs * config.hidden_size


def head_flops(config: ModelConfig, vocab_size: int) -> int:
    """Operations of the forward pass of one masked token through the vocabulary head."""
    inputs = config.hidden_size if config.head_layers else 0
    return 2 * config.embedding_width * (inputs + vocab_size)


def training_flops(
    config: ModelConfig,
    vocab_size: int,
    rows: int,
    row_tokens: int,
    masked_tokens: int,
    is_causal: bool = False,
    reads_all: bool = True,
) -> int:
    """Operations of an optimizer step; what is computed again counts once.

    `masked_tokens` are those with a label: under a causal objective nearly all. Unless the network
    `reads_all`, what follows the last layer's attention counts for these only.
    """
    forward = rows * encoder_flops(config, row_tokens, is_causal)
    if not reads_all:
        forward -= 2 * (rows * row_tokens - masked_tokens) * weights_after_attention(config)
    forward += masked_tokens * head_flops(config, vocab_size)
    return FORWARD_AND_BACKWARD * forward


def attended_pairs(row_tokens: int, window: int | None, is_causal: bool = False) -> int:
    """(query, key) pairs of a row where a query sees `window` keys to each side; None: all.

    `is_causal`: it sees no key after itself.
    """
    if window is None or window >= row_tokens:
        pairs = row_tokens * row_tokens
    else:
        pairs = row_tokens * (2 * window + 1) - window * (window + 1)
    return (pairs + row_tokens) // 2 if is_causal else pairs

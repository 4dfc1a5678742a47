"""How many parameters a config has, by arithmetic: the planner's view, without torch."""

from model.config import ModelConfig


def count_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Parameters of the encoder with its masked-language-model head, without padding."""
    hidden, width = config.hidden_size, config.embedding_width
    norm = _norm_parameters(config, hidden)
    embeddings = count_vectors(config, vocab_size) * width
    embeddings += _norm_parameters(config, width) if config.embedding_norm else 0
    embeddings += 0 if config.embedding_size is None else width * hidden + hidden
    head = count_head_parameters(config, vocab_size)
    num_layers = config.num_layers
    if config.parameter_sharing.type == "groups":
        num_layers = config.parameter_sharing.num_groups
    final_norm = norm if config.norm_placement.type == "pre" else 0
    final_norm -= 0 if config.first_norm else norm
    return embeddings + num_layers * count_layer_parameters(config) + final_norm + head


def count_vectors(config: ModelConfig, vocab_size: int) -> int:
    """Vectors of the embedding: words, positions and segments."""
    positions = 0
    if config.positions.type == "learned":
        positions = config.max_row_tokens + config.positions.offset
    return vocab_size + positions + config.type_vocab_size


def count_head_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Parameters of the masked-language-model head, without a decoder that is tied."""
    width = config.embedding_width
    head = vocab_size if config.bias.decoder else 0
    head += 0 if config.tied_decoder else vocab_size * width
    if config.head_layers:
        head += config.hidden_size * width + _norm_parameters(config, width)
        head += width if config.bias.head else 0
    return head


def count_matrix_parameters(config: ModelConfig) -> int:
    """Parameters in the matrices of all layers: what an optimizer of matrices works on."""
    hidden, inner = config.hidden_size, config.ffn_hidden_size
    up = 2 * inner if config.is_gated else inner
    num_layers = config.num_layers
    if config.parameter_sharing.type == "groups":
        num_layers = config.parameter_sharing.num_groups
    attention = hidden * (hidden + attention_width(config))
    return num_layers * (attention + up * hidden + hidden * inner)


def count_layer_parameters(config: ModelConfig) -> int:
    """Parameters of one transformer layer."""
    hidden, inner = config.hidden_size, config.ffn_hidden_size
    up = 2 * inner if config.is_gated else inner
    fused = attention_width(config)
    attention = hidden * (fused + hidden) + (fused + hidden if config.bias.attention else 0)
    attention += 2 * _norm_parameters(config, config.head_size) if config.query_key_norm else 0
    mlp = up * hidden + hidden * inner
    if config.bias.mlp:
        mlp += hidden + (up if config.bias.mlp_up else 0)
    return attention + mlp + 2 * _norm_parameters(config, hidden)


def attention_width(config: ModelConfig) -> int:
    """Width of the queries, keys and values of a token together."""
    return (config.num_attention_heads + 2 * config.key_value_heads) * config.head_size


def _norm_parameters(config: ModelConfig, size: int) -> int:
    """Parameters of one normalisation over `size` values."""
    has_bias = config.norm.type == "layer_norm" and config.bias.norm
    return (2 if has_bias else 1) * size

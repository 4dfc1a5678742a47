"""How many parameters a config has, by arithmetic: the planner's view, without torch."""

from model.config import ModelConfig


def count_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Parameters of the encoder with its masked-language-model head, without padding."""
    hidden = config.hidden_size
    norm = _norm_parameters(config)
    positions = 0
    if config.positions.type == "learned":
        positions = config.max_row_tokens + config.positions.offset
    embeddings = (vocab_size + positions + config.type_vocab_size) * hidden
    embeddings += norm if config.embedding_norm else 0
    head = hidden * hidden + norm
    head += hidden if config.bias.head else 0
    head += vocab_size if config.bias.decoder else 0
    num_layers = config.num_layers
    if config.parameter_sharing.type == "groups":
        num_layers = config.parameter_sharing.num_groups
    final_norm = norm if config.norm_placement.type == "pre" else 0
    final_norm -= 0 if config.first_norm else norm
    return embeddings + num_layers * count_layer_parameters(config) + final_norm + head


def count_matrix_parameters(config: ModelConfig) -> int:
    """Parameters in the matrices of all layers: what an optimizer of matrices works on."""
    hidden, inner = config.hidden_size, config.ffn_hidden_size
    up = 2 * inner if config.is_gated else inner
    num_layers = config.num_layers
    if config.parameter_sharing.type == "groups":
        num_layers = config.parameter_sharing.num_groups
    return num_layers * (4 * hidden * hidden + up * hidden + hidden * inner)


def count_layer_parameters(config: ModelConfig) -> int:
    """Parameters of one transformer layer."""
    hidden, inner = config.hidden_size, config.ffn_hidden_size
    up = 2 * inner if config.is_gated else inner
    attention = 4 * hidden * hidden + (4 * hidden if config.bias.attention else 0)
    mlp = up * hidden + hidden * inner + (up + hidden if config.bias.mlp else 0)
    return attention + mlp + 2 * _norm_parameters(config)


def _norm_parameters(config: ModelConfig) -> int:
    """Parameters of one normalisation."""
    has_bias = config.norm.type == "layer_norm" and config.bias.norm
    return (2 if has_bias else 1) * config.hidden_size

"""How many parameters a config has, by arithmetic: the planner's view, without torch."""

from model.config import ModelConfig


def count_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Parameters of the encoder with its masked-language-model head, without padding."""
    hidden = config.hidden_size
    norm = 2 * hidden if config.norm.type == "layer_norm" else hidden
    positions = 0
    if config.positions.type == "learned":
        positions = config.max_row_tokens + config.positions.offset
    embeddings = (vocab_size + positions + config.type_vocab_size) * hidden + norm
    head = hidden * hidden + hidden + norm + vocab_size
    num_layers = config.num_layers
    if config.parameter_sharing.type == "groups":
        num_layers = config.parameter_sharing.num_groups
    final_norm = norm if config.norm_placement.type == "pre" else 0
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
    norms = 2 * (2 * hidden if config.norm.type == "layer_norm" else hidden)
    attention = 3 * hidden * hidden + 3 * hidden + hidden * hidden + hidden
    mlp = up * hidden + up + hidden * inner + hidden
    return attention + mlp + norms

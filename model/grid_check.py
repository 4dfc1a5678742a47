"""Does a model fit its rows, its grid and how it is computed? No torch: the planner asks."""

from collections.abc import Iterator

from configs.load import ConfigError
from model.compute import ComputeConfig
from model.config import ModelConfig, nearest_multiples

MAX_HEAD_SIZE = 256
"""Of torch's flash attention."""


def check_row_tokens(config: ModelConfig, row_tokens: int) -> None:
    """Raises ConfigError if rows of `row_tokens` do not fit the model."""
    if row_tokens > config.max_row_tokens:
        raise ConfigError(
            f"rows of {row_tokens} tokens are longer than model.max_row_tokens "
            f"{config.max_row_tokens}: raise it, or pack shorter rows"
        )


def compute_errors(config: ModelConfig, compute: ComputeConfig) -> Iterator[str]:
    """A line for each choice of `compute` that cannot compute `config`."""
    backend = compute.attention_backend
    if backend in ("flex", "varlen") and config.attention_dropout > 0:
        yield (
            f"compute.attention_backend {backend} has no dropout: set model.attention_dropout to 0 "
            "or choose a different backend"
        )
    if backend != "varlen":
        return
    if config.visibility.type != "all":
        yield (
            f"compute.attention_backend varlen cannot hide tokens, as model.visibility "
            f"{config.visibility.type} does: choose a different backend"
        )
    if config.head_size % 8 or config.head_size > MAX_HEAD_SIZE:
        yield (
            f"compute.attention_backend varlen takes heads of 8, 16, ... {MAX_HEAD_SIZE} values, "
            f"not {config.head_size} (model.hidden_size / model.num_attention_heads): choose a "
            "different backend"
        )


def check_number_format(backend: str, is_fp32: bool, device_type: str) -> None:
    """Raises ConfigError if an attention backend has no kernels for the format on that device."""
    if backend == "varlen" and is_fp32 and device_type != "cpu":
        raise ConfigError(
            "compute.attention_backend varlen has no kernels for fp32: set precision to bf16 or "
            "fp16, or choose a different backend"
        )


def check_grid(config: ModelConfig, compute: ComputeConfig, tp_size: int) -> None:
    """Raises one ConfigError that lists every choice that does not work on `tp_size` ranks."""
    sizes = {
        "model.num_attention_heads": config.num_attention_heads,
        "model.num_key_value_heads": config.key_value_heads,
        "model.ffn_hidden_size": config.ffn_hidden_size,
        "compute.vocabulary_multiple": compute.vocabulary_multiple,
    }
    if compute.sequence_parallel:
        sizes["model.max_row_tokens"] = config.max_row_tokens
    if config.num_key_value_heads is None:
        del sizes["model.num_key_value_heads"]
    errors = [
        f"{name} {size} is not divisible by tensor-parallel size {tp_size}; nearest values "
        f"that are: {nearest_multiples(size, tp_size)}; tensor-parallel sizes that divide {size}: "
        f"{', '.join(str(n) for n in range(1, min(size, 64) + 1) if size % n == 0)}"
        for name, size in sizes.items()
        if size % tp_size
    ]
    errors += compute_errors(config, compute)
    if errors:
        raise ConfigError("\n".join(errors))

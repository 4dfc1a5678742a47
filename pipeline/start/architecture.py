"""Which models the weights of a start can become: the same one, or a larger one. No torch."""

from collections.abc import Container, Iterator

from configs.differences import Difference
from configs.load import ConfigError
from model.config import ModelConfig, architecture_differences
from model.options import PerPhase

GROWING = (
    *("num_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("ffn_hidden_size", "embedding_size", "max_row_tokens"),
)
"""The sizes of a model that can grow."""


def check_architecture(
    start: ModelConfig,
    now: ModelConfig,
    grow: str | None,
    description: str,
    free: Container[str] = (),
) -> None:
    """Raises ConfigError that names every way in which the model `now` cannot start from `start`.

    Training choices, and what may differ between phases, are free. With `grow`, sizes may be
    larger. `description` says what the start is; `free` are keys that may differ too.
    """
    changed = [found for found in shape_differences(start, now) if found.path not in free]
    growing = [found for found in changed if found.path in GROWING]
    lines = [_line(found) for found in changed if found.path not in GROWING]
    if grow is None:
        lines += [
            f"{_line(found)} (start.grow: tiling makes weights larger)"
            if _size(now, found.path) > _size(start, found.path)
            else _line(found)
            for found in growing
        ]
    else:
        lines += growth_errors(start, now)
    if lines:
        raise ConfigError(
            f"the model section disagrees with the weights of {description}:\n  "
            + "\n  ".join(lines)
            + (
                "\nleave these keys out: the model is that of the start"
                if grow is None
                else "\nonly sizes may be larger (start.grow); all else is that of the start"
            )
        )


def shape_differences(start: ModelConfig, now: ModelConfig) -> list[Difference]:
    """What differs between two models that weights depend on."""
    found = [d for d in architecture_differences(start, now) if not d.has_mark(PerPhase)]
    if start.positions.type == now.positions.type != "learned":
        # Only learned positions have a weight for each token of the longest row.
        found = [d for d in found if d.path != "max_row_tokens"]
    return found


def growth_errors(start: ModelConfig, now: ModelConfig) -> Iterator[str]:
    """A line for each size of `start` that cannot become that of `now` by tiling."""
    # What a user did not set is that of the start.
    given = [key for key in GROWING if getattr(now, key) != getattr(start, key)]
    for key in given:
        if key == "max_row_tokens" and now.positions.type != "learned":
            continue
        if _size(now, key) < _size(start, key):
            yield f"model.{key} is {_size(now, key)}, less than the start's {_size(start, key)}"
    if now.head_size != start.head_size:
        heads = now.hidden_size / start.head_size
        advice = f"set model.num_attention_heads to {heads:g}"
        if heads != int(heads):
            advice = f"choose a model.hidden_size that is a multiple of {start.head_size}"
        yield (
            f"{_given(now, given, 'hidden_size', 'num_attention_heads')} would make the size of an "
            f"attention head {now.head_size}; the start's is {start.head_size} and cannot grow: "
            f"{advice}"
        )
    old, new = (one.num_attention_heads // one.key_value_heads for one in (start, now))
    if new < old:
        yield (
            f"{_given(now, given, 'num_attention_heads', 'num_key_value_heads')} would make each "
            f"head of keys and values serve {new} heads, in the start {old}, which cannot become "
            f"fewer: set model.num_key_value_heads to {max(1, now.num_attention_heads // old)}"
        )
    if (start.embedding_size is None) != (now.embedding_size is None):
        yield "model.embedding_size: a layer after the embedding cannot be added by tiling"


def _given(config: ModelConfig, given: Container[str], *keys: str) -> str:
    """Those of `keys` that are `given`, with their values."""
    return " and ".join(f"model.{key} {_size(config, key)}" for key in keys if key in given)


def _size(config: ModelConfig, key: str) -> int:
    if key == "num_key_value_heads":
        return config.key_value_heads
    if key == "embedding_size":
        return config.embedding_width
    return int(getattr(config, key))


def _line(found: Difference) -> str:
    return f"model.{found.path} is {found.now!r}, the start's {found.before!r}"

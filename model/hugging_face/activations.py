"""Names of activation functions in transformers and in our configs."""

from collections.abc import Mapping
from typing import Any, Literal

Function = Literal["gelu", "gelu_tanh", "silu"]
"""By the name that `model.head_activation` has for it."""

_OURS: Mapping[str, Function] = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"), "gelu_tanh"),
    **dict.fromkeys(("silu", "swish"), "silu"),
}
_THEIRS: Mapping[Function, str] = {"gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}

PLAIN: Mapping[Function, str] = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}
"""By function, the type of `model.activation` without a gate."""
GATED: Mapping[Function, str] = {"gelu": "geglu", "silu": "swiglu"}
"""By function of the gate, the type of `model.activation` with one."""
OF_HEADS: Mapping[Function, str] = {name: name for name in _THEIRS}
"""By function, `model.head_activation`."""


def error_of(key: str, name: Any, known: Mapping[Function, str]) -> str | None:
    """What is wrong with transformers' function `name` under `key` of a config.json, if anything
    is: it has to be one of `known`."""
    if _OURS.get(str(name)) in known:
        return None
    allowed = ", ".join(repr(one) for one, function in _OURS.items() if function in known)
    return f"{key} {name!r} is not supported (only {allowed})"


def function_of(name: str) -> Function:
    """Our name of the function that transformers calls `name`, in which `error_of` found none."""
    return _OURS[name]


def name_of(value: str, known: Mapping[Function, str]) -> str:
    """transformers' name of the function that `known` has `value` for; of its first for a value
    that it does not have."""
    functions = {found: function for function, found in known.items()}
    return _THEIRS[functions.get(value, next(iter(known)))]

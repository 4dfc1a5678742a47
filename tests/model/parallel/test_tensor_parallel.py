"""The model at TP 2 and 4 is the model at TP 1: loss, gradients, steps; dropout on."""

from typing import Any

import pytest
import torch

from model.heads import MaskedLanguageModel, build_masked_lm
from model.layers import ReplicatedGradient
from model.parallel.grid import close_grid, make_grid
from model.parameters import ParameterSpec, parameter_specs, unpad_local
from tests.gloo import run_ranks
from tests.model.settings import configs_of

VOCAB_SIZE = 203  # does not divide by 2 or 4; padded to 256
TINY = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_row_tokens": 16,
}


SEQUENCE_PARALLEL = {"compute": {"sequence_parallel": True}}


def batch(num_rows: int = 3, row_tokens: int = 16, num_slots: int = 3) -> dict[str, torch.Tensor]:
    """A batch with one padded row and one unused label slot."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, VOCAB_SIZE - 1, (num_rows, row_tokens), generator=generator)
    tokens[:, 0], tokens[:, -1] = 0, 2
    tokens[1, -4:] = torch.tensor([2, 1, 1, 1])
    positions = torch.stack([torch.arange(1, 1 + num_slots) * 3] * num_rows)
    labels = torch.randint(4, VOCAB_SIZE - 1, (num_rows, num_slots), generator=generator)
    positions[2, -1], labels[2, -1] = 0, -100
    return {"tokens": tokens, "positions": positions, "labels": labels}


def trajectory(settings: dict[str, Any], tp_size: int, num_steps: int, key: int | None) -> Any:
    """(losses, local gradients of step 0 without padding, local weights at the end, specs)."""
    grid = make_grid(tp_size)
    config, compute = configs_of(settings)
    model = build_masked_lm(config, VOCAB_SIZE, grid, seed=7, compute=compute)
    # eps well above the noise of the gradients: Adam divides by their size.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-4)
    losses, gradients = [], {}
    for step in range(num_steps):
        loss_sum, count, _ = model(**batch(), dropout_key=None if key is None else key + step)
        (loss_sum / count).backward()
        if step == 0:
            gradients = local_tensors(model, tp_size, grid.tp_rank, gradient=True)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss_sum / count))
    weights = local_tensors(model, tp_size, grid.tp_rank, gradient=False)
    specs = parameter_specs(model)
    close_grid()
    return losses, gradients, weights, specs


def local_tensors(
    model: MaskedLanguageModel, tp_size: int, tp_rank: int, gradient: bool
) -> dict[str, torch.Tensor]:
    specs = parameter_specs(model)
    found = {}
    for name, parameter in model.named_parameters():
        value = parameter.grad if gradient else parameter.detach()
        if value is not None and (parameter.requires_grad or not gradient):
            found[name] = unpad_local(specs[name], value, tp_rank, tp_size).clone()
    return found


def gathered(
    parts: list[dict[str, torch.Tensor]], specs: dict[str, ParameterSpec]
) -> dict[str, torch.Tensor]:
    """Full tensors from each rank's; replicated ones must be equal to the bit."""
    full = {}
    for name in parts[0]:
        spec = specs[name]
        tensors = [part[name] for part in parts]
        if spec.partition_dim is None:
            assert all(torch.equal(tensors[0], other) for other in tensors), name
            full[name] = tensors[0]
        else:
            full[name] = torch.cat(tensors, dim=spec.partition_dim)
        assert tuple(full[name].shape) == spec.full_shape, name
    return full


def assert_parity(
    settings: dict[str, Any], tp_size: int, num_steps: int = 6, key: int | None = 11
) -> None:
    """TP `tp_size` equals TP 1 within 1e-5 of each tensor's largest value."""
    [(losses, gradients, weights, specs)] = run_ranks(trajectory, 1, settings, 1, num_steps, key)
    results = run_ranks(trajectory, tp_size, settings, tp_size, num_steps, key)
    for other_losses, *_ in results:
        assert other_losses == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0]
    for expected, index in ((gradients, 1), (weights, 2)):
        actual = gathered([result[index] for result in results], specs)
        assert actual.keys() == expected.keys()
        for name, tensor in expected.items():
            scale = float(tensor.abs().max())
            error = float((actual[name] - tensor).abs().max())
            floor = 1e-3 if index == 1 else 1e-2  # Adam magnifies the noise of small gradients
            assert error <= 1e-5 * max(scale, floor), f"{name}: {error} of {scale}"
            assert index == 2 or scale > 0 or "segment" in name, f"{name} has no gradient"


@pytest.mark.parametrize("tp_size", [2, 4])
def test_tensor_parallel_equals_one_rank(tp_size: int) -> None:
    assert_parity(TINY, tp_size, num_steps=20)


@pytest.mark.parametrize("tp_size", [2, 4])
def test_sequence_parallel_equals_one_rank(tp_size: int) -> None:
    assert_parity({**TINY, **SEQUENCE_PARALLEL}, tp_size)


OPTIONS: dict[str, dict[str, Any]] = {
    "pre-norm": {"norm_placement": {"type": "pre"}},
    "rms-norm": {"norm": {"type": "rms_norm"}},
    "geglu": {"activation": {"type": "geglu"}},
    "swiglu": {"activation": {"type": "swiglu"}},
    "rotary": {"positions": {"type": "rotary", "base": 160000.0}},
    "no-positions": {"positions": {"type": "none"}},
    "no-segments": {"type_vocab_size": 0},
    "two-segments": {"type_vocab_size": 2},
    "window": {"attention_pattern": {"type": "window", "neighbours": 3}},
    "alternating": {
        "attention_pattern": {"type": "alternating", "neighbours": 2, "global_every": 2}
    },
    "inside-pieces": {"packed_rows": {"type": "inside"}},
    "hidden-keys": {"visibility": {"type": "random_keys"}},
    "hidden-span": {"visibility": {"type": "random_span"}},
    "shared-layers": {"parameter_sharing": {"type": "groups", "num_groups": 1}},
    "checkpointing": {"compute": {"activation_checkpointing": {"type": "layers", "every": 1}}},
    "selective": {"compute": {"activation_checkpointing": {"type": "selective"}}},
    "selective-pre": {
        "norm_placement": {"type": "pre"},
        "positions": {"type": "rotary"},
        "compute": {"activation_checkpointing": {"type": "selective"}},
    },
    "selective-frozen": {
        "frozen": {"type": "lower", "num_layers": 1},
        "compute": {"activation_checkpointing": {"type": "selective"}},
    },
    "frozen-lower": {"frozen": {"type": "lower", "num_layers": 1}},
    "last-trained": {"frozen": {"type": "all_but_last", "num_layers": 1}},
    "no-biases": {
        "bias": dict.fromkeys(("attention", "mlp", "norm", "head", "decoder"), False),
    },
    "no-embedding-norm": {"embedding_norm": False},
    "modernbert": {
        "norm_placement": {"type": "pre"},
        "first_norm": False,
        "bias": {"attention": False, "mlp": False, "norm": False, "head": False},
        "activation": {"type": "geglu"},
        "positions": {"type": "rotary", "base": 160_000.0, "local_base": 10_000.0},
        "attention_pattern": {"type": "alternating", "neighbours": 2, "global_every": 2},
        "type_vocab_size": 0,
    },
    "albert": {
        "embedding_size": 12,
        "parameter_sharing": {"type": "groups", "num_groups": 1},
        "activation": {"type": "gelu_tanh"},
        "head_activation": "gelu_tanh",
    },
    "gte": {
        "activation": {"type": "geglu"},
        "positions": {"type": "rotary"},
        "bias": {"mlp_up": False},
        "head_activation": "silu",
    },
    "grouped-queries": {"num_key_value_heads": 2},
    "query-key-norm": {"query_key_norm": True},
    "untied-decoder": {"tied_decoder": False},
    "eurobert": {
        "num_key_value_heads": 2,
        "query_key_norm": True,  # not in EuroBERT
        "norm_placement": {"type": "pre"},
        "norm": {"type": "rms_norm"},
        "embedding_norm": False,
        "bias": dict.fromkeys(("attention", "mlp", "decoder"), False),
        "activation": {"type": "swiglu"},
        "positions": {"type": "rotary", "base": 250_000.0},
        "type_vocab_size": 0,
        "head_layers": False,
        "tied_decoder": False,
        "parameter_sharing": {"type": "groups", "num_groups": 1},
        "compute": {"activation_checkpointing": {"type": "layers", "every": 1}},
    },
    "everything": {
        "norm_placement": {"type": "pre"},
        "norm": {"type": "rms_norm"},
        "activation": {"type": "swiglu"},
        "positions": {"type": "rotary"},
        "attention_pattern": {"type": "alternating", "neighbours": 4, "global_every": 2},
        "packed_rows": {"type": "inside"},
        "visibility": {"type": "random_keys"},
        "compute": {
            "activation_checkpointing": {"type": "layers", "every": 2},
            "sequence_parallel": True,
        },
    },
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_equal_at_two_ranks(option: str) -> None:
    assert_parity({**TINY, **OPTIONS[option]}, 2, num_steps=3)


@pytest.mark.parametrize(
    "option",
    [
        *("pre-norm", "two-segments", "shared-layers", "checkpointing", "frozen-lower"),
        *("selective", "selective-pre", "selective-frozen"),
        *("modernbert", "albert", "query-key-norm", "untied-decoder", "eurobert"),
    ],
)
def test_every_option_is_equal_under_sequence_parallelism(option: str) -> None:
    compute = {**OPTIONS[option].get("compute", {}), "sequence_parallel": True}
    assert_parity({**TINY, **OPTIONS[option], "compute": compute}, 2, num_steps=2)


def test_the_test_sees_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the all-reduce of replicated gradients, sequence parallelism must fail the test."""
    monkeypatch.setattr(ReplicatedGradient, "shared", lambda self, parameter: parameter)
    with pytest.raises(AssertionError):
        assert_parity({**TINY, **SEQUENCE_PARALLEL}, 2, num_steps=2)

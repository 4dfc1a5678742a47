"""Attention backends agree, masks follow their rule, packed rows equal their documents alone."""

from typing import Any

import pytest
import torch

from configs.load import ConfigError
from model.attention import explicit_attention, flex_attention, sdpa_attention
from model.attention_masks import MaskRule, build_mask, choose_backend
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.row_context import KnownRows, hidden_keys, positions_in_pieces
from tests.gloo import in_one_rank, run_ranks
from tests.model.settings import configs_of

VOCAB_SIZE = 203
SIZES = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 48}
ROWS, TOKENS = 2, 40


def rules() -> dict[str, MaskRule]:
    pieces = torch.zeros(ROWS, TOKENS, dtype=torch.int64)
    pieces[0, 11:], pieces[0, 30:], pieces[1, 5:] = 1, 2, 1
    visible = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    visible[1, 33:] = False
    hidden = torch.zeros(ROWS, TOKENS, dtype=torch.bool)
    hidden[0, 3:9] = True
    shape = (ROWS, TOKENS)
    return {
        "full": MaskRule(*shape),
        "padding": MaskRule(*shape, visible=visible),
        "window": MaskRule(*shape, window=12),
        "narrow window": MaskRule(*shape, window=1),
        "pieces": MaskRule(*shape, pieces=pieces),
        "hidden": MaskRule(*shape, hidden=hidden),
        "all": MaskRule(*shape, window=5, pieces=pieces, visible=visible, hidden=hidden),
        "causal": MaskRule(*shape, is_causal=True),
        "causal padding": MaskRule(*shape, visible=visible, is_causal=True),
        "causal all": MaskRule(*shape, 5, pieces, visible, hidden, is_causal=True),
    }


def run_backend(
    backend: Any, rule: MaskRule, inputs: list[torch.Tensor], with_gradients: bool
) -> list[torch.Tensor | None]:
    """The output, and the gradients of query, key and value."""
    query, key, value = (x.clone().requires_grad_(with_gradients) for x in inputs[:3])
    mask = build_mask(backend, rule, query.dtype, query.device)
    if backend == "explicit":
        output = explicit_attention(query, key, value, mask.bias)
    elif backend == "sdpa":
        output = sdpa_attention(query, key, value, mask.allowed, is_causal=mask.is_causal)
    else:
        output = flex_attention(query, key, value, mask)
    if with_gradients:
        output.backward(inputs[3])  # type: ignore[no-untyped-call]
    return [output.detach(), query.grad, key.grad, value.grad]


@pytest.mark.parametrize("name", rules())
def test_backends_agree(name: str) -> None:
    rule = rules()[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, ROWS, TOKENS, 8, generator=generator) for _ in range(4)]
    expected = run_backend("explicit", rule, inputs, with_gradients=True)
    sdpa = run_backend("sdpa", rule, inputs, with_gradients=True)
    torch.testing.assert_close(sdpa, expected, rtol=1e-5, atol=1e-5)
    flex = run_backend("flex", rule, inputs, with_gradients=False)  # no backward on the CPU
    torch.testing.assert_close(flex[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["all", "causal all"])
def test_masks_show_exactly_what_the_rule_allows(name: str) -> None:
    rule = rules()[name]
    assert rule.pieces is not None
    assert rule.visible is not None
    assert rule.hidden is not None
    allowed = rule.allowed(torch.device("cpu"))
    for row in range(ROWS):
        for query in range(TOKENS):
            for key in range(TOKENS):
                seen = query == key or (rule.visible[row, key] and not rule.hidden[row, key])
                near = abs(query - key) <= 5 and (key <= query or not rule.is_causal)
                together = rule.pieces[row, query] == rule.pieces[row, key]
                assert bool(allowed[row, query, key]) == bool(near and together and seen)


def test_no_quadratic_mask_is_built_for_full_attention_with_padding() -> None:
    cpu = torch.device("cpu")
    assert build_mask("sdpa", rules()["full"], torch.float32, cpu).allowed is None
    assert build_mask("sdpa", rules()["causal"], torch.float32, cpu).allowed is None
    allowed = build_mask("sdpa", rules()["padding"], torch.float32, cpu).allowed
    assert allowed is not None
    assert allowed.shape == (ROWS, 1, TOKENS)
    bias = build_mask("explicit", rules()["window"], torch.float32, cpu).bias
    assert bias is not None
    assert bias.shape == (1, TOKENS, TOKENS)


@in_one_rank
def test_a_window_reaches_k_neighbours_on_each_side() -> None:
    grid = make_grid(1)
    settings = {"attention_pattern": {"type": "window", "neighbours": 3}, "num_layers": 1}
    model = build_masked_lm(ModelConfig(**{**SIZES, **settings}), VOCAB_SIZE, grid, seed=1).eval()
    tokens = torch.randint(4, 200, (1, TOKENS), generator=torch.Generator().manual_seed(2))
    changed = tokens.clone()
    changed[0, 20] += 1
    with torch.no_grad():
        moved = (model.hidden_states(tokens) != model.hidden_states(changed)).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == list(range(17, 24))


@in_one_rank
def test_known_padding_is_the_same_as_padding_that_is_found() -> None:
    model = build_masked_lm(ModelConfig(**SIZES), VOCAB_SIZE, make_grid(1), seed=1).eval()
    whole = torch.randint(4, 200, (2, TOKENS), generator=torch.Generator().manual_seed(2))
    padded = whole.clone()
    padded[1, 30:] = model.config.pad_token_id
    positions, labels = torch.tensor([[3, 5], [7, 9]]), torch.tensor([[8, 9], [10, 11]])
    for tokens, known in ((whole, KnownRows(False)), (padded, KnownRows(True))):
        found = model(tokens, positions, labels)[0]
        assert torch.equal(model(tokens, positions, labels, known=known)[0], found)
    assert model(padded, positions, labels, known=KnownRows(False))[0] != found


def packed(pieces: list[torch.Tensor], row_tokens: int) -> torch.Tensor:
    row = torch.ones(row_tokens, dtype=torch.int64)
    text = torch.cat(pieces)
    row[: len(text)] = text
    return row[None]


@pytest.mark.parametrize("backend", ["explicit", "sdpa", "flex"])
@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
@in_one_rank
def test_a_packed_row_equals_its_pieces_alone(backend: str, positions: str) -> None:
    grid = make_grid(1)
    config = ModelConfig(
        **SIZES,
        packed_rows={"type": "inside"},
        positions={"type": positions},
        attention_dropout=0.0,
    )
    compute = ComputeConfig(attention_backend=backend)
    model = build_masked_lm(config, VOCAB_SIZE, grid, seed=1, compute=compute).eval()
    generator = torch.Generator().manual_seed(3)
    pieces = []
    for length in (9, 17, 12):
        piece = torch.randint(4, 200, (length,), generator=generator)
        piece[0], piece[-1] = 0, 2
        pieces.append(piece)
    with torch.no_grad():
        together = model.hidden_states(packed(pieces, 42))[0]
        start = 0
        for piece in pieces:
            alone = model.hidden_states(piece[None])[0]
            torch.testing.assert_close(
                together[start : start + len(piece)], alone, rtol=1e-5, atol=1e-5
            )
            start += len(piece)


@in_one_rank
def test_across_pieces_a_packed_row_differs() -> None:
    grid = make_grid(1)
    model = build_masked_lm(ModelConfig(**SIZES), VOCAB_SIZE, grid, seed=1).eval()
    piece = torch.tensor([0, 7, 8, 9, 2])
    with torch.no_grad():
        together = model.hidden_states(packed([piece, piece], 10))[0]
        alone = model.hidden_states(piece[None])[0]
    assert float((together[:5] - alone).abs().max()) > 1e-3


def test_positions_restart_at_every_document() -> None:
    starts = torch.tensor([[1, 0, 0, 1, 0, 1, 0, 0]], dtype=torch.bool)
    assert positions_in_pieces(starts).tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]


@in_one_rank
def test_a_masked_begin_token_still_starts_a_document() -> None:
    config = ModelConfig(**SIZES, packed_rows={"type": "inside"})
    model = build_masked_lm(config, VOCAB_SIZE, make_grid(1), seed=1).eval()
    row = packed([torch.tensor([0, 7, 8, 9, 2])] * 2, 11)
    masked = row.clone()
    masked[0, 5] = VOCAB_SIZE - 1  # the second <s>
    positions, labels = torch.tensor([[5, 7, 0]]), torch.tensor([[0, 8, -100]])
    changed = masked.clone()
    changed[0, 1:4] = 50  # in the first piece: the second must not notice
    first, second = (model(tokens, positions, labels)[0] for tokens in (masked, changed))
    assert torch.equal(first, second)


@in_one_rank
def test_positions_may_run_through_the_row() -> None:
    grid = make_grid(1)
    settings = {"packed_rows": {"type": "inside", "restart_positions": False}}
    model = build_masked_lm(ModelConfig(**SIZES, **settings), VOCAB_SIZE, grid, seed=1).eval()
    piece = torch.tensor([0, 7, 8, 9, 2])
    with torch.no_grad():
        hidden = model.hidden_states(packed([piece, piece], 10))[0]
    torch.testing.assert_close(hidden[:5], model.hidden_states(piece[None])[0])
    assert float((hidden[:5] - hidden[5:]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["random_keys", "random_span"])
@in_one_rank
def test_visibility_hides_a_share_in_training_and_nothing_in_evaluation(kind: str) -> None:
    grid = make_grid(1)
    config = ModelConfig(
        **SIZES,
        visibility={"type": kind, "max_share": 0.6},
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    tokens = torch.randint(4, 200, (400, TOKENS), generator=torch.Generator().manual_seed(2))
    tokens[:, 0] = 0
    hidden = hidden_keys(config, tokens, dropout_key=5)
    assert not hidden[:, 0].any()
    assert torch.equal(hidden, hidden_keys(config, tokens, dropout_key=5))
    shares = hidden.float().mean(dim=1)
    assert float(shares.mean()) == pytest.approx(0.3 * 39 / 40, abs=0.03)
    assert float(shares.max()) > 0.5
    if kind == "random_span":
        assert (hidden[:, 1:].int().diff(dim=1) >= 0).all()
    model = build_masked_lm(config, VOCAB_SIZE, grid, seed=1)
    plain = build_masked_lm(ModelConfig(**SIZES), VOCAB_SIZE, grid, seed=1).eval()
    some = tokens[:2]
    labels = torch.full((2, 3), 9)
    positions = torch.tensor([[1, 2, 3]] * 2)
    expected, _, _ = plain(some, positions, labels)
    assert float(model.eval()(some, positions, labels, 5)[0]) == pytest.approx(float(expected))
    assert float(model.train()(some, positions, labels, 5)[0]) != pytest.approx(float(expected))


def test_auto_backend_fits_device_and_pattern() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    window = {"attention_pattern": {"type": "window"}}
    plain, windowed = ModelConfig(**SIZES), ModelConfig(**SIZES, **window)
    without = ModelConfig(**SIZES, **window, attention_dropout=0.0)
    auto = ComputeConfig()
    assert choose_backend(plain, auto, cpu, True) == "explicit"
    assert choose_backend(plain, auto, cuda, True) == "sdpa"
    assert choose_backend(windowed, auto, cuda, True) == "sdpa"
    assert choose_backend(windowed, auto, cuda, False) == "flex"
    assert choose_backend(without, auto, cuda, True) == "flex"
    assert choose_backend(without, ComputeConfig(attention_backend="sdpa"), cuda, True) == "sdpa"


@in_one_rank
def test_rows_longer_than_the_positions_are_an_error() -> None:
    grid = make_grid(1)
    model = build_masked_lm(ModelConfig(**SIZES), VOCAB_SIZE, grid, seed=1)
    with pytest.raises(ConfigError, match="rows of 49 tokens are longer than"):
        model.hidden_states(torch.zeros(1, 49, dtype=torch.int64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", rules())
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_backends_agree_on_cuda(name: str, backend: str) -> None:
    run_ranks(compare_on_cuda, 1, name, backend, device="cuda")


def compare_on_cuda(name: str, backend: str) -> None:
    device = torch.device("cuda")
    rule = rules()[name]
    moved: dict[str, Any] = {
        key: None if value is None else value.to(device)
        for key, value in vars(rule).items()
        if key in ("pieces", "visible", "hidden")
    }
    rule = MaskRule(ROWS, TOKENS, rule.window, **moved)
    inputs = [torch.randn(3, ROWS, TOKENS, 16, device=device) for _ in range(4)]
    expected = run_backend("explicit", rule, inputs, with_gradients=True)
    actual = run_backend(backend, rule, inputs, with_gradients=True)
    # fp32 throughout: only the order of sums and the kernels' own exponential differ.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@in_one_rank
def test_flex_cannot_train_on_the_cpu() -> None:
    grid = make_grid(1)
    config, compute = configs_of(
        {**SIZES, "attention_dropout": 0.0, "compute": {"attention_backend": "flex"}}
    )
    model = build_masked_lm(config, VOCAB_SIZE, grid, seed=1, compute=compute)
    with pytest.raises(ConfigError, match="flex has no backward pass on the CPU"):
        model.hidden_states(torch.zeros(1, 8, dtype=torch.int64))

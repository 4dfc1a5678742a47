"""Layers that torch.compile takes whole: one graph, the numbers of eager, nothing from the host."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from configs.load import ConfigError, load, validate
from model import layer
from model.compute import ComputeConfig, compiles_layers
from model.config import ModelConfig
from model.heads import MaskedLanguageModel, build_masked_lm
from model.parallel.grid import make_grid
from pipeline.run.config import RunConfig
from tests.gloo import in_one_rank
from tests.pipeline.finetuning.finetune_run import make_finetune_config
from tests.pipeline.training_run import make_config

VOCAB_SIZE, ROWS, TOKENS = 203, 2, 32
SIZES = {"num_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "max_row_tokens": TOKENS}
MODERN = {
    "positions": {"type": "rotary"},
    "norm_placement": {"type": "pre"},
    "first_norm": False,
    "activation": {"type": "geglu"},
    "attention_pattern": {"type": "alternating", "neighbours": 8, "global_every": 3},
    "packed_rows": {"type": "inside"},
    "hidden_dropout": 0.2,
}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "roberta": ({}, {}, 2),
    "sdpa": ({}, {"attention_backend": "sdpa"}, 2),
    "modern": (MODERN, {}, 3),
    "varlen": ({**MODERN, "attention_dropout": 0.0}, {"attention_backend": "varlen"}, 3),
    "grouped queries": ({"num_key_value_heads": 2, "query_key_norm": True}, {}, 2),
    "recomputed": ({}, {"activation_checkpointing": {"type": "layers", "every": 2}}, 2),
    "selective": ({}, {"activation_checkpointing": {"type": "selective"}}, 2),
    "selective modern": (MODERN, {"activation_checkpointing": {"type": "selective"}}, 3),
}
"""(model, compute, number of kinds of layers): a first layer without a norm and the
last one, of which only label slots are read, are of their own."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """The graphs that are compiled in a test, run operator by operator, which takes no compiler."""
    found: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(layer.run_layer, fullgraph=True, dynamic=False, backend=keep)
    monkeypatch.setattr(layer, "_compiled_layer", lambda _: compiled)
    yield found
    torch._dynamo.reset()


def build(model: dict[str, Any], compute: dict[str, Any], **changes: Any) -> MaskedLanguageModel:
    config = ModelConfig.model_validate({**SIZES, **model})
    how = ComputeConfig.model_validate({"compile": "on", **compute, **changes})
    return build_masked_lm(config, VOCAB_SIZE, make_grid(1), seed=0, compute=how).train()


def loss_and_gradients(
    model: MaskedLanguageModel, key: int = 5, rows: int = ROWS
) -> tuple[float, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, 200, (rows, TOKENS), generator=generator)
    tokens[:, 0], tokens[0, 9] = 0, 0  # <s>
    positions = torch.tensor([[1, 2]]).expand(rows, 2)
    model.zero_grad()
    loss, _, _ = model(tokens, positions, torch.full((rows, 2), 8), dropout_key=key)
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@in_one_rank
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_one_graph_with_the_numbers_of_eager(
    kind: str, graphs: list[torch.fx.GraphModule]
) -> None:
    *settings, num_kinds = KINDS[kind]
    model = build(*settings)
    loss, gradients = loss_and_gradients(model)
    assert len(graphs) == num_kinds
    num_graphs = len(graphs)
    other, _ = loss_and_gradients(model, key=6)
    assert other != loss  # other masks from the same graphs
    assert len(graphs) == num_graphs
    with torch.compiler.set_stance("force_eager"):
        expected, expected_gradients = loss_and_gradients(model)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-6)


@in_one_rank
@pytest.mark.parametrize("recomputed", ["none", "selective"])
def test_compiled_code_has_the_numbers_of_eager(recomputed: str) -> None:
    """By torch's own compiler, dropout on: rounding may differ, masks may not."""
    torch._dynamo.reset()
    again = {"activation_checkpointing": {"type": recomputed}}
    model = build({"num_layers": 1}, again)
    loss, gradients = loss_and_gradients(model)
    with torch.compiler.set_stance("force_eager"):
        expected, expected_gradients = loss_and_gradients(model)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=2e-6)


class NothingFromTheHost(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises for an operator that makes the host wait for a device, or draws from a generator."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket._qualified_op_name
        waits = name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
        if waits or torch.Tag.nondeterministic_seeded in func.tags:
            raise AssertionError(f"{name} in a layer")
        return func(*args, **(kwargs or {}))


@in_one_rank
@pytest.mark.parametrize("kind", ["roberta", "modern", "varlen"])
def test_layers_wait_for_nothing_and_draw_from_no_generator(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(*KINDS[kind][:2])
    run = model.encoder._run_all

    def watched(*arguments: Any) -> Tensor:
        with NothingFromTheHost():  # type: ignore[no-untyped-call]
            return run(*arguments)

    monkeypatch.setattr(model.encoder, "_run_all", watched)
    with torch.compiler.set_stance("force_eager"):
        loss, _ = loss_and_gradients(model)
        model.encoder.compiles = False  # numpy's streams: the same rule
        assert loss_and_gradients(model)[0] != loss
    drawing = NothingFromTheHost()  # type: ignore[no-untyped-call]
    with pytest.raises(AssertionError, match="bernoulli_ in a layer"), drawing:
        torch.empty(3).bernoulli_(0.5)


def test_what_can_be_compiled_is_decided_by_device_and_grid() -> None:
    auto, on = ComputeConfig(), ComputeConfig(compile="on")
    assert compiles_layers(auto, "cuda", 1)
    assert not compiles_layers(auto, "cuda", 2)
    assert not compiles_layers(auto, "cpu", 1)
    assert compiles_layers(on, "cpu", 1)


def test_zero_3_compiles_no_layers() -> None:
    tree = {"name": "x", "output": "x", "optimizer": {"type": "adamw", "lr": 1e-3}}
    zero_3 = {"parallel": {"zero_stage": 3}}
    assert validate(tree, RunConfig, "x").model_compute.compile == "auto"
    assert validate({**tree, **zero_3}, RunConfig, "x").model_compute.compile == "off"
    with pytest.raises(ConfigError, match=r"does not go with parallel\.zero_stage 3"):
        validate({**tree, **zero_3, "compute": {"compile": "on"}}, RunConfig, "x")


@in_one_rank
def test_a_compiler_that_fails_is_an_error_that_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    torch._dynamo.reset()
    compiled = torch.compile(layer.run_layer, fullgraph=True, dynamic=False, backend=fails)
    monkeypatch.setattr(layer, "_compiled_layer", lambda _: compiled)
    message = r"torch\.compile failed on a layer: .*no compiler here\n.* compute\.compile=off"
    with pytest.raises(ConfigError, match=message):
        loss_and_gradients(build({}, {}))


@in_one_rank
def test_forms_beyond_the_limit_run_uncompiled_with_the_same_masks(
    graphs: list[torch.fx.GraphModule], caplog: pytest.LogCaptureFixture
) -> None:
    model = build({}, {})
    with torch.compiler.set_stance("force_eager"):
        expected = [loss_and_gradients(model, rows=rows)[0] for rows in (1, 2, 3)]
    layer.warn_of_many_graphs.cache_clear()
    with torch._dynamo.config.patch(recompile_limit=4):  # two forms of a shape
        found = [loss_and_gradients(model, rows=rows)[0] for rows in (1, 2, 3)]
    assert len(graphs) == 4
    assert found == pytest.approx(expected, rel=1e-6)
    assert caplog.text.count("further ones run uncompiled") == 1


@in_one_rank
@pytest.mark.parametrize(
    ("compiled", "recomputed"),
    [
        ("on", {"type": "layers", "every": 2}),
        ("off", {"type": "layers", "every": 2}),
        ("off", {"type": "selective"}),
    ],
    ids=str,
)
def test_layers_computed_again_draw_the_same_masks_from_torchs_generator(
    compiled: str, recomputed: dict[str, Any], graphs: list[torch.fx.GraphModule]
) -> None:
    how = {"attention_backend": "sdpa", "compile": compiled}
    drops = {"attention_dropout": 0.5}
    again = {"activation_checkpointing": recomputed}
    model = build(drops, how)
    loss, gradients = loss_and_gradients(model)
    assert loss_and_gradients(model, key=6)[0] != loss
    model.encoder.compute = ComputeConfig.model_validate({**how, **again})
    other, other_gradients = loss_and_gradients(model)
    assert loss == other
    torch.testing.assert_close(gradients, other_gradients, rtol=0, atol=0)


@pytest.mark.parametrize(("word", "value"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_the_bare_words_of_yaml_are_read(tmp_path: Path, word: str, value: str) -> None:
    """YAML reads on and off as true and false."""
    path = tmp_path / "config.yaml"
    path.write_text(f"compile: {word}\n")
    assert load(path, ComputeConfig).compile == value
    assert load(path, ComputeConfig, [f"compile={word}"]).compile == value


def test_fine_tuning_compiles_only_if_it_is_asked_to(tmp_path: Path) -> None:
    for word, expected in (("auto", "off"), ("on", "on")):
        pretrained = make_config(tmp_path / "rows", tmp_path / "run")
        config = make_finetune_config(pretrained, tmp_path / "tuned", compute={"compile": word})
        assert config.model_compute.compile == expected

"""Kernels and bytes of a compiled layer of RoBERTa base, counted in what torch's compiler made.

Counted on a CPU: the compiler for GPUs merges reductions otherwise, so these are budgets for the
graph, not for a GPU. Traffic is in values of the hidden state of a token, T x H.
"""

from typing import Any

import pytest
import torch
from torch._inductor import config as inductor
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import ExternKernelSchedulerNode

from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from tests.gloo import in_one_rank

ROWS, TOKENS, HIDDEN = 2, 512, 768
SIZES = {
    "num_layers": 1,
    "hidden_size": HIDDEN,
    "num_attention_heads": 12,
    "max_row_tokens": TOKENS,
    "attention_dropout": 0.0,  # on a CPU flash attention has none
}
MODERN = {
    "positions": {"type": "rotary"},
    "norm_placement": {"type": "pre"},
    "activation": {"type": "geglu"},
    "ffn_hidden_size": 1152,
    "hidden_dropout": 0.0,
    "bias": {"attention": False, "mlp": False, "norm": False, "head": False},
}


@in_one_rank
@pytest.mark.parametrize(
    ("model", "fused", "products", "traffic"),
    [({}, 21, 12, 63), (MODERN, 20, 12, 50)],
    ids=["roberta", "modernbert"],
)
def test_a_layer_stays_in_its_budget(
    model: dict[str, Any], fused: int, products: int, traffic: float, monkeypatch: Any
) -> None:
    num_fused, num_products, values = 0, 0, 0.0
    compile_graph = GraphLowering.compile_to_module

    def counted(graph: Any) -> Any:
        nonlocal num_fused, num_products, values
        module = compile_graph(graph)
        for node in graph.scheduler.nodes:
            if not isinstance(node, ExternKernelSchedulerNode):
                num_fused += 1
                values += node.get_read_write_buffers_sizes() / (2 * ROWS * TOKENS * HIDDEN)
            elif "mm" in str(getattr(node.node, "op_overload", "")):
                num_products += 1
        return module

    monkeypatch.setattr(GraphLowering, "compile_to_module", counted)
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    monkeypatch.setattr(torch._functorch.config, "enable_autograd_cache", False)
    torch._dynamo.reset()
    config = ModelConfig.model_validate({**SIZES, **model})
    compute = ComputeConfig(compile="on", attention_backend="sdpa")
    network = build_masked_lm(config, 512, make_grid(1), 0, compute).train().bfloat16()
    tokens = torch.randint(4, 200, (ROWS, TOKENS))
    labels = torch.full((ROWS, 2), 8)
    loss = network(tokens, torch.tensor([[1, 2], [3, 4]]), labels, dropout_key=5)[0]
    loss.backward()
    assert num_products == products
    assert 0 < num_fused <= fused
    assert 0 < values <= traffic

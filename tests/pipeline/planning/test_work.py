"""What the planner counts against the operators of the network itself and the published counts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from configs.load import load
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.heads import MaskedLanguageModel
from model.parallel.grid import make_grid, single_rank_grid
from model.parameters import parameter_specs
from model.row_context import KnownRows
from pipeline.planning.accelerators import find_accelerator
from pipeline.planning.data_parallel import Rank, data_parallel_bytes, gathered_bytes
from pipeline.planning.pretraining import count_tensors, passes_of, trained_of
from pipeline.planning.step_time import Rates, StepTime, micro_batch_work, update_time
from pipeline.planning.work import OTHER_LAUNCHES, NetworkPass, layer_units, work_of
from pipeline.pretraining.engine import build_engine
from pipeline.run.assumed_rows import AssumedRows
from pipeline.run.config import TrainConfig
from pipeline.run.plan import plan_run
from tests.gloo import in_one_rank, run_ranks
from tests.pipeline.planning.operator_bytes import CountedOperators
from tests.pipeline.training_run import SMALL_MODEL, make_config, make_rows

ROOT = Path(__file__).parents[3]
ROWS, TOKENS, SLOTS, VOCAB = 4, 128, 19, 1024
SIZES = {"num_layers": 3, "hidden_size": 256, "num_attention_heads": 4, "max_row_tokens": TOKENS}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
SELECTIVE = {"activation_checkpointing": {"type": "selective"}}
BARE = {"attention": False, "mlp": False, "norm": False, "head": False}

MODERN: dict[str, Any] = {
    "norm_placement": {"type": "pre"},
    "positions": {"type": "rotary"},
    "activation": {"type": "geglu"},
    "ffn_hidden_size": 384,
    "bias": BARE,
    "type_vocab_size": 0,
}


@dataclass(frozen=True)
class How:
    """How a network of these tests is computed."""

    compute: ComputeConfig
    value_bytes: int = 2
    vocab_size: int = VOCAB


@pytest.mark.parametrize(
    ("changes", "compute"),
    [
        ({}, {}),
        ({"norm_placement": {"type": "pre"}, "bias": BARE}, {}),
        ({"activation": {"type": "geglu"}, "ffn_hidden_size": 384, "bias": BARE}, {}),
        ({"positions": {"type": "rotary"}, "type_vocab_size": 0}, {}),
        ({"num_key_value_heads": 2}, {}),
        ({}, {"attention_backend": "explicit"}),
        ({"positions": {"type": "rotary"}}, {"attention_backend": "explicit"}),
        ({"query_key_norm": True}, {}),
        ({}, {"activation_checkpointing": {"type": "layers"}}),
        ({}, SELECTIVE),
        (MODERN, SELECTIVE),
        ({"num_key_value_heads": 2}, SELECTIVE),
        ({}, {"attention_backend": "explicit", **SELECTIVE}),
    ],
    ids=[
        "post",
        "pre",
        "gated",
        "rotary",
        "grouped",
        "explicit",
        "explicit rotary",
        "normed",
        "recomputed",
        "selective",
        "selective modern",
        "selective grouped",
        "selective explicit",
    ],
)
@in_one_rank
def test_counts_are_those_of_the_operators(
    changes: dict[str, Any], compute: dict[str, Any]
) -> None:
    """Without dropout, whose operators on the CPU are others than on CUDA."""
    model = ModelConfig.model_validate({**SIZES, **NO_DROPOUT, **changes})
    how = How(ComputeConfig.model_validate({"attention_backend": "sdpa", **compute}))
    counted = _counted(model, how.compute)
    work = work_of(NetworkPass(model, TOKENS, SLOTS, reads_all=False), how, ROWS, 1)
    assert work.traffic_bytes == pytest.approx(counted.traffic_bytes, rel=0.12)
    flops = work.matrix_flops
    if how.compute.attention_backend == "sdpa":  # is one operator, which is no product to torch
        scores = 4 * TOKENS * TOKENS * model.hidden_size * ROWS * model.num_layers
        again = how.compute.activation_checkpointing.type == "layers"
        flops -= scores * (4 if again else 3)
    assert flops == pytest.approx(counted.matrix_flops, rel=0.01)


def _counted(model: ModelConfig, compute: ComputeConfig) -> CountedOperators:
    with single_rank_grid() as grid:
        network = MaskedLanguageModel(grid, model, compute, VOCAB).to(torch.bfloat16).train()
        tokens = torch.randint(10, VOCAB, (ROWS, TOKENS))
        positions = torch.arange(SLOTS).repeat(ROWS, 1)
        counted = CountedOperators()
        with counted:
            loss = network(tokens, positions, tokens[:, :SLOTS].clone(), None, KnownRows(False))[0]
            loss.backward()
    return counted


def test_varlen_attention_has_the_traffic_of_sdpa_without_copies_of_groups() -> None:
    plain = ModelConfig.model_validate({**SIZES, **NO_DROPOUT})
    grouped = plain.model_copy(update={"num_key_value_heads": 2})
    sdpa, varlen = (ComputeConfig(attention_backend=name) for name in ("sdpa", "varlen"))
    assert layer_units(plain, varlen, TOKENS) == layer_units(plain, sdpa, TOKENS)
    copies = 8 + 3 - 2  # of keys and values, forward and backward, less those of queries
    less = 1 + 2  # half of the keys and values: read forward; read, and their gradients written
    found = [sum(map(sum, layer_units(grouped, how, TOKENS))) for how in (sdpa, varlen)]
    assert found[0] - found[1] == copies + less


def test_base_has_the_counts_that_were_made_for_cuda() -> None:
    """25.5 GB of traffic and 482 kernels of the model in a micro-batch of 32 rows of 512: counted
    with the CUDA operators on fake tensors (docs/planner.md), 27.7 GB less 18 bytes for each of
    2,464 x 50,304 logits, whose cross entropy is compiled now. Its 154 tensors are added to flat
    sums by one kernel each. Then the last layer computed all tokens."""
    plan = plan_run(_shipped("base"), 1, AssumedRows(50_265))
    model = plan.config.model
    (one,) = passes_of(plan.phases[0], model)
    trained = trained_of(plan)
    assert not one.reads_all
    assert work_of(one, trained, 32, 1).traffic_bytes == pytest.approx(24.6e9, rel=0.03)
    one = replace(one, reads_all=True)
    work = work_of(one, trained, 32, 1)
    assert work.traffic_bytes == pytest.approx(25.5e9, rel=0.03)
    assert work.launches == pytest.approx(482, rel=0.01)
    added = micro_batch_work((one,), trained, 32, 1).launches - work.launches
    assert added == pytest.approx(154, rel=0.05)


def test_compiled_parts_are_few_kernels() -> None:
    """As `tests/model/test_compiled_budget.py` counts them, with 12 products and 2 of attention."""
    rotary = {"positions": {"type": "rotary"}, "activation": {"type": "geglu"}}
    for changes, num_kernels in (({}, 20), (rotary, 24)):
        model = ModelConfig.model_validate({**SIZES, **changes})
        one = NetworkPass(model, TOKENS, SLOTS, reads_all=False)

        def launches(compiled: Any, tp_size: int, one: NetworkPass = one) -> float:
            return work_of(one, How(ComputeConfig(compile=compiled)), ROWS, tp_size).launches

        of_layers = launches("on", 2) - OTHER_LAUNCHES
        assert of_layers == model.num_layers * (num_kernels + 14)
        assert launches("on", 2) < launches("auto", 2) == launches("on", 1)


def test_the_mask_rate_decides_about_the_head() -> None:
    def work(rate: float) -> Any:
        plan = plan_run(_shipped("base", f"objective.mask_rate={rate}"), 1, AssumedRows(50_265))
        return micro_batch_work(
            passes_of(plan.phases[0], plan.config.model), trained_of(plan), 32, 1
        )

    low, high = work(0.15), work(0.3)
    slots = 32 * (153 - 77)  # of 510 tokens
    decoder = 3 * 2 * 768 * (50_304 + 768)
    last_layer = 3 * 2 * 768 * (768 + 2 * 3072)
    added = slots * (decoder + last_layer)
    assert high.matrix_flops - low.matrix_flops == pytest.approx(added, rel=0.02)
    assert high.traffic_bytes > low.traffic_bytes


@pytest.mark.parametrize("name", ["base", "modern-base", "3.9b"])
@in_one_rank
def test_tensors_are_those_of_the_model(name: str) -> None:
    model = _shipped(name).model
    sizes = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "ffn_hidden_size": 64}
    small = ModelConfig.model_validate({**model.model_dump(), **sizes})
    with single_rank_grid() as grid:
        network = MaskedLanguageModel(grid, small, ComputeConfig(), 128)
    assert count_tensors(small) == len(parameter_specs(network))


@pytest.mark.parametrize("by_tokens", [False, True], ids=["whole", "by tokens"])
def test_messages_of_tensor_parallel_ranks(by_tokens: bool) -> None:
    run_ranks(_check_tensor_parallel, 2, by_tokens)


def _check_tensor_parallel(by_tokens: bool) -> None:
    model = ModelConfig.model_validate({**SIZES, **NO_DROPOUT})
    how = How(ComputeConfig(attention_backend="sdpa", sequence_parallel=by_tokens))
    grid = make_grid(2)
    network = MaskedLanguageModel(grid, model, how.compute, VOCAB).to(torch.bfloat16).train()
    tokens = torch.full((ROWS, TOKENS), 11)
    positions = torch.arange(SLOTS).repeat(ROWS, 1)
    with CountedOperators() as counted:
        network(tokens, positions, tokens[:, :SLOTS].clone(), None, KnownRows(False))[0].backward()
    work = work_of(NetworkPass(model, TOKENS, SLOTS, reads_all=False), how, ROWS, 2)
    twice = {"allreduce_": 2.0}  # a ring sends a tensor twice, but for the share of a rank
    sent = sum(
        size * twice.get(kind.split()[0], 1.0) / 2
        for kind, size in counted.messages.items()
        if "bfloat16" in kind
    )
    assert work.tp_bytes == pytest.approx(sent, rel=0.05)


@pytest.mark.parametrize(("zero_stage", "hidden_size"), [(1, 32), (1, 256), (2, 32)])
def test_messages_of_data_parallel_ranks(
    zero_stage: int, hidden_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """ZeRO 3 keeps the weights of small models, so that it gathers less than the planner says."""
    folder = tmp_path_factory.mktemp("rows")
    make_rows(folder, rows=64)
    config = make_config(
        folder,
        folder / "run",
        precision="bf16",
        parallel={"zero_stage": zero_stage},
        batch={"global_rows": 16, "micro_rows": 2},
        model={**SMALL_MODEL, "hidden_size": hidden_size},
    )
    run_ranks(_check_data_parallel, 2, config)


def _check_data_parallel(config: TrainConfig) -> None:
    plan = plan_run(config, 2)
    engine = build_engine(plan, make_grid(1), None)
    tokens = torch.full((2, 32), 11)
    positions = torch.arange(5).repeat(2, 1)
    with CountedOperators() as counted:
        engine.start_step(1e-3)
        for number in range(4):
            engine.start_micro_batch(is_last=number == 3)
            loss = engine.model(tokens, positions, tokens[:, :5].clone(), None, KnownRows(False))[0]
            engine.backward(loss)
        part = float(engine.norm_part())
        engine.finish_step([part] * dist.get_world_size())
    scattered = counted.messages["_reduce_scatter_base_ torch.float32"]
    reduced = counted.messages["allreduce_ torch.float32"]
    gathers = ("_allgather_base_", "allgather_into_tensor_coalesced_")
    gathered = sum(counted.messages[f"{kind} torch.bfloat16"] for kind in gathers)
    planned = data_parallel_bytes(trained_of(plan), 4, 1, dist.get_world_size())
    assert planned == pytest.approx((2 * reduced + scattered + gathered) / 2, rel=0.02)


@pytest.mark.parametrize("recomputed", ["none", "selective"])
def test_copies_in_nodes_leave_one_gathering_a_step_to_all(recomputed: str) -> None:
    """`tests/pipeline/engine/test_gathering_ranks.py` counts it in a run."""
    again = f"compute.activation_checkpointing.type={recomputed}"
    overrides = ("parallel.zero_stage=3", "parallel.zero_gather_ranks=8", again)
    plan = plan_run(_shipped("3.9b", *overrides), 64, AssumedRows(50_265))
    near = trained_of(plan)
    passes = 4 * (2 if recomputed == "none" else 3)
    _, all_gathered = gathered_bytes(replace(near, gather_ranks=None), 4, 1, 64)
    of_neighbours, of_all = gathered_bytes(near, 4, 1, 64)
    assert of_all * passes == pytest.approx(all_gathered)
    assert of_neighbours / all_gathered == pytest.approx(
        (passes - 1) / passes * (7 / 8) / (63 / 64)
    )
    rates = Rates(find_accelerator("h100-80gb"))
    in_nodes, over_nodes = (
        update_time(one, 4, Rank(1, 64, 8, 8), rates, StepTime(), StepTime()).data
        for one in (near, replace(near, gather_ranks=None))
    )
    assert in_nodes < over_nodes


def _shipped(name: str, *overrides: str) -> TrainConfig:
    return load(ROOT / "configs" / f"{name}.yaml", TrainConfig, overrides)

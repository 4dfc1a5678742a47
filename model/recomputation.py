"""Selective recomputation (Korthikanti et al. 2022, section 5): what is cheap is computed again.

The results of a layer's linear maps and of attention's kernel are kept; of what tensor-parallel
ranks add up, the sum. From these the backward pass computes the rest again: norms, activation,
dropout, rotations, sums with the residual, and the whole of `explicit` attention between queries,
keys and values and its output. torch's own form of this knows no collectives, which write into
tensors that they are given; it serves where layers are compiled, without tensor-parallel peers.

T tokens of a micro-batch, H hidden; `/tp` sharded over tensor-parallel ranks.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FakeWork
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from model.parallel.grid import Grid

aten: Any = torch.ops.aten
c10d: Any = torch.ops.c10d

LINEAR = {aten.mm.default: 0, aten.addmm.default: 1}
"""Operators of linear maps, and the place of their input among their arguments."""
KEPT = (
    *LINEAR,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.higher_order.flex_attention,  # seen where layers are compiled
)
"""Operators whose results are kept, beside that of `VARLEN`."""
VARLEN = "torch_attn::_varlen_attn"
"""That of `flash_attention` in `model.varlen_attention`; to find it by name loads no compiler."""
GATHER = c10d._allgather_base_.default
COLLECTIVES = {GATHER: 1, c10d._reduce_scatter_base_.default: 1, c10d.allreduce_.default: 0}
"""Those of tensor-parallel layers, and the place of what they read; they write the first."""

Run = Callable[..., Tensor]


def run_selectively(grid: Grid, run: Run, reads_last: bool, draws: bool, *arguments: Any) -> Tensor:
    """`run(*arguments)`, the output [T(/tp), H] of a layer, of which little is kept.

    `reads_last`: whether the backward pass reads the result of the last linear map. `draws`: the
    layer draws from torch's generator.
    """

    def contexts() -> tuple["_Keeping", "_Reusing"]:
        records: list[_Record] = []
        return _Keeping(records, grid, reads_last), _Reusing(records, grid)

    result: Tensor = checkpoint(
        run, *arguments, use_reentrant=False, preserve_rng_state=draws, context_fn=contexts
    )
    return result


def run_traced(run: Run, *arguments: Any) -> Tensor:
    """The same within what torch.compile takes up; it finds out what the backward pass reads."""
    contexts = functools.partial(create_selective_checkpoint_contexts, _is_kept_in_trace)
    result: Tensor = checkpoint(run, *arguments, use_reentrant=False, context_fn=contexts)
    return result


def is_kept(operator: Any) -> bool:
    """Whether the results of `operator` are kept."""
    return operator in KEPT or operator.name() == VARLEN


def _is_kept_in_trace(_context: Any, operator: Any, *_: Any, **_more: Any) -> bool:
    return is_kept(operator)


@dataclass
class _Record:
    """An operator of the forward pass that does not run again."""

    operator: Any
    result: Any
    """Its tensors, or those that a collective wrote; on the meta device where nothing reads their
    values again."""
    address: int

    def forget(self) -> None:
        """Nothing reads the values again."""
        self.result = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), self.result)


class _Layer(TorchDispatchMode):
    """Sees the operators of a layer."""

    def __init__(self, records: list[_Record], grid: Grid) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records = records
        self.peers = None if grid.tp_size == 1 else grid.tp_group.group_name

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Kernels within the layer that are compiled stay so; they run again."""
        return True

    def is_of_peers(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether it is a collective of tensor-parallel ranks; ZeRO 3 has its own."""
        if self.peers is None or func not in COLLECTIVES:
            return False
        return bool(dist.ProcessGroup.unbox(args[COLLECTIVES[func] + 1]).group_name == self.peers)


class _Keeping(_Layer):
    """The forward pass of a layer."""

    def __init__(self, records: list[_Record], grid: Grid, reads_last: bool) -> None:
        super().__init__(records, grid)
        self.reads_last = reads_last

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self.records and not self.reads_last:
            self.records[-1].forget()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_kept(func):
            last = self.records[-1] if self.records else None
            if last is not None and last.operator is GATHER:
                assert last.address == _address(args[LINEAR[func]])
            self._keep(func, result)
        elif self.is_of_peers(func, args):
            if func is not GATHER:  # the sum is kept in the place of the parts
                last = self.records[-1]
                assert last.address == _address(args[COLLECTIVES[func]])
                last.forget()
            self._keep(func, args[0])
            if func is GATHER:  # the input of a linear map, whose result is kept
                self.records[-1].forget()
        return result

    def _keep(self, func: Any, result: Any) -> None:
        # An alias: autograd gives a history to the tensors that are returned.
        kept = tree_map_only(Tensor, Tensor.detach, result)
        self.records.append(_Record(func, kept, _address(result)))


class _Reusing(_Layer):
    """The same pass once more, from what is kept."""

    def __enter__(self) -> "_Reusing":
        self.waiting = iter(self.records)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        is_of_peers = self.is_of_peers(func, args)
        if not (is_kept(func) or is_of_peers):
            return func(*args, **(kwargs or {}))
        record = next(self.waiting)
        assert record.operator is func
        if not is_of_peers:
            return tree_map_only(Tensor, lambda kept: _given(kept, args[0].device), record.result)
        for written, kept in zip(_listed(args[0]), _listed(record.result), strict=True):
            if not kept.is_meta:
                written.copy_(kept)
        # The work of the forward pass would keep what it read.
        return args[0], FakeWork().boxed()


def _given(kept: Tensor, device: torch.device) -> Tensor:
    """What an operator is to return: an alias, or a tensor whose values nothing reads."""
    return torch.empty_like(kept, device=device) if kept.is_meta else kept.detach()


def _listed(tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _address(tensors: Any) -> int:
    """Of the storage of the first of `tensors`."""
    while not isinstance(tensors, Tensor):
        tensors = tensors[0]
    return tensors.untyped_storage().data_ptr()

"""ZeRO 1 with one flat fp32 sum of gradients a parameter group.

A rank adds the gradients of its micro-batches to flat tensors, group by group. During the last
backward pass of a step one reduce-scatter a group (`pipeline.engine.bucket_sums`) leaves each
data-parallel rank the sum of its own partition, on which norm, clipping and the optimizer work::

    backward    rank 0  [ g g g g | g g g g ]      rank 1  [ h h h h | h h h h ]
    reduce      rank 0  [ s s s s |         ]      rank 1  [         | s s s s ]
    step        rank 0  norm, clipping and optimizer of its partition, then an all-gather of weights

Import it with DeepSpeed's MLflow import avoided, see `deepspeed_compat.import_deepspeed`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.utils import is_model_parallel_parameter
from torch import Tensor, nn

from pipeline.engine.bucket_sums import Bucket, BucketSums
from pipeline.engine.weight_gathers import NewWeights, WeightGathers

NORM_VALUES = 1 << 10
"""So many squares are added in fp32, such sums in fp64: of 10^8 squares, added one after another as
CPUs do, fp32 would keep three digits."""


class FlatGradientOptimizer(BF16_Optimizer):  # type: ignore[misc]
    """DeepSpeed's optimizer of ZeRO 1 in bf16, with these differences:

    - It works in every precision. In fp16 it holds the loss scale, by which it multiplies losses
      and divides norm and gradients.
    - Gradients are reduced by a reduce-scatter of the flat sums instead of an all-reduce of a copy:
      half of the bytes, and no second fp32 tensor of all gradients. Groups of few values are
      reduced by an all-reduce, in place too. They start during the backward pass.
    - Norm and clipping read this rank's partition instead of all gradients.
    - A gradient is added to its sum when it is complete and then freed, in one kernel; the
      first of a step is written over the sum of the step before.
    - The norm is the caller's to add up over ranks, with what else they report: in a step the host
      waits once for the device, and starts the update without waiting for it.
    - The new weights are gathered while the next forward pass runs, see `weights`.
    """

    def __init__(self, *arguments: Any, bfloat16_config: Any, **keywords: Any) -> None:
        """As DeepSpeed's own; what it reads of `bfloat16_config` is the same in every precision."""
        adds_at_once = {"enabled": True, "immediate_grad_update": True}
        config = bfloat16_config.model_copy(update=adds_at_once)
        super().__init__(*arguments, bfloat16_config=config, **keywords)
        is_fp16 = self.bf16_groups_flat[0].dtype == torch.float16
        self.loss_scaler = LossScaler(scale=1.0) if is_fp16 else None
        """In fp16 the factor on the losses of a step; DeepSpeed multiplies by it."""

    @property
    def _loss_scale(self) -> float:
        return 1.0 if self.loss_scaler is None else float(self.loss_scaler.cur_scale)

    def zero_grad(self) -> None:
        """DeepSpeed calls it in fp16 and fp32 after an update."""
        self.clear_lp_grads()

    def _setup_for_real_optimizer(self) -> None:
        super()._setup_for_real_optimizer()
        self._sums = BucketSums(
            [
                Bucket(*found)
                for found in zip(
                    self.fp32_groups_gradients_flat,
                    self.fp32_groups_gradient_flat_partition,
                    map(len, self.bf16_groups),
                    self.real_dp_process_group,
                    strict=True,
                )
            ]
        )
        rank = dist.get_rank(self.dp_process_group)
        in_backward_order = [
            NewWeights(flat, partitions[rank], parameters)
            for flat, partitions, parameters in zip(
                *(self.bf16_groups_flat, self.bf16_partitioned_groups, self.bf16_groups),
                strict=True,
            )
        ]
        self.weights = WeightGathers(in_backward_order[::-1], self.dp_process_group)
        """To be asked before the weights are read."""
        self._norm_parts = [
            part
            for number, group in enumerate(self.bf16_groups)
            for part in self._counted_parts(number, group)
        ]

    def _counted_parts(self, number: int, group: list[nn.Parameter]) -> list[Tensor]:
        """The parts of this rank's partition of the gradients that it adds to the norm: all, but of
        parameters that tensor-parallel peers hold alike, which the first of them counts."""
        partition = self.fp32_groups_gradient_flat_partition[number]
        if self.mpu is None or self.mpu.get_tensor_model_parallel_rank() == 0:
            return [partition]
        size = partition.numel()
        first = size * dist.get_rank(group=self.real_dp_process_group[number])
        parts: list[list[int]] = []
        end = -first
        for parameter in group:
            start, end = end, end + parameter.numel()
            held = [max(0, start), min(size, end)]
            if not is_model_parallel_parameter(parameter) or held[0] >= held[1]:
                continue
            if parts and parts[-1][1] == held[0]:
                parts[-1][1] = held[1]
            else:
                parts.append(held)
        return [partition[start:stop] for start, stop in parts]

    @torch.no_grad()
    def add_all_gradients(self) -> None:
        """Has all gradients of a step added to their sums, instead of the first written over them:
        a graph does the same in every micro-batch."""
        flats = self.fp32_groups_actual_gradients_flat
        for flat, has_gradient in zip(flats, self.fp32_groups_has_gradients, strict=True):
            flat.fill_(-0.0)  # x + -0 has the bits of x, -0 + 0 has not those of -0
            has_gradient[:] = [True] * len(has_gradient)

    @torch.no_grad()
    def _update_hp_grad(
        self, lp: nn.Parameter, group_idx: int, param_idx: int, clear_lp_grads: bool
    ) -> None:
        """Adds the gradient of a micro-batch to its sum; DeepSpeed's hooks call it."""
        if lp.grad is None:
            return
        total = self.fp32_groups_gradients[group_idx][param_idx].view_as(lp)
        has_gradient = self.fp32_groups_has_gradients[group_idx]
        if has_gradient[param_idx]:
            total.add_(lp.grad)
        else:
            total.copy_(lp.grad)
        has_gradient[param_idx] = True
        self._sums.gradient_added(group_idx, param_idx)

    def start_last_micro_batch(self) -> None:
        """Call before the last backward pass of a step, during which reductions start."""
        self._sums.start_last_pass()

    @torch.no_grad()
    def reduce_gradients(self, pipeline_parallel: bool = False) -> None:
        """Leaves in this rank's partitions the mean of the gradients over data-parallel ranks."""
        groups = zip(self.fp32_groups_gradients, self.fp32_groups_has_gradients, strict=True)
        for sums, flags in groups:
            for total, has_gradient in zip(sums, flags, strict=True):
                if not has_gradient:  # else it holds that of an earlier step
                    total.zero_()
        self._sums.finish()

    @torch.no_grad()
    def square_of_partitions(self) -> Tensor:
        """What this rank adds to the square of the norm: a scalar, fp64, on its device."""
        total = torch.zeros(
            (), dtype=torch.float64, device=self.fp32_groups_gradients_flat[0].device
        )
        for part in self._norm_parts:
            total += _sum_of_squares(part)
        return total

    def take_norm(self, squares: Sequence[float]) -> float:
        """The norm of the gradient that `step` works on, from the `squares` of all ranks.

        They are added without rounding in between, so that all get the same bits.
        """
        square = math.fsum(squares)
        norm = math.sqrt(square) / self._loss_scale if math.isfinite(square) else math.inf
        self._global_grad_norm = norm
        return self._global_grad_norm

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Updates and gathers the weights; where the norm is not finite it changes nothing."""
        self.overflow = not math.isfinite(self._global_grad_norm)
        if not self.overflow:
            self._update(self._global_grad_norm)
        self.clear_hp_grads()

    def _update(self, norm: float) -> None:
        scale = min(1.0, self.clip_grad / (norm + 1e-6)) if self.clip_grad > 0 else 1.0
        scale /= self._loss_scale
        partitions = zip(
            self.fp32_groups_flat_partition, self.fp32_groups_gradient_flat_partition, strict=True
        )
        for weights, gradients in partitions:
            if scale != 1:
                gradients.mul_(scale)
            weights.grad = gradients
        self.optimizer.step()
        self._lazy_init_hp_params_optimizer_state()
        self.update_lp_params()

    @torch.no_grad()
    def update_lp_params(self) -> None:
        """Starts to gather the new weights of all groups."""
        rank = dist.get_rank(self.dp_process_group)
        updated = zip(self.bf16_partitioned_groups, self.fp32_groups_flat_partition, strict=True)
        for partitions, master in updated:
            partitions[rank].copy_(master)
        self.weights.start()

    def clear_hp_grads(self) -> None:
        """Has the next gradient of each parameter written over its sum."""
        for group in self.fp32_groups_has_gradients:
            group[:] = [False] * len(group)

    def clear_lp_grads(self, set_to_none: bool = True) -> None:
        """Frees the gradients of parameters without a hook; the others are freed already."""
        super().clear_lp_grads(set_to_none=True)


def _sum_of_squares(values: Tensor) -> Tensor:
    """A scalar, fp64, of a flat fp32 tensor."""
    num_whole = len(values) // NORM_VALUES * NORM_VALUES
    rows = torch.linalg.vector_norm(values[:num_whole].view(-1, NORM_VALUES), dim=1)
    rest = torch.linalg.vector_norm(values[num_whole:])
    total: Tensor = rows.double().square().sum() + rest.double().square()
    return total

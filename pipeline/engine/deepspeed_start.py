"""DeepSpeed's engine, started with settings that are computed from a run's config.

Facts about this DeepSpeed (0.19.8) that they rest on, each found by running it:
- ZeRO 0 in bf16 takes an optimizer step at construction and reports a wrong norm: always >= 1.
- Gradients are summed in bf16 over accumulation unless ``data_types.grad_accum_dtype`` says fp32.
- A static loss scale may be changed between steps, so the rule for changing it is this project's.
- Its timer of throughput has the host wait for the device before and after every micro-batch.
"""

from typing import Any

import torch
from torch import nn

from model.heads import MaskedLanguageModel
from model.parallel.grid import Grid
from pipeline.engine import deepspeed_compat
from pipeline.optim.buckets import split_into_buckets
from pipeline.optim.lr_shares import split_by_lr_share
from pipeline.run.config import RunConfig
from pipeline.run.memory import BUCKET_VALUES, values_per_bucket


def deepspeed_config(config: RunConfig, max_accumulation: int, num_values: int) -> dict[str, Any]:
    """DeepSpeed's dictionary, computed from this project's config; no other file is read.

    `num_values` are those of this rank's trained parameters: ZeRO 2 and 3 allocate their whole
    bucket for gradients, 1 GB by default, also where all gradients together are smaller.

    Its batch sizes only say that gradients are accumulated: `Engine.start_micro_batch` sets
    which micro-batch is the last of a step, and `take_step` divides the loss itself.
    """
    offload = {}
    if config.parallel.offload_optimizer:
        pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        offload = {"offload_optimizer": pinned}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": max_accumulation,
        "gradient_clipping": config.gradient_clipping,
        "bf16": {
            "enabled": config.precision == "bf16",
            "check_grad_overflow": True,
        },
        "fp16": {"enabled": config.precision == "fp16", "loss_scale": config.loss_scale.initial},
        "data_types": {"grad_accum_dtype": "fp32"},
        # DeepSpeed's default is the number format of the weights, in which sums over many ranks
        # lose their precision.
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": config.parallel.zero_stage,
            "reduce_bucket_size": min(num_values, BUCKET_VALUES),
            "zero_hpz_partition_size": config.parallel.zero_gather_ranks or 1,
            **offload,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 62,
        "timers": {"throughput": {"enabled": False}},
    }


def initialize(
    model: MaskedLanguageModel,
    config: RunConfig,
    max_accumulation: int,
    grid: Grid,
    trained: list[tuple[str, nn.Parameter]],
) -> tuple[Any, Any]:
    """(DeepSpeed's engine on `model`, with the optimizer of `config` on the trained parameters; the
    process group of `parallel.zero_gather_ranks`)."""
    deepspeed = deepspeed_compat.import_deepspeed()
    parameters = [parameter for _, parameter in trained]
    num_values = sum(parameter.numel() for parameter in parameters)
    optimizer = config.optimizer.build(parameters, grid.device)
    for number, group in enumerate(optimizer.param_groups):
        group["number"] = number  # among the optimizer's own, which are split
    split_by_lr_share(optimizer)
    bucket_values = values_per_bucket(config.has_flat_gradients, grid.dp_size)
    in_order = [parameter for parameter in model.parameters_in_order() if parameter.requires_grad]
    split_into_buckets(optimizer, in_order, bucket_values)
    deepspeed_compat.skip_shared_memory_extension()  # not every caller has started from a launcher
    with (
        deepspeed_compat.without_start_messages(),
        deepspeed_compat.flat_gradients(),
        deepspeed_compat.gathering_ranks(grid, config.parallel.zero_gather_ranks) as group,
    ):
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(config, max_accumulation, num_values),
            mpu=grid,
            dist_init_required=False,
        )
    return engine, group

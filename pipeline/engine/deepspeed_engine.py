"""The one door to DeepSpeed: launch, engine, one optimizer step, and the state that is saved.

Facts about this DeepSpeed (0.19.8) that the code here rests on, each found by running it:
- ZeRO 0 in bf16 takes an optimizer step at construction and reports a wrong norm: always >= 1.
- Gradients are summed in bf16 over accumulation unless ``data_types.grad_accum_dtype`` says fp32.
- It refuses fp16 on CPUs without instructions for it, though torch computes it there (slowly).
- A static loss scale may be changed between steps, so that the rule of changing it is ours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from configs.load import UserError
from model.heads import MaskedLanguageModel, build_masked_lm
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, parameter_specs, unpad_local
from model.replicas import differing_replicas
from pipeline.checkpoint.manifest import Checkpoint, CheckpointManifest, tensor_key
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.data.heldout import HeldoutRows, HeldoutScore, rank_shares
from pipeline.data.loader import StepBatch, read_vocabulary
from pipeline.engine.deepspeed_compat import (
    _allow_fp16_on_cpu,
    _choose_accelerator,
    _without_chatter,
)
from pipeline.engine.stragglers import Stopwatch
from pipeline.engine.zero_state import ZeroState
from pipeline.optim.loss_scale import LossScale
from pipeline.run.config import RunConfig
from pipeline.run.memory import BUCKET_VALUES
from pipeline.run.plan import RunPlan


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step gave, equal on all ranks."""

    loss: float
    """Mean over the masked tokens of the whole global batch, nats."""
    accuracy: float
    """Share of the masked tokens whose most likely prediction is right."""
    masked_tokens: int
    """Masked tokens of the global batch."""
    gradient_norm: float
    """Norm of the whole gradient before clipping; not finite when the step was skipped."""
    skipped: bool
    """True when a gradient was not finite, and no weight was changed."""
    overflowed: bool
    """True when it was skipped because of the fp16 loss scale, which is lower now."""
    loss_scale: float | None
    """The factor on the loss in this step, None outside of fp16."""

    def metrics(self) -> dict[str, float]:
        """The values under the names that they are recorded with."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "masked_tokens": self.masked_tokens,
            "gradient_norm": self.gradient_norm,
            "skipped": float(self.skipped),
        } | ({} if self.loss_scale is None else {"loss_scale": self.loss_scale})


def deepspeed_config(config: RunConfig, max_accumulation: int, num_values: int) -> dict[str, Any]:
    """DeepSpeed's dictionary, computed from ours; nothing of it is read from any other file.

    `num_values` are those of this rank's trained parameters: ZeRO 2 and 3 allocate their whole
    bucket for gradients, 1 GB by default, also where all gradients together are smaller.

    Its batch sizes only say that gradients are accumulated: `Engine.step` tells DeepSpeed which
    micro-batch is the last of a step, and divides the loss itself.
    """
    offload = {}
    if config.parallel.offload_optimizer:
        pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        offload = {"offload_optimizer": pinned}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": max_accumulation,
        "gradient_clipping": config.gradient_clipping,
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": True},
        "fp16": {"enabled": config.precision == "fp16", "loss_scale": config.loss_scale.initial},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": config.parallel.zero_stage,
            "reduce_bucket_size": min(num_values, BUCKET_VALUES),
            **offload,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 62,
    }


def build_engine(plan: RunPlan, grid: Grid, checkpoint: Checkpoint | None) -> "Engine":
    """The model of the run under DeepSpeed, at its start or as `checkpoint` left it."""
    config = plan.config
    model_config, vocabulary = config.model, None
    if checkpoint is not None:
        model_config = model_config.for_loaded_weights()
    elif model_config.embedding_start.type != "random":
        vocabulary = read_vocabulary(plan.phases[0])
    model = build_masked_lm(
        model_config, plan.vocab_size, grid, config.seed, config.compute, vocabulary
    )
    if model.word_vectors is not None and grid.rank == 0:
        print(f"word vectors: {model.word_vectors}", flush=True)
    if checkpoint is None:
        return Engine(model, config, plan.max_accumulation, grid)
    check_checkpoint(checkpoint.manifest, parameter_specs(model), plan.tokenizer_sha256)
    reader = TensorReader(checkpoint)
    load_weights(model, reader, grid)
    engine = Engine(model, config, plan.max_accumulation, grid)
    engine.restore(reader, checkpoint.manifest)
    return engine


class Engine:
    """A model under DeepSpeed ZeRO: takes optimizer steps, and gives and takes its whole state.

    Every method is a collective over all ranks.
    """

    def __init__(
        self, model: nn.Module, config: RunConfig, max_accumulation: int, grid: Grid
    ) -> None:
        """`max_accumulation`: the most micro-batches that a rank will take in one step."""
        import deepspeed

        _choose_accelerator(grid.device)
        if grid.device.type == "cuda":
            torch.use_deterministic_algorithms(config.compute.deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._grid = grid
        self._named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.specs: dict[str, ParameterSpec] = parameter_specs(model)
        # Kept as they are, in fp32: DeepSpeed has no master weights of what it does not train.
        self._frozen = {
            name: unpad_local(self.specs[name], p.detach(), grid.tp_rank, grid.tp_size)
            .to("cpu", copy=True)
            .contiguous()
            for name, p in model.named_parameters()
            if not p.requires_grad
        }
        num_values = sum(p.numel() for _, p in self._named)
        is_fp16 = config.precision == "fp16"
        if is_fp16:
            _allow_fp16_on_cpu()
        with _without_chatter():
            self._engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=config.optimizer.build([p for _, p in self._named], grid.device),
                config=deepspeed_config(config, max_accumulation, num_values),
                mpu=grid,
                dist_init_required=False,
            )
        self._zero = self._engine.optimizer
        self._state = ZeroState(self._zero, self._named, self.specs, grid)
        self.forward_s = 0.0
        """Seconds that this rank took for the forward passes of the last step."""
        self._loss_scale_config = config.loss_scale
        self.loss_scale = LossScale(scale=config.loss_scale.initial) if is_fp16 else None

    @property
    def module(self) -> nn.Module:
        """The model itself."""
        return self._engine.module

    def step(self, batch: StepBatch, learning_rate: float) -> StepResult:
        """Takes one optimizer step; the loss is divided once, by the masked tokens of all ranks."""
        masked = self._sum((batch.labels >= 0).sum())
        if masked == 0:
            raise UserError("a global batch without a masked token: raise objective.mask_rate")
        scale = self._grid.dp_size / masked
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._grid.device)
        correct = torch.zeros_like(loss_sum)
        assert isinstance(self.module, MaskedLanguageModel)
        pad_token_id = self.module.config.pad_token_id

        def loss_of(micro: int) -> Tensor:
            nonlocal loss_sum, correct
            tokens, positions, labels = (
                tensor[micro].to(self._grid.device, non_blocking=True).long()
                for tensor in (batch.tokens, batch.positions, batch.labels)
            )
            key = batch.dropout_keys[micro]
            is_padded = bool((batch.tokens[micro].numpy() == pad_token_id).any())
            loss, _, right = self._engine(tokens, positions, labels, key, is_padded)
            loss_sum += loss.detach()
            correct += right
            return loss * scale

        scale_before = self.loss_scale
        gradient_norm, skipped = self.take_step(len(batch.dropout_keys), loss_of, learning_rate)
        loss = self._sum(loss_sum) / masked
        return StepResult(
            loss=loss,
            accuracy=self._sum(correct) / masked,
            masked_tokens=int(masked),
            gradient_norm=gradient_norm,
            skipped=skipped,
            overflowed=skipped and self.loss_scale != scale_before and math.isfinite(loss),
            loss_scale=None if scale_before is None else scale_before.scale,
        )

    def take_step(
        self, num_micro_batches: int, loss_of: Callable[[int], Tensor], learning_rate: float
    ) -> tuple[float, bool]:
        """(gradient norm, whether the step was skipped) of one optimizer step.

        `loss_of(m)` computes micro-batch m of this rank. Their sum is averaged over data-parallel
        ranks by DeepSpeed, so whoever wants a sum over ranks multiplies by their number.
        """
        self._engine.train()
        for group in self._zero.param_groups:
            group["lr"] = learning_rate
        if self.loss_scale is not None:
            self._zero.loss_scaler.cur_scale = self.loss_scale.scale
        skipped_before = self._engine.skipped_steps
        clock = Stopwatch(self._grid.device)
        for micro in range(num_micro_batches):
            self._engine.set_gradient_accumulation_boundary(micro == num_micro_batches - 1)
            with clock:
                loss = loss_of(micro)
            self._engine.backward(loss, scale_wrt_gas=False)
            self._engine.step()
        norm = float(self._engine.get_global_grad_norm() or 0.0)
        self.forward_s = clock.seconds()
        skipped = self._engine.skipped_steps > skipped_before
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after(skipped, self._loss_scale_config)
        return norm, skipped

    def evaluate(self, heldout: HeldoutRows, micro_rows: int) -> dict[str, HeldoutScore]:
        """The held-out score of every source, the same on all ranks; training is not disturbed."""
        return self.heldout_scores(heldout, micro_rows, lambda inputs: self._engine(*inputs, None))

    def heldout_scores(
        self,
        heldout: HeldoutRows,
        micro_rows: int,
        forward: Callable[[list[Tensor]], Sequence[Tensor]],
    ) -> dict[str, HeldoutScore]:
        """The score of every source, the same on all ranks.

        `forward` gives (loss sum, masked tokens, right ones) of int64 [tokens [B, S], positions
        [B, K], labels [B, K]].
        """
        self._engine.eval()
        result = {}
        with torch.no_grad():
            for name, rows in heldout.sources.items():
                sums = torch.zeros(3, dtype=torch.float64, device=self._grid.device)
                for part, counts in rank_shares(
                    len(rows.tokens), micro_rows, self._grid.dp_rank, self._grid.dp_size
                ):
                    arrays = (rows.tokens[part], rows.positions[part], rows.labels[part])
                    inputs = [torch.from_numpy(a).to(self._grid.device).long() for a in arrays]
                    outputs = forward(inputs)
                    if counts:
                        sums += torch.stack([value.detach().double() for value in outputs])
                result[name] = HeldoutScore(*(self._sum(value) for value in sums))
        return result

    def any_rank(self, flag: bool) -> bool:
        """True on every rank when `flag` is True on one."""
        return self._sum(torch.tensor(float(flag))) > 0

    def _sum(self, value: Tensor) -> float:
        """The sum of a scalar over data-parallel ranks; tensor-parallel peers hold the same one."""
        total = value.detach().to(self._grid.device, torch.float64).reshape(1).clone()
        dist.all_reduce(total)
        return float(total) / self._grid.tp_size

    def optimizer_steps(self) -> int:
        """Optimizer steps taken so far, as Adam counts them for its bias correction."""
        return self._state.optimizer_steps()

    def snapshot(self) -> dict[str, Tensor]:
        """All that is trained or frozen of this tensor-parallel rank, copied to host memory.

        Keys are `tensor_key(state key, parameter)`; only data-parallel rank 0 keeps them, the other
        ranks help to gather and get an empty dictionary.
        """
        tensors = self._state.snapshot()
        if self._grid.dp_rank == 0:
            tensors |= {tensor_key("weight", name): t for name, t in self._frozen.items()}
        return tensors

    def restore(self, reader: TensorReader, manifest: CheckpointManifest) -> None:
        """Sets master weights, moments, Adam's step count and the loss scale of a checkpoint.

        The model must have been built with the checkpoint's weights, so that the low-precision
        copies agree with the masters already.
        """
        self._state.restore(reader, manifest.optimizer_step)
        if manifest.loss_scale is not None:
            self.loss_scale = manifest.loss_scale

    def check_replicas(self) -> None:
        """Raises RuntimeError if tensor-parallel ranks differ in what they should hold alike."""
        names = differing_replicas(self.module, self._grid)
        if names:
            raise RuntimeError(
                f"tensor-parallel ranks hold different values of {', '.join(names)}: a faulty "
                "device or a missing all-reduce; see python -m pipeline.selfcheck"
            )

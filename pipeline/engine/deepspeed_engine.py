"""A model under DeepSpeed ZeRO: its forward and backward passes, and the state that is saved."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.arriving_weights import PresentWeights, Weights
from model.config import ModelConfig
from model.grid_check import check_number_format
from model.heads import MaskedLanguageModel
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, parameter_specs, unpad_local
from model.replicas import differing_replicas
from pipeline.checkpoint.fragments import Fragment
from pipeline.checkpoint.manifest import Checkpoint, CheckpointManifest
from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
from pipeline.engine import deepspeed_compat
from pipeline.engine.cuda_graphs import Graphs
from pipeline.engine.deepspeed_start import initialize
from pipeline.engine.graphed_passes import GraphedPasses
from pipeline.engine.zero_state import ZeroState
from pipeline.optim.loss_scale import LossScale
from pipeline.optim.optimizer import WEIGHT_KEY, OptimizerSettings
from pipeline.run.config import RunConfig
from pipeline.run.phases import UpdateConfig


def resume_engine(
    model: MaskedLanguageModel,
    config: RunConfig,
    max_accumulation: int,
    grid: Grid,
    checkpoint: Checkpoint,
    tokenizer_sha256: str,
    optimizers: Sequence[OptimizerSettings] = (),
) -> "Engine":
    """The engine in the state of `checkpoint`, which any grid may have written.

    Raises UserError if the checkpoint is of a different model or tokenizer.
    """
    check_checkpoint(checkpoint.manifest, parameter_specs(model), tokenizer_sha256)
    reader = TensorReader(checkpoint)
    load_weights(model, reader, grid)
    engine = Engine(model, config, max_accumulation, grid, optimizers)
    engine.restore(reader, checkpoint.manifest)
    return engine


class Engine:
    """A model under DeepSpeed ZeRO: what `take_step` calls, and its whole state.

    Every method but `start_step` and `start_micro_batch` is a collective over all ranks.
    """

    def __init__(
        self,
        model: MaskedLanguageModel,
        config: RunConfig,
        max_accumulation: int,
        grid: Grid,
        optimizers: Sequence[OptimizerSettings] = (),
    ) -> None:
        """`max_accumulation`: the most micro-batches that a rank will take in one step.

        `optimizers`: the settings that `enter_phase` may switch to. Raises ConfigError if the
        device has no attention kernels for the precision.
        """
        is_fp32, backend = config.precision == "fp32", config.compute.attention_backend
        check_number_format(backend, is_fp32, grid.device.type)
        deepspeed_compat.use_accelerator_of(grid.device)
        if config.precision == "fp16":
            deepspeed_compat.allow_fp16_on_cpu()
        if grid.device.type == "cuda":
            torch.use_deterministic_algorithms(config.compute.deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.grid = model.grid
        self._module = model
        self.specs: dict[str, ParameterSpec] = parameter_specs(model)
        self._frozen = _frozen_weights(model, self.specs, grid)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        parameters = [parameter for _, parameter in trained]
        # Before ZeRO 3 leaves the parameters empty, whose shapes decide about weight decay.
        self._group_settings = {
            settings: settings.group_settings(parameters, grid.device) for settings in optimizers
        }
        self._deepspeed, self._gather_group = initialize(
            model, config, max_accumulation, grid, trained
        )
        self._zero = self._deepspeed.optimizer
        self._flat = deepspeed_compat.as_flat_gradients(self._zero)
        self._weights: Weights = PresentWeights() if self._flat is None else self._flat.weights
        model.take_weights_from(self._weights)
        self._state = ZeroState(self._zero, config.optimizer, trained, self.specs, grid)
        self._loss_scale_config = config.loss_scale
        self.loss_scale = (
            LossScale(scale=config.loss_scale.initial) if config.precision == "fp16" else None
        )
        """The factor on the next step's loss, None except in fp16."""
        self._skipped_before = 0
        self._is_last = False
        parallel = config.parallel
        self._reduces_once = parallel.zero_stage == 3 and parallel.reduce_gradients == "step"
        if self._reduces_once:
            for parameter in parameters:
                parameter.grad_dtype = torch.float32  # micro-batches are added in it
        self.graphs: GraphedPasses | None = None
        """How micro-batches run after `use_graphs`."""

    def use_graphs(self, graphs: Graphs) -> None:
        """Has `take_step` run micro-batches in `graphs`; needs flat sums of gradients."""
        self.graphs = GraphedPasses(self._module, self.grid.device, graphs)

    @property
    def model_config(self) -> ModelConfig:
        """The config of the model in this phase."""
        return self._module.config

    @property
    def module(self) -> MaskedLanguageModel:
        """The model itself, whose weights may be read until the next step."""
        self._wait_for_weights()
        return self._module

    @property
    def model(self) -> Any:
        """The model as DeepSpeed runs it: call it for a forward pass."""
        self._wait_for_weights()
        return self._deepspeed

    @property
    def model_in_step(self) -> Any:
        """The same for a forward pass of a step, which may start while weights are gathered: before
        each of its parts the model waits for those of the part."""
        return self._deepspeed

    def _wait_for_weights(self) -> None:
        self._weights.ready(self._module)

    def enter_phase(self, model: ModelConfig, update: UpdateConfig) -> None:
        """Switches to the settings of a phase; call it on all ranks between two steps.

        Weights, moments and the optimizer's step count stay as they are.
        """
        self._module.enter_phase(model)
        settings = self._group_settings[update.optimizer]
        for group in self._zero.param_groups:
            group.update(settings[group["number"]])
        self._zero.clip_grad = update.gradient_clipping
        if self.graphs is not None:
            self.graphs.forget()

    def start_step(self, learning_rate: float) -> None:
        """Prepares for the micro-batches of one optimizer step.

        An optimizer may give a group of parameters a share of the learning rate (`lr_share`).
        """
        self._deepspeed.train()
        for group in self._zero.param_groups:
            group["lr"] = learning_rate * group.get("lr_share", 1.0)
        if self.loss_scale is not None:
            self._zero.loss_scaler.cur_scale = self.loss_scale.scale
        self._skipped_before = self._deepspeed.skipped_steps
        if self.graphs is not None:
            self._wait_for_weights()  # a graph does not
            self._zero.add_all_gradients()

    def start_micro_batch(self, is_last: bool) -> None:
        """Call before each forward pass with whether it is the last of a step."""
        self._is_last = is_last
        self._deepspeed.set_gradient_accumulation_boundary(is_last)
        # A graph is the same in every micro-batch: reductions start after the last.
        if is_last and self._flat is not None and self.graphs is None:
            self._flat.start_last_micro_batch()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss`; those of the last micro-batch are also reduced.

        DeepSpeed averages gradients over data-parallel ranks: for a sum over them, `loss` is
        multiplied by their number.
        """
        self._wait_for_weights()  # also for those that the forward pass did not need
        if self._reduces_once:
            deepspeed_compat.backward_reduced_once(self._deepspeed, loss, self._is_last)
            return
        self._deepspeed.backward(loss, scale_wrt_gas=False)
        if not self._is_last:
            self._deepspeed.step()  # which counts micro-batches

    def finish_graph(self) -> None:
        """In place of `backward`, after `graphs` have added the gradients of a micro-batch."""
        self._deepspeed.allreduce_gradients()
        if not self._is_last:
            self._deepspeed.step()

    def norm_part(self) -> Tensor:
        """A value of this rank, fp64 on its device, from which `finish_step` computes the norm.

        Call it after the last micro-batch. Optimizers of DeepSpeed's own add up the norm over ranks
        as they update the weights, which they do here.
        """
        if self._flat is not None:
            return self._flat.square_of_partitions()
        self._deepspeed.step()
        norm: Tensor | float | None = self._deepspeed.get_global_grad_norm()
        return torch.as_tensor(0.0 if norm is None else norm, dtype=torch.float64)

    def finish_step(self, norm_parts: Sequence[float]) -> tuple[float, bool]:
        """(norm of the whole gradient before clipping, whether the step was skipped because it is
        not finite); starts the update of the weights, adapts the loss scale.

        `norm_parts` are those of all ranks, by rank.
        """
        norm = norm_parts[self.grid.rank]
        if self._flat is not None:
            norm = self._flat.take_norm(norm_parts)
            self._deepspeed.step()
        skipped: bool = self._deepspeed.skipped_steps > self._skipped_before
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after(skipped, self._loss_scale_config)
        return norm, skipped

    def start_evaluation(self) -> None:
        """Turns dropout off until the next step."""
        self._deepspeed.eval()

    def optimizer_steps(self) -> int:
        """Optimizer steps taken so far, as Adam counts them for its bias correction."""
        return self._state.optimizer_steps()

    def snapshot(self, check_replicas: bool = True) -> dict[str, Fragment]:
        """What this rank saves of every parameter, trained or frozen, copied to host memory.

        Frozen parameters are divided over data-parallel ranks. With `check_replicas`, raises
        RuntimeError if tensor-parallel ranks differ in what they should hold alike.
        """
        if check_replicas:
            self.check_replicas()
        fragments = self._state.snapshot()
        frozen = list(self._frozen.items())[self.grid.dp_rank :: self.grid.dp_size]
        fragments |= {
            name: Fragment(0, {WEIGHT_KEY: weight})
            for name, weight in frozen
            if weight.numel()  # else it is vocabulary padding alone
        }
        return fragments

    def restore(self, reader: TensorReader, manifest: CheckpointManifest) -> None:
        """Sets master weights, moments, Adam's step count and the loss scale of a checkpoint.

        The checkpoint may be of any precision: only fp16 has a loss scale, which starts at its
        first value where the checkpoint has none. The model must have been built with the
        checkpoint's weights, so that the low-precision copies agree with the master weights.
        """
        self._state.restore(reader, manifest)
        if self.loss_scale is not None and manifest.loss_scale is not None:
            self.loss_scale = manifest.loss_scale

    def close(self) -> None:
        """Releases the model, its state and DeepSpeed's process groups; the last call.

        Without it they stay until the process ends: DeepSpeed's hooks on the parameters keep them.
        """
        self._wait_for_weights()
        self.graphs = None
        self._deepspeed.destroy()
        if self._gather_group is not None:
            dist.destroy_process_group(self._gather_group)

    def check_replicas(self) -> None:
        """Raises RuntimeError if tensor-parallel ranks differ in what they should hold alike."""
        names = differing_replicas(self.module, self.grid)
        if names:
            raise RuntimeError(
                f"tensor-parallel ranks hold different values of {', '.join(names)}: a faulty "
                "device or a missing all-reduce; see python -m pipeline.selfcheck"
            )


def _frozen_weights(
    model: nn.Module, specs: dict[str, ParameterSpec], grid: Grid
) -> dict[str, Tensor]:
    """The fp32 weights that are not trained, of which DeepSpeed keeps no master copy."""
    return {
        name: unpad_local(specs[name], p.detach(), *grid.tp_shard).to("cpu", copy=True).contiguous()
        for name, p in model.named_parameters()
        if not p.requires_grad
    }

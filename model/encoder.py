"""The encoder: embedding and transformer layers, from tokens to hidden states.

B rows, S tokens in a row, T = B x S, H hidden. Under sequence parallelism hidden states are
[T/tp, H] between blocks, whole again at the end.
"""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.load import ConfigError
from model.arriving_weights import PresentWeights, Weights
from model.attention import SelfAttention
from model.attention_masks import choose_backend
from model.compiling import MAX_GRAPHS, allow_many_graphs, failed_to_compile
from model.compute import ComputeConfig, compiles_layers, compiles_parts
from model.config import ModelConfig
from model.dropout import CounterDropout, DropoutKey, Site, layer_seeds, mask_seed, seeded
from model.embeddings import Embeddings
from model.grid_check import check_row_tokens
from model.label_slots import Slots, find_slots
from model.layer_parts import MaskTensors, add, add_and_norm, compiled, norm_of_sum
from model.layers import Norm, RowLinear, gather_rows
from model.mlp import Mlp
from model.parallel.grid import Grid
from model.recomputation import run_selectively, run_traced
from model.row_context import (
    KnownRows,
    LayerContext,
    RowContext,
    make_row_context,
    seeded_heads,
)

logger = logging.getLogger(__name__)


class Encoder(nn.Module):
    """Tokens [B, S] -> hidden states [T, H]."""

    def __init__(
        self, grid: Grid, config: ModelConfig, compute: ComputeConfig, vocab_size: int
    ) -> None:
        super().__init__()
        self.grid, self.config, self.compute = grid, config, compute
        self.weights: Weights = PresentWeights()
        """Asked for those of each part before it runs."""
        self.embeddings = Embeddings(
            grid, config, vocab_size, compute.padded_vocab_size(vocab_size)
        )
        self.group_of = [config.layer_group(n) for n in range(config.num_layers)]
        self.compiles = compiles_layers(compute, grid.device.type, grid.tp_size)
        self.compiles_parts = compiles_parts(compute, grid.tp_size)
        self.layers = nn.ModuleList(
            Layer(grid, config, config.first_norm or number > 0, self.compiles_parts)
            for number in range(max(self.group_of) + 1)
        )
        is_pre = config.norm_placement.type == "pre"
        self.norm = Norm(grid, config) if is_pre else None

    def follow(self, config: ModelConfig) -> None:
        """Takes over the settings of a phase."""
        self.config = config

    def forward(
        self,
        tokens: Tensor,
        dropout_key: DropoutKey | None = None,
        segments: Tensor | None = None,
        unmasked: Tensor | None = None,
        known: KnownRows | None = None,
        is_causal: bool = False,
        perturbation: Tensor | None = None,
        read: Tensor | None = None,
    ) -> Tensor:
        """[T, H] of `tokens` [B, S]; `segments` [B, S] are segment ids, all 0 if None.

        `read` [B, K]: only the tokens at these positions are read, for [N, H]. After its attention
        the last layer computes no others.

        `unmasked` [B, S] are the tokens before masking, if <s> could be masked: the documents
        of a row are found by their <s>.
        With the tensor of `dropout_seeds` for `dropout_key`, the caller seeds torch's generator.
        `known` and `is_causal` are explained in `make_row_context`; `perturbation` [T(/tp), E]
        is added to the word vectors.
        """
        check_row_tokens(self.config, tokens.shape[1])
        _, token_shards = self.grid.token_shard
        if tokens.numel() % token_shards:
            raise ValueError(
                f"{tokens.numel()} tokens of a micro-batch do not divide into {token_shards} parts "
                "for sequence parallelism: change the micro-batch size or the row width"
            )
        key = dropout_key if self.training else None
        dtype = self.embeddings.word.weight.dtype
        backend = choose_backend(self.config, self.compute, tokens.device, key is not None)
        rows = tokens if unmasked is None else unmasked
        context = make_row_context(
            *(self.config, backend, rows, key, dtype, known, is_causal),
            with_counters=self.compiles or self.compiles_parts or tokens.device.type != "cpu",
        )
        self.weights.ready(self.embeddings)
        hidden: Tensor = self.embeddings(tokens, context, segments, perturbation)  # [T(/tp), H]
        draws = key is not None and backend == "sdpa" and self.config.attention_dropout > 0
        seed = self._attention_seed(key) if draws and isinstance(key, int) else None
        slots = None if read is None else find_slots(read, tokens.numel())
        # Under sequence parallelism no rank has all tokens within a layer.
        of_last = None if self.grid.sequence_parallel else slots
        with seeded(tokens.device, seed):
            hidden = self._run_all(hidden, context, draws, of_last)
        if self.norm is not None:
            self.weights.ready(self.norm)
            hidden = self.norm(hidden)
        if self.grid.sequence_parallel:
            # Every rank computes the same from here, on all tokens: gradients are not summed.
            hidden = gather_rows(
                hidden, tensor_parallel_output_grad=False, group=self.grid.tp_group
            )
        if slots is not None and of_last is None:
            hidden = slots.of(hidden)
        return hidden  # [T, H] or [N, H]

    def dropout_seeds(self, key: int) -> tuple[Tensor, int | None]:
        """All that the host decides of dropout in a training pass of the micro-batch `key`.

        (what `forward` takes for it once it is on the device; the seed that torch's generator
        starts from in that pass, None where no layer draws from it).
        """
        config, device = self.config, self.grid.device
        backend = choose_backend(config, self.compute, device, with_dropout=True)
        seeds = layer_seeds(key, config.num_layers, seeded_heads(config, backend))
        draws = backend == "sdpa" and config.attention_dropout > 0
        return seeds, self._attention_seed(key) if draws else None

    def _attention_seed(self, key: int) -> int:
        """Of torch's generator, from which sdpa draws. Tensor-parallel ranks have other heads, so
        other seeds."""
        first_head = self.grid.tp_rank * self.grid.local_size(self.config.num_attention_heads)
        return mask_seed(key, 0, Site.ATTENTION_PROBABILITIES, first_head)

    def _run(
        self,
        run: "RunLayer",
        hidden: Tensor,
        context: RowContext,
        numbers: range,
        slots: Slots | None,
    ) -> Tensor:
        for number in numbers:
            is_last = number == len(self.group_of) - 1
            window = self.config.attention_pattern.window(number)
            layer = self.layers[self.group_of[number]]
            layer_context = context.of_layer(number, window, slots if is_last else None)
            hidden = run(layer, hidden, layer_context)
        return hidden

    def _run_all(
        self, hidden: Tensor, context: RowContext, draws: bool, slots: Slots | None
    ) -> Tensor:
        """`draws`: whether layers draw from torch's generator. `slots`: what is read of the last
        layer; None: all."""
        numbers = range(len(self.group_of))
        choice = self.compute.activation_checkpointing
        run: RunLayer = run_layer
        if self.compiles and self.training:
            is_selective = choice.type == "selective"
            run = functools.partial(run_compiled, self.compute.deterministic, is_selective)
        elif choice.type == "selective" and self.training:
            # Nothing reads the last product of a pre-LN layer again: a sum with it is the output.
            run = functools.partial(run_selectively, self.grid, run, self.norm is None, draws)
        size = choice.every if choice.type == "layers" else 1
        for first in numbers[::size]:
            span = numbers[first : first + size]
            self.weights.ready(*(self.layers[self.group_of[number]] for number in span))
            if choice.type != "layers" or not self.training:
                hidden = self._run(run, hidden, context, span, slots)
                continue
            # Keyed masks come out the same when they are computed again.
            hidden = checkpoint(
                *(self._run, run, hidden, context, span, slots),
                use_reentrant=False,
                preserve_rng_state=draws,
            )
        return hidden


class Layer(nn.Module):
    """One transformer layer, [T(/tp), H] -> [T(/tp), H], or [N, H] of the tokens that are read."""

    def __init__(
        self,
        grid: Grid,
        config: ModelConfig,
        has_attention_norm: bool = True,
        compiles_parts: bool = False,
    ) -> None:
        """`compiles_parts`: in training, what lies between the linears is compiled."""
        super().__init__()
        self.compiles_parts = compiles_parts
        self.is_post = config.norm_placement.type == "post"
        self.follow(config)
        self.token_shard = grid.token_shard
        self.attention = SelfAttention(grid, config, compiles_parts)
        self.attention_norm = Norm(grid, config) if has_attention_norm else nn.Identity()
        self.mlp = Mlp(grid, config, compiles_parts)
        self.mlp_norm = Norm(grid, config)

    def follow(self, config: ModelConfig) -> None:
        """Takes over the settings of a phase."""
        self.rate = config.hidden_dropout

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        if self.compiles_parts and self.training:
            return self._in_parts(x, context)
        if self.is_post:
            mixed = self.attention(x, context)
            x = context.read(x) + self._dropout(mixed, context, Site.ATTENTION_OUTPUT)
            x = self.attention_norm(x)
            inner = self.mlp(x)
            x = self.mlp_norm(x + self._dropout(inner, context, Site.MLP_OUTPUT))
            return x
        mixed = self.attention(self.attention_norm(x), context)
        x = context.read(x) + self._dropout(mixed, context, Site.ATTENTION_OUTPUT)
        inner = self.mlp(self.mlp_norm(x))
        return x + self._dropout(inner, context, Site.MLP_OUTPUT)

    def _in_parts(self, x: Tensor, context: LayerContext) -> Tensor:
        """`forward` with compiled parts between the linears."""
        attention, mlp, device = self.attention, self.mlp, x.device
        entering: Tensor = x if self.is_post else self.attention_norm(x)
        mixed, x = context.read(attention.mix(entering, context)), context.read(x)
        addends = self._addends(attention.output, mixed, x, context, Site.ATTENTION_OUTPUT)
        if isinstance(self.attention_norm, Norm) and self.is_post:
            norm_sum = compiled(norm_of_sum, device)
            x = norm_sum(*addends, self.attention_norm.tensors())
            addends = self._addends(mlp.down, mlp.inner(x), x, context, Site.MLP_OUTPUT)
            return norm_sum(*addends, self.mlp_norm.tensors())
        x, normed = compiled(add_and_norm, device)(*addends, self.mlp_norm.tensors())
        addends = self._addends(mlp.down, mlp.inner(normed), x, context, Site.MLP_OUTPUT)
        is_one_kernel = addends[1] is None and addends[3] is None
        return add(*addends) if is_one_kernel else compiled(add, device)(*addends)

    def _addends(
        self, linear: RowLinear, inner: Tensor, x: Tensor, context: LayerContext, site: Site
    ) -> tuple[Tensor, Tensor | None, Tensor, MaskTensors | None]:
        """What `add` takes for the sum of `x` and `linear` of `inner`."""
        mask = None
        if context.dropout is not None and self.rate > 0:
            assert isinstance(context.dropout, CounterDropout)
            mask = context.dropout.mask(x, self.rate, site, self.token_shard, context.slots)
        product, bias = linear.apart(inner)
        return product, bias, x, mask

    def _dropout(self, x: Tensor, context: LayerContext, site: Site) -> Tensor:
        if context.dropout is None or self.rate == 0:
            return x
        return context.dropout.hidden(x, self.rate, site, self.token_shard, context.slots)


RunLayer = Callable[[nn.Module, Tensor, LayerContext], Tensor]


def run_layer(
    layer: nn.Module, hidden: Tensor, context: LayerContext, is_selective: bool = False
) -> Tensor:
    """[T(/tp), H] -> [T(/tp), H]; `is_selective`: computed again but for what is kept, in a layer
    that is compiled."""
    if is_selective:
        return run_traced(run_layer, layer, hidden, context)
    result: Tensor = layer(hidden, context)
    return result


def run_compiled(
    deterministic: bool,
    is_selective: bool,
    layer: nn.Module,
    hidden: Tensor,
    context: LayerContext,
) -> Tensor:
    """`run_layer` in one graph. Raises ConfigError where torch cannot compile it.

    `deterministic`: nothing is chosen by timing kernels, so that every start has the same bits.
    Shapes beyond the first `MAX_GRAPHS` forms run as they are, with the same masks.
    """
    log_that_layers_compile()
    try:
        return _compiled_layer(deterministic)(layer, hidden, context, is_selective)
    except torch._dynamo.exc.FailOnRecompileLimitHit:
        warn_of_many_graphs()
        return run_layer(layer, hidden, context, is_selective)
    except torch._dynamo.exc.TorchDynamoException as error:
        message = failed_to_compile("a layer", error)
        raise ConfigError(f"{message}; where it is missing, set compute.compile=off") from error


@functools.cache  # once
def log_that_layers_compile() -> None:
    """Says why the first steps take long."""
    logger.info(
        "compiling layers (compute.compile): the first step takes up to a minute, as do steps with "
        "micro-batches of another shape"
    )


@functools.cache  # once
def warn_of_many_graphs() -> None:
    """Logs that further shapes are not compiled."""
    logger.warning(
        "layers were compiled in %d forms (kinds of layers, shapes of micro-batches, phases): "
        "further ones run uncompiled, which is slower",
        MAX_GRAPHS,
    )


@functools.cache
def _compiled_layer(deterministic: bool) -> Callable[..., Tensor]:
    """Layers of the same kind share what is compiled for one of them."""
    allow_many_graphs()  # one for every kind of layer, shape of a micro-batch and phase
    result: Callable[..., Tensor] = torch.compile(
        run_layer, fullgraph=True, dynamic=False, options={"deterministic": deterministic}
    )
    return result

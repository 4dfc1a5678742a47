"""One transformer layer, and how it runs: as it is, or compiled in one graph.

T tokens of a micro-batch, H hidden, N tokens that are read of the last layer. Under sequence
parallelism hidden states are [T/tp, H].
"""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from configs.load import ConfigError
from model.attention import SelfAttention
from model.compiling import MAX_GRAPHS, allow_many_graphs, failed_to_compile
from model.config import ModelConfig
from model.dropout import CounterDropout, Site
from model.layer_parts import MaskTensors, add, add_and_norm, compiled, norm_of_sum
from model.layers import Norm, RowLinear
from model.mlp import Mlp
from model.parallel.grid import Grid
from model.recomputation import run_traced
from model.row_context import LayerContext

logger = logging.getLogger(__name__)


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

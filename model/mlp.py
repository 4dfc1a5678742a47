"""The multi-layer perceptron of a layer.

T tokens, H hidden, F inner width; ``/tp`` sharded over tensor-parallel ranks.
"""

from torch import Tensor, nn

from model.config import ModelConfig
from model.layer_parts import activate, compiled
from model.layers import ColumnLinear, RowLinear
from model.parallel.grid import Grid


class Mlp(nn.Module):
    """[T, H] -> [T, H] through an inner layer of width F, sharded over TP ranks.

    A gated activation interleaves gate and value in the first matrix ([F, 2, H] on its first
    dimension), so that a plain cut or concatenation is right at any TP size.
    """

    def __init__(self, grid: Grid, config: ModelConfig, compiles_parts: bool = False) -> None:
        """`compiles_parts`: in training, the activation is compiled together with the bias."""
        super().__init__()
        self.compiles_parts = compiles_parts
        self.activation = config.activation.type
        inner = config.ffn_hidden_size
        up_size = 2 * inner if config.is_gated else inner
        matrices = (1, 1) if config.is_gated else (1,)
        up_bias = config.bias.mlp and config.bias.mlp_up
        sizes = (config.hidden_size, up_size)
        self.up = ColumnLinear(grid, *sizes, up_bias, matrices, compiles_parts)
        self.down = RowLinear(grid, inner, config.hidden_size, config.bias.mlp)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(self.inner(x))
        return result

    def inner(self, x: Tensor) -> Tensor:
        """[T, F/tp], what the second matrix reads, of [T, H]."""
        if self.compiles_parts and self.training:
            product, bias = self.up.apart(x)
            return compiled(activate, x.device)(product, self.activation, bias)
        return activate(self.up(x), self.activation)

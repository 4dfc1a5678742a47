"""The multi-layer perceptron of a layer.

T tokens, H hidden, F inner width; ``/tp`` sharded over tensor-parallel ranks.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers import ColumnLinear, RowLinear
from model.parallel.grid import Grid


class Mlp(nn.Module):
    """[T, H] -> [T, H] through an inner layer of width F, sharded over TP ranks.

    A gated activation interleaves gate and value in the first matrix ([F, 2, H] on its first
    dimension), so that a plain cut or concatenation is right at any TP size.
    """

    def __init__(self, grid: Grid, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation.type
        inner = config.ffn_hidden_size
        up_size = 2 * inner if config.is_gated else inner
        matrices = (1, 1) if config.is_gated else (1,)
        up_bias = config.bias.mlp and config.bias.mlp_up
        self.up = ColumnLinear(grid, config.hidden_size, up_size, up_bias, matrices)
        self.down = RowLinear(grid, inner, config.hidden_size, config.bias.mlp)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(x)  # [T, F/tp], or [T, 2F/tp]
        if self.activation == "gelu":
            activated = F.gelu(inner)
        elif self.activation == "gelu_tanh":
            activated = F.gelu(inner, approximate="tanh")
        else:
            gate, value = inner.view(inner.shape[0], -1, 2).unbind(-1)  # [T, F/tp] each
            if not gate.is_cuda:  # torch's CPU kernels compute strided values one by one
                gate = gate.contiguous()
            gate = F.gelu(gate) if self.activation == "geglu" else F.silu(gate)
            activated = gate * value
        result: Tensor = self.down(activated)
        return result

"""The masked-language-model head, and its layers before the output of task heads.

N tokens, H hidden, E width of the decoder (H where no embedding_size is given), V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers import Norm, ReplicatedLinear, VocabularyEmbedding
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, declare


class PredictionLayers(nn.Module):
    """Hidden [N, H] -> [N, E]: dense, activation, norm; replicated over TP ranks."""

    def __init__(self, grid: Grid, config: ModelConfig, exist: bool = True) -> None:
        """If they do not `exist`, hidden states pass as they are."""
        super().__init__()
        self.dense: ReplicatedLinear | None = None
        self.norm: Norm | None = None
        if not exist:
            return
        self.activation = config.head_activation
        size = config.embedding_width
        self.dense = ReplicatedLinear(config.hidden_size, size, config.bias.head)
        # Every rank sees all tokens here, under sequence parallelism too.
        self.norm = Norm(grid.with_sequence_parallel(False), config, size)

    def transformed(self, hidden: Tensor) -> Tensor:
        """[..., E] of [..., H]."""
        if self.dense is None or self.norm is None:
            return hidden
        inner = self.dense(hidden)
        if self.activation == "silu":
            inner = F.silu(inner)
        else:
            inner = F.gelu(inner, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        result: Tensor = self.norm(inner)
        return result

    def forward(self, hidden: Tensor) -> Tensor:
        return self.transformed(hidden)


class DenseLayer(nn.Module):
    """[..., H] -> [..., H]: dense, GELU; replicated over TP ranks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = ReplicatedLinear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


def layers_before_output(grid: Grid, config: ModelConfig, reads_pooled: bool) -> nn.Module | None:
    """What `config.head_transform` puts before the output of a task head, whether it reads the
    pooled rows or the tokens."""
    if config.head_transform.type == "prediction":
        return PredictionLayers(grid, config)
    if config.head_transform.type == "dense" and reads_pooled:
        return DenseLayer(config)
    return None


class LanguageModelHead(PredictionLayers):
    """Hidden [N, H] -> logits [N, V/tp]: dense, activation, norm, decoder with its own bias.

    The decoder's matrix is the word embedding or, if not tied, its own.
    Padded vocabulary entries get the logit -inf, so that no softmax ever sees them.
    """

    def __init__(self, grid: Grid, config: ModelConfig, vocab_size: int, padded_size: int) -> None:
        super().__init__(grid, config, exist=config.head_layers)
        self.decoder: VocabularyEmbedding | None = None
        if not config.tied_decoder:
            self.decoder = VocabularyEmbedding(grid, config, vocab_size, padded_size, reads=False)
        self.local_size = grid.local_size(padded_size)
        spec = ParameterSpec((vocab_size,), 0, padded_size=padded_size, start="zeros")
        self.register_parameter("bias", None)
        if config.bias.decoder:
            self.bias = nn.Parameter(torch.empty(self.local_size))
            declare(self.bias, spec)
        start, length = spec.local_range(*grid.tp_shard)
        self.num_padding = min(length, max(0, start + length - vocab_size))

    def forward(  # type: ignore[override]
        self, hidden: Tensor, vocabulary: VocabularyEmbedding
    ) -> Tensor:
        hidden = self.transformed(hidden)
        bias: Tensor | None = self.bias
        if bias is None:
            bias = hidden.new_zeros(self.local_size)
        if self.num_padding:
            kept = bias[: bias.shape[0] - self.num_padding]
            bias = torch.cat([kept, kept.new_full((self.num_padding,), -torch.inf)])
        decoder = vocabulary if self.decoder is None else self.decoder
        logits: Tensor = decoder(hidden, logits_bias=bias)
        return logits

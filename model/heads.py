"""The masked-language-model head and the whole model for pretraining.

B rows, S tokens in a row, K label slots of a row, N = B x K, H hidden, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig, check_grid
from model.encoder import Encoder
from model.layers import (
    Norm,
    ReplicatedLinear,
    VocabularyEmbedding,
    gather_columns,
    vocabulary_cross_entropy,
)
from model.parallel import Grid
from model.parameters import ParameterSpec, declare, initialize


class LanguageModelHead(nn.Module):
    """Hidden [N, H] -> logits [N, V/tp]: dense, GELU, norm, tied decoder with its own bias.

    Padded vocabulary entries get the logit -inf, so that no softmax ever sees them.
    """

    def __init__(self, grid: Grid, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        padded = config.padded_vocab_size(vocab_size)
        self.dense = ReplicatedLinear(config.hidden_size, config.hidden_size)
        self.norm = Norm(grid, config, sequence_parallel=False)
        self.bias = nn.Parameter(torch.empty(padded // grid.tp_size))
        declare(self.bias, ParameterSpec((vocab_size,), 0, padded_size=padded, start="zeros"))
        start, length = self.bias.spec.local_range(grid.tp_rank, grid.tp_size)  # type: ignore[attr-defined]
        self.num_padding = min(length, max(0, start + length - vocab_size))

    def forward(self, hidden: Tensor, vocabulary: VocabularyEmbedding) -> Tensor:
        hidden = self.norm(F.gelu(self.dense(hidden)))
        bias: Tensor = self.bias
        if self.num_padding:
            kept = bias[: bias.shape[0] - self.num_padding]
            bias = torch.cat([kept, kept.new_full((self.num_padding,), -torch.inf)])
        return vocabulary(hidden, logits_bias=bias)


class MaskedLanguageModel(nn.Module):
    """The encoder with the masked-language-model head on it."""

    def __init__(self, grid: Grid, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.grid = grid
        self.encoder = Encoder(grid, config, vocab_size)
        self.head = LanguageModelHead(grid, config, vocab_size)

    def forward(
        self, tokens: Tensor, positions: Tensor, labels: Tensor, dropout_key: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of the losses in fp32, number of labels, number predicted right), scalars.

        `tokens` [B, S], `positions` and `labels` [B, K] are int64; -100 marks unused slots. Equal
        on all tensor-parallel ranks. `dropout_key` identifies the micro-batch; None: no dropout.
        """
        hidden = self.encoder(tokens, dropout_key)  # [T, H]
        first = torch.arange(tokens.shape[0], device=tokens.device) * tokens.shape[1]
        chosen = hidden.index_select(0, (positions + first[:, None]).view(-1))  # [N, H]
        labels = labels.view(-1)
        is_used = labels >= 0
        targets = labels.clamp(min=0)
        logits = self.head(chosen, self.encoder.embeddings.word)  # [N, V/tp]
        losses, is_right = vocabulary_cross_entropy(logits, targets, self.grid)  # [N]
        loss_sum = (losses * is_used).sum()
        return loss_sum, is_used.sum(), (is_right & is_used).sum()

    def logits(self, tokens: Tensor) -> Tensor:
        """[B, S, V] logits at every position, of all ranks and without padding."""
        hidden = self.encoder(tokens, None)
        logits = self.head(hidden, self.encoder.embeddings.word)  # [T, V/tp]
        logits = gather_columns(logits, group=self.grid.tp_group)  # [T, padded V]
        return logits[:, : self.vocab_size].view(*tokens.shape, self.vocab_size)

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """[B, S, H] output of the last layer."""
        hidden: Tensor = self.encoder(tokens, None)
        return hidden.view(*tokens.shape, -1)


def build_masked_lm(
    config: ModelConfig,
    vocab_size: int,
    grid: Grid,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> MaskedLanguageModel:
    """A model with its initial weights, which are the same at every TP size.

    Raises ConfigError if the sizes do not divide by the grid's tensor-parallel size.
    """
    check_grid(config, grid.tp_size)
    model = MaskedLanguageModel(grid, config, vocab_size)
    initialize(model, seed, config.initializer_range, grid.tp_rank, grid.tp_size)
    return model.to(device=device or grid.device, dtype=dtype)

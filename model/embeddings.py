"""The embedding: from tokens to the first hidden states.

B rows, S tokens in a row, T = B x S, H hidden, E width of the embeddings (H where no
embedding_size is given); ``/tp`` sharded over tensor-parallel ranks, under sequence parallelism.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.dropout import Site
from model.layers import Norm, ReplicatedEmbedding, ReplicatedGradient, VocabularyEmbedding
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, declare
from model.row_context import RowContext


class Projection(ReplicatedGradient):
    """[T(/tp), E] -> [T(/tp), H]: a linear layer that every rank holds whole."""

    def __init__(self, grid: Grid, config: ModelConfig) -> None:
        super().__init__(grid)
        shape = (config.hidden_size, config.embedding_width)
        self.weight = nn.Parameter(torch.empty(shape))
        declare(self.weight, ParameterSpec(shape, partition_dim=None))
        self.bias = nn.Parameter(torch.empty(shape[:1]))
        declare(self.bias, ParameterSpec(shape[:1], partition_dim=None, start="zeros"))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.shared(self.weight), self.shared(self.bias))


class Embeddings(nn.Module):
    """Tokens [B, S] -> [T(/tp), H]: word + position + segment vectors, norm, dropout, and the
    projection to H where the vectors have a width of their own."""

    def __init__(self, grid: Grid, config: ModelConfig, vocab_size: int, padded_size: int) -> None:
        super().__init__()
        self.follow(config)
        self.pad_token_id = config.pad_token_id
        self.token_shard = grid.token_shard
        self.word = VocabularyEmbedding(grid, config, vocab_size, padded_size)
        self.position: ReplicatedEmbedding | None = None
        self.segment: ReplicatedEmbedding | None = None
        if config.positions.type == "learned":
            self.offset = config.positions.offset
            rows = config.max_row_tokens + self.offset
            zero_row = self.offset - 1 if self.offset else None
            self.position = ReplicatedEmbedding(grid, config, rows, zero_row)
        if config.type_vocab_size:
            self.segment = ReplicatedEmbedding(grid, config, config.type_vocab_size)
        self.norm = Norm(grid, config, config.embedding_width) if config.embedding_norm else None
        self.projection = Projection(grid, config) if config.embedding_size is not None else None

    def follow(self, config: ModelConfig) -> None:
        """Takes over the settings of a phase."""
        self.rate = config.hidden_dropout

    def forward(
        self,
        tokens: Tensor,
        context: RowContext,
        segments: Tensor | None,
        perturbation: Tensor | None = None,
    ) -> Tensor:
        """`perturbation` [T(/tp), E] is added to the word vectors."""
        hidden: Tensor = self.word(tokens.view(-1))  # [T(/tp), H]
        if perturbation is not None:
            hidden = hidden + perturbation.to(hidden.dtype)
        if self.position is not None:
            hidden = hidden + self.position(self._local(self._position_rows(tokens, context)))
        if self.segment is not None:
            segments = torch.zeros_like(tokens) if segments is None else segments
            hidden = hidden + self.segment(self._local(segments))
        if self.norm is not None:
            hidden = self.norm(hidden)
        if context.dropouts is not None and self.rate > 0:
            drop = context.dropouts[0].hidden
            hidden = drop(hidden, self.rate, Site.EMBEDDING, self.token_shard)
        return hidden if self.projection is None else self.projection(hidden)

    def _position_rows(self, tokens: Tensor, context: RowContext) -> Tensor:
        """[B, S] rows of the position matrix; padding takes the row before position 0, as in HF."""
        places = context.positions
        if places is None:
            places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        rows = places + self.offset
        if self.offset:
            rows = torch.where(tokens == self.pad_token_id, self.offset - 1, rows)
        return rows

    def _local(self, ids: Tensor) -> Tensor:
        """The ids [T(/tp)] of the tokens that this rank holds, of [B, S]."""
        index, count = self.token_shard
        return ids.reshape(-1).chunk(count)[index]

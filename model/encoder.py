"""The encoder: embedding and transformer layers, from tokens to hidden states.

B rows, S tokens in a row, T = B x S, H hidden. Under sequence parallelism hidden states are
[T/tp, H] between blocks, whole again at the end.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import SelfAttention
from model.attention_masks import choose_backend
from model.compute import ComputeConfig
from model.config import ModelConfig, check_row_tokens
from model.dropout import Site, dropout, mask_seed
from model.layers import Mlp, Norm, ReplicatedEmbedding, VocabularyEmbedding, gather_rows
from model.parallel.grid import Grid
from model.row_context import RowContext, make_row_context


class Encoder(nn.Module):
    """Tokens [B, S] -> hidden states [T, H]."""

    def __init__(
        self, grid: Grid, config: ModelConfig, compute: ComputeConfig, vocab_size: int
    ) -> None:
        super().__init__()
        self.grid, self.config, self.compute = grid, config, compute
        self.embeddings = Embeddings(
            grid, config, vocab_size, compute.padded_vocab_size(vocab_size)
        )
        self.group_of = [config.layer_group(n) for n in range(config.num_layers)]
        self.layers = nn.ModuleList(
            Layer(grid, config, has_attention_norm=config.first_norm or number > 0)
            for number in range(max(self.group_of) + 1)
        )
        is_pre = config.norm_placement.type == "pre"
        self.norm = Norm(grid, config) if is_pre else None

    def forward(
        self,
        tokens: Tensor,
        dropout_key: int | None = None,
        segments: Tensor | None = None,
        unmasked: Tensor | None = None,
        is_padded: bool | None = None,
    ) -> Tensor:
        """[T, H] of `tokens` [B, S]; `segments` [B, S] are segment ids, all 0 if None.

        `unmasked` [B, S] are the tokens before masking, if <s> could be masked: the documents
        of a row are found by their <s>.
        `is_padded` is explained in `make_row_context`.
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
        if unmasked is not None:
            context = make_row_context(self.config, backend, unmasked, key, dtype)
        else:
            context = make_row_context(self.config, backend, tokens, key, dtype, is_padded)
        hidden: Tensor = self.embeddings(tokens, context, segments)  # [T(/tp), H]
        hidden = self._run_all(hidden, context)
        if self.norm is not None:
            hidden = self.norm(hidden)
        if self.grid.sequence_parallel:
            # Every rank computes the same from here, on all tokens: gradients are not summed.
            hidden = gather_rows(
                hidden, tensor_parallel_output_grad=False, group=self.grid.tp_group
            )
        return hidden  # [T, H]

    def _run(self, hidden: Tensor, context: RowContext, numbers: range) -> Tensor:
        for number in numbers:
            hidden = self.layers[self.group_of[number]](hidden, context, number)
        return hidden

    def _run_all(self, hidden: Tensor, context: RowContext) -> Tensor:
        numbers = range(len(self.group_of))
        choice = self.compute.activation_checkpointing
        if choice.type == "none" or not self.training:
            return self._run(hidden, context, numbers)
        for first in numbers[:: choice.every]:
            span = numbers[first : first + choice.every]
            # Dropout is keyed: computing again draws the same masks, no generator state is kept.
            hidden = checkpoint(
                self._run, hidden, context, span, use_reentrant=False, preserve_rng_state=False
            )
        return hidden


class Embeddings(nn.Module):
    """Tokens [B, S] -> [T(/tp), H]: word + position + segment vectors, norm, dropout."""

    def __init__(self, grid: Grid, config: ModelConfig, vocab_size: int, padded_size: int) -> None:
        super().__init__()
        self.rate = config.hidden_dropout
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
        self.norm = Norm(grid, config) if config.embedding_norm else None

    def forward(self, tokens: Tensor, context: RowContext, segments: Tensor | None) -> Tensor:
        hidden: Tensor = self.word(tokens.view(-1))  # [T(/tp), H]
        if self.position is not None:
            hidden = hidden + self.position(self._local(self._position_rows(tokens, context)))
        if self.segment is not None:
            segments = torch.zeros_like(tokens) if segments is None else segments
            hidden = hidden + self.segment(self._local(segments))
        if self.norm is not None:
            hidden = self.norm(hidden)
        if context.dropout_key is None or self.rate == 0:
            return hidden
        seed = mask_seed(context.dropout_key, 0, Site.EMBEDDING)
        return dropout(hidden, self.rate, seed, self.token_shard)

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


class Layer(nn.Module):
    """One transformer layer, [T(/tp), H] -> [T(/tp), H]."""

    def __init__(self, grid: Grid, config: ModelConfig, has_attention_norm: bool = True) -> None:
        super().__init__()
        self.is_post = config.norm_placement.type == "post"
        self.rate = config.hidden_dropout
        self.token_shard = grid.token_shard
        self.attention = SelfAttention(grid, config)
        self.attention_norm = Norm(grid, config) if has_attention_norm else nn.Identity()
        self.mlp = Mlp(grid, config)
        self.mlp_norm = Norm(grid, config)

    def forward(self, x: Tensor, context: RowContext, number: int) -> Tensor:
        if self.is_post:
            mixed = self.attention(x, context, number)
            x = self.attention_norm(
                x + self._dropout(mixed, context, number, Site.ATTENTION_OUTPUT)
            )
            inner = self.mlp(x)
            x = self.mlp_norm(x + self._dropout(inner, context, number, Site.MLP_OUTPUT))
            return x
        mixed = self.attention(self.attention_norm(x), context, number)
        x = x + self._dropout(mixed, context, number, Site.ATTENTION_OUTPUT)
        inner = self.mlp(self.mlp_norm(x))
        return x + self._dropout(inner, context, number, Site.MLP_OUTPUT)

    def _dropout(self, x: Tensor, context: RowContext, number: int, site: Site) -> Tensor:
        if context.dropout_key is None or self.rate == 0:
            return x
        return dropout(x, self.rate, mask_seed(context.dropout_key, number, site), self.token_shard)

"""The encoder: embedding and transformer layers, from tokens to hidden states.

B rows, S tokens in a row, T = B x S, H hidden. Under sequence parallelism hidden states are
[T/tp, H] between blocks, whole again at the end.
"""

import functools

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.arriving_weights import PresentWeights, Weights
from model.attention_masks import choose_backend
from model.compute import ComputeConfig, compiles_layers, compiles_parts
from model.config import ModelConfig
from model.dropout import DropoutKey, Site, layer_seeds, mask_seed, seeded
from model.embeddings import Embeddings
from model.grid_check import check_row_tokens
from model.label_slots import Slots, find_slots
from model.layer import Layer, RunLayer, run_compiled, run_layer
from model.layers import Norm, gather_rows
from model.parallel.grid import Grid
from model.recomputation import run_selectively
from model.row_context import (
    KnownRows,
    RowContext,
    make_row_context,
    seeded_heads,
)


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

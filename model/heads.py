"""The model of masked language modelling; `model.multi_task` has task heads beside it.

B rows, S tokens in a row, K label slots of a row, N = B x K, H hidden, V vocabulary.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.load import ConfigError
from model.adversarial import (
    Adversary,
    Predictions,
    gaussian_noise,
    smoothness,
    symmetric_divergence,
    text_of,
)
from model.arriving_weights import PresentWeights, Weights
from model.compute import SLOTS_AT_ONCE, ComputeConfig
from model.config import MLM_HEAD, ModelConfig
from model.cross_entropy import vocabulary_cross_entropy
from model.dropout import DropoutKey
from model.encoder import Encoder
from model.freezing import freeze
from model.grid_check import check_grid
from model.label_slots import at_slots, with_values
from model.layers import gather_columns
from model.lm_head import LanguageModelHead
from model.objectives.head_names import ADVERSARIAL
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, initialize, shard_tensor
from model.phase_settings import FollowsConfig, fixed_differences
from model.row_context import KnownRows
from model.task_heads import LossAndCounts
from model.word_vectors import WordVectors, read_word_vectors

ModelT = TypeVar("ModelT", bound="MaskedLanguageModel")


class MaskedLanguageModel(nn.Module):
    """The encoder with the masked-language-model head on it."""

    def __init__(
        self, grid: Grid, config: ModelConfig, compute: ComputeConfig, vocab_size: int
    ) -> None:
        check_grid(config, compute, grid.tp_size)
        super().__init__()
        grid = grid.with_sequence_parallel(compute.sequence_parallel)
        self.config = config
        self.vocab_size = vocab_size
        self.grid = grid
        self.word_vectors: str | None = None
        """A summary of the word vectors that the embedding started from, if it did."""
        self.weights: Weights = PresentWeights()
        """Asked for those of each part before it runs."""
        self.encoder = Encoder(grid, config, compute, vocab_size)
        padded_size = compute.padded_vocab_size(vocab_size)
        self.head = LanguageModelHead(grid, config, vocab_size, padded_size)

    def take_weights_from(self, weights: Weights) -> None:
        """Has every part wait for its weights before it runs."""
        self.weights = self.encoder.weights = weights

    def parameters_in_order(self) -> list[nn.Parameter]:
        """All, in the order in which a forward pass needs them."""
        return list(self.parameters())

    def enter_phase(self, config: ModelConfig) -> None:
        """Switches to a config that differs in settings of a phase only (`PerPhase`)."""
        before, now = self.config.for_loaded_weights(), config.for_loaded_weights()
        assert not fixed_differences(before, now)
        self.config = config
        for module in self.modules():
            if isinstance(module, FollowsConfig):
                module.follow(config)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        labels: Tensor,
        dropout_key: DropoutKey | None = None,
        known: KnownRows | None = None,
        is_causal: bool = False,
        adversary: Adversary | None = None,
    ) -> LossAndCounts | dict[str, LossAndCounts]:
        """(sum of the losses in fp32, number of labels, number predicted right), scalars.

        `tokens` [B, S], `positions` and `labels` [B, K] are int64; -100 marks unused slots. Equal
        on all tensor-parallel ranks. `dropout_key` identifies the micro-batch; None: no dropout.
        `known` is true of the tokens; None: they are searched for padding.
        `is_causal`: no token sees a later one, and the labels are the tokens after `positions`.
        With an `adversary`: these by head, the divergence under its perturbation as a head.
        """
        if adversary is not None:
            return self._with_adversary(tokens, (positions, labels), dropout_key, known, adversary)
        unmasked = None if is_causal else self._unmasked(tokens, positions, labels)
        encoder = functools.partial(self.encoder, tokens, dropout_key, None, unmasked, known)
        if not is_causal:
            return self._slot_loss(encoder(read=positions), labels.view(-1))
        hidden = encoder(is_causal=True)  # [T, H]: nearly all have a label
        return self._masked_loss(hidden, tokens, positions, labels, SLOTS_AT_ONCE)

    def _with_adversary(
        self,
        tokens: Tensor,
        masked: tuple[Tensor, Tensor],
        dropout_key: DropoutKey | None,
        known: KnownRows | None,
        adversary: Adversary,
    ) -> dict[str, LossAndCounts]:
        unmasked = self._unmasked(tokens, *masked)

        def predict(perturbation: Tensor | None) -> dict[str, Tensor]:
            hidden = self.encoder(tokens, dropout_key, None, unmasked, known, False, perturbation)
            return {MLM_HEAD: self._slot_logits(hidden, masked[0])}

        def distances(one: Predictions, other: Predictions) -> dict[str, Tensor]:
            return {MLM_HEAD: self._slot_distance(one[MLM_HEAD], other[MLM_HEAD], masked[1])}

        clean = predict(None)
        found = self._smoothness(tokens, clean, predict, distances, adversary)
        return with_distances({MLM_HEAD: self._logits_loss(clean[MLM_HEAD], masked[1])}, found)

    def _smoothness(
        self,
        tokens: Tensor,
        clean: Predictions,
        predict: Callable[[Tensor], Predictions],
        distances: Callable[[Predictions, Predictions], dict[str, Tensor]],
        adversary: Adversary,
    ) -> dict[str, Tensor]:
        # Every pass draws the same dropout, whose masks are keyed: the divergence is that of the
        # perturbation alone.
        width = self.config.embedding_width
        noise = gaussian_noise(adversary.row_keys, tokens, width, self.grid)
        is_text = text_of(tokens, self.config.pad_token_id, self.grid)
        return smoothness(clean, predict, distances, noise, is_text, adversary.options)

    def _slot_logits(self, hidden: Tensor, positions: Tensor) -> Tensor:
        return self._local_logits(at_slots(hidden, positions))

    def _local_logits(self, hidden: Tensor) -> Tensor:
        """[N, V/tp] of hidden states [N, H], when the weights of the head are there."""
        self.weights.ready(self.head, self.encoder.embeddings.word)
        logits: Tensor = self.head(hidden, self.encoder.embeddings.word)
        return logits

    def _slot_distance(self, one: Tensor, other: Tensor, labels: Tensor) -> Tensor:
        return (symmetric_divergence(one, other, self.grid) * (labels.view(-1) >= 0)).sum()

    def _logits_loss(
        self, logits: Tensor, labels: Tensor, overwrites: bool = False
    ) -> LossAndCounts:
        """The loss of logits [N, V/tp]; `overwrites`: nobody reads them after this."""
        labels = labels.view(-1)
        is_used = labels >= 0
        losses, is_right = vocabulary_cross_entropy(
            logits, labels.clamp(min=0), self.grid, overwrites
        )  # [N]
        return (losses * is_used).sum(), is_used.sum(), (is_right & is_used).sum()

    def _unmasked(self, tokens: Tensor, positions: Tensor, labels: Tensor) -> Tensor | None:
        """[B, S] the tokens before masking, where documents are found by their <s>; else None."""
        if self.config.packed_rows.type == "across":
            return None
        return with_values(tokens, positions, labels, labels)

    def _masked_loss(
        self,
        hidden: Tensor,
        tokens: Tensor,
        positions: Tensor,
        labels: Tensor,
        slots_at_once: int | None = None,
    ) -> LossAndCounts:
        """The loss at `positions`, the logits of `slots_at_once` of them at a time; None: all."""
        chosen = at_slots(hidden, positions)  # [N, H]
        labels = labels.view(-1)
        if slots_at_once is None or slots_at_once >= len(labels):
            return self._slot_loss(chosen, labels)
        parts = [slice(n, n + slots_at_once) for n in range(0, len(labels), slots_at_once)]
        # Computed again in the backward pass: the logits of all slots would fill the memory.
        results = [
            checkpoint(
                self._slot_loss,
                chosen[part],
                labels[part],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for part in parts
        ]
        loss_sum, count, right = (
            torch.stack(values).sum() for values in zip(*results, strict=True)
        )
        return loss_sum, count, right

    def _slot_loss(self, chosen: Tensor, labels: Tensor) -> LossAndCounts:
        return self._logits_loss(self._local_logits(chosen), labels, overwrites=True)

    def logits(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """[B, S, V] logits at every position, of all ranks and without padding; no dropout."""
        hidden = self.encoder(tokens, None, segments)
        parts = self._local_logits(hidden)  # [T, V/tp]
        logits: Tensor = gather_columns(parts, group=self.grid.tp_group)  # [T, padded V]
        return logits[:, : self.vocab_size].view(*tokens.shape, self.vocab_size)

    def hidden_states(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """[B, S, H] output of the last layer; no dropout."""
        hidden: Tensor = self.encoder(tokens, None, segments)
        return hidden.view(*tokens.shape, -1)


def with_distances(
    results: Mapping[str, LossAndCounts], found: Mapping[str, Tensor]
) -> dict[str, LossAndCounts]:
    """`results` by head, and for each head its divergence `found` as a head, of as many labels."""
    more = {
        ADVERSARIAL + name: (value, results[name][1], torch.zeros_like(results[name][2]))
        for name, value in found.items()
    }
    return {**results, **more}


def build_masked_lm(
    config: ModelConfig,
    vocab_size: int,
    grid: Grid,
    seed: int | None,
    compute: ComputeConfig | None = None,
    vocabulary: Sequence[str] | None = None,
) -> MaskedLanguageModel:
    """An fp32 model on the grid's device; its initial weights are the same at every TP size.

    `seed` None: all weights are NaN, until others are loaded.
    `vocabulary` (token texts by id) is needed where `config.embedding_start` reads word vectors.
    Raises ConfigError if the sizes do not divide by the grid's tensor-parallel size.
    """
    vectors = word_vectors_of(config, vocab_size, vocabulary)
    model = MaskedLanguageModel(grid, config, compute or ComputeConfig(), vocab_size)
    return with_initial_weights(model, seed, vectors)


def with_initial_weights(model: ModelT, seed: int | None, vectors: WordVectors | None) -> ModelT:
    """`model` on its device, with its initial weights and parts frozen as its config says."""
    grid, config = model.grid, model.config
    initialize(model, seed, config.initializer_range, *grid.tp_shard)
    if vectors is not None:
        _put_word_vectors(model, vectors)
    freeze(model.encoder, config)
    return model.to(grid.device)


def word_vectors_of(
    config: ModelConfig, vocab_size: int, vocabulary: Sequence[str] | None
) -> WordVectors | None:
    """The word vectors that `config` starts from, if any, for the token texts `vocabulary`.

    Raises ConfigError if they are needed and `vocabulary` is not that of `vocab_size` tokens.
    """
    start = config.embedding_start
    if start.type == "random":
        return None
    if vocabulary is None or len(vocabulary) != vocab_size:
        raise ConfigError(
            f"model.embedding_start {start.type} needs the texts of all {vocab_size} tokens, got "
            f"{0 if vocabulary is None else len(vocabulary)}: give the tokenizer's vocabulary"
        )
    return read_word_vectors(start, vocabulary, config.embedding_width, config.initializer_range)


def _put_word_vectors(model: MaskedLanguageModel, vectors: WordVectors) -> None:
    weight, grid = model.encoder.embeddings.word.weight, model.grid
    spec: ParameterSpec = weight.spec
    flat_spec = ParameterSpec(spec.full_shape[:1], 0, padded_size=spec.padded_size)
    values = shard_tensor(spec, torch.from_numpy(vectors.matrix), *grid.tp_shard)
    found = shard_tensor(flat_spec, torch.from_numpy(vectors.found), *grid.tp_shard)
    with torch.no_grad():
        weight[found] = values[found]
    model.word_vectors = str(vectors)

"""The model of replaced-token detection: a generator and a discriminator (Clark et al. 2020).

B rows, S tokens in a row, T = B x S, K label slots of a row, N = B x K, H hidden, V vocabulary.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.arriving_weights import Weights
from model.compute import ComputeConfig
from model.config import MLM_HEAD, ModelConfig
from model.dropout import Site, mask_seed
from model.generator import generator_config
from model.heads import MaskedLanguageModel, with_initial_weights, word_vectors_of
from model.label_slots import with_values
from model.layers import ReplicatedLinear, VocabularyEmbedding
from model.objectives import SpecialIds
from model.objectives.head_names import KEPT_SHARE, REPLACED_HEAD
from model.objectives.replaced_tokens import ReplacedTokensConfig
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, declare
from model.row_context import KnownRows
from model.sampling import draw_keys, draw_tokens
from model.task_heads import LossAndCounts


class ReplacedTokenHead(nn.Module):
    """Hidden [T, H] -> scores [T] in fp32, above 0 for tokens that were replaced: dense layer,
    GELU, linear layer to one number, as in ELECTRA; replicated over TP ranks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = ReplicatedLinear(config.hidden_size, config.hidden_size)
        self.output = ReplicatedLinear(config.hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.output(F.gelu(self.dense(hidden)))
        return scores.squeeze(-1).float()


class DisentangledEmbedding(nn.Module):
    """Tokens [T] -> [T(/tp), H]: the generator's vectors, without a gradient, plus own ones."""

    def __init__(
        self,
        grid: Grid,
        config: ModelConfig,
        vocab_size: int,
        padded_size: int,
        base: VocabularyEmbedding,
    ) -> None:
        super().__init__()
        self.delta = VocabularyEmbedding(grid, config, vocab_size, padded_size)
        spec: ParameterSpec = self.delta.weight.spec
        declare(
            self.delta.weight,
            ParameterSpec(spec.full_shape, 0, padded_size=spec.padded_size, start="zeros"),
        )
        self._base = (base,)  # in a tuple: no part of this module, whose parameters it would repeat

    @property
    def weight(self) -> Tensor:
        """The own vectors [V/tp, H]."""
        weight: Tensor = self.delta.weight
        return weight

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            base = self._base[0](tokens)
        result: Tensor = self.delta(tokens) + base
        return result


class ReplacedTokensModel(MaskedLanguageModel):
    """The discriminator's encoder and head with the generator: a masked-language-model head on the
    same encoder, or a smaller model beside it."""

    def __init__(
        self,
        grid: Grid,
        config: ModelConfig,
        compute: ComputeConfig,
        special: SpecialIds,
        objective: ReplacedTokensConfig,
    ) -> None:
        vocab_size = special.vocab_size
        super().__init__(grid, config, compute, vocab_size)
        self.small = objective.generator if objective.generator.type == "small" else None
        self.replaced_head = ReplacedTokenHead(config)
        padded_size = compute.padded_vocab_size(vocab_size)
        if self.small is not None:
            # The vocabulary is predicted by the generator only.
            del self.head
            smaller = generator_config(config, self.small)
            generator = MaskedLanguageModel(grid, smaller, compute, vocab_size)
            self.generator = generator
            mine, its = self.encoder.embeddings, generator.encoder.embeddings
            if self.small.embeddings == "shared":
                its.word, its.position, its.segment = mine.word, mine.position, mine.segment
            elif self.small.embeddings == "disentangled":
                own = DisentangledEmbedding(self.grid, config, vocab_size, padded_size, its.word)
                mine.word = own  # type: ignore[assignment]
        first = grid.tp_rank * grid.local_size(padded_size)
        is_ordinary = torch.zeros(padded_size, dtype=torch.bool)
        is_ordinary[:vocab_size] = torch.from_numpy(special.is_ordinary)
        mine_only = is_ordinary[first : first + grid.local_size(padded_size)].clone()
        self.is_ordinary: Tensor
        self.register_buffer("is_ordinary", mine_only, persistent=False)

    def take_weights_from(self, weights: Weights) -> None:
        super().take_weights_from(weights)
        if self.small is not None:
            self.generator.take_weights_from(weights)

    def parameters_in_order(self) -> list[nn.Parameter]:
        """Those of the generator first, which runs first."""
        first = self.generator.parameters_in_order() if self.small is not None else []
        return list(dict.fromkeys([*first, *self.parameters()]))

    def enter_phase(self, config: ModelConfig) -> None:
        super().enter_phase(config)
        if self.small is not None:  # the settings of its own modules, not those of the larger model
            self.generator.enter_phase(generator_config(config, self.small))

    def forward(  # type: ignore[override]
        self,
        tokens: Tensor,
        positions: Tensor,
        labels: Tensor,
        dropout_key: int | None = None,
        known: KnownRows | None = None,
        is_causal: bool = False,
        sample_keys: Tensor | None = None,
    ) -> dict[str, LossAndCounts]:
        """By head, (loss sum, number of labels, number right): of the generator on the masked
        tokens, of the discriminator on all but padding, and what the answer "not replaced" gets.

        Arguments as of `MaskedLanguageModel`, with `sample_keys` [B] int64, which decide the
        replacements.
        """
        assert sample_keys is not None
        assert not is_causal
        generator = self if self.small is None else self.generator
        key = None if dropout_key is None else mask_seed(dropout_key, 0, Site.GENERATOR)
        unmasked = self._unmasked(tokens, positions, labels)
        chosen = generator.encoder(
            tokens, key, None, unmasked, known, read=positions
        )  # [N, H of generator]
        logits = generator._local_logits(chosen)  # [N, V/tp]
        keys = draw_keys(sample_keys, positions).view(-1)
        drawn = draw_tokens(logits.detach(), keys, self.is_ordinary, self.grid)  # [N]
        results = {MLM_HEAD: self._logits_loss(logits, labels, overwrites=True)}
        original = with_values(tokens, positions, labels, labels)
        replaced = with_values(tokens, positions, labels, drawn.view_as(labels))
        return results | self._detection(original, replaced, dropout_key, known)

    def _detection(
        self, original: Tensor, replaced: Tensor, dropout_key: int | None, known: KnownRows | None
    ) -> dict[str, LossAndCounts]:
        hidden = self.encoder(replaced.contiguous(), dropout_key, None, None, known)  # [T, H]
        self.weights.ready(self.replaced_head)
        scores = self.replaced_head(hidden)  # [T]
        is_text = (original != self.config.pad_token_id).flatten()
        is_replaced = (replaced != original).flatten()
        losses = F.binary_cross_entropy_with_logits(scores, is_replaced.float(), reduction="none")
        is_right = ((scores > 0) == is_replaced) & is_text
        count, kept = is_text.sum(), (is_text & ~is_replaced).sum()
        return {
            REPLACED_HEAD: ((losses * is_text).sum(), count, is_right.sum()),
            KEPT_SHARE: (losses.new_zeros(()), count, kept),
        }


def build_replaced_tokens(
    config: ModelConfig,
    special: SpecialIds,
    grid: Grid,
    seed: int | None,
    objective: ReplacedTokensConfig,
    compute: ComputeConfig | None = None,
    vocabulary: Sequence[str] | None = None,
) -> ReplacedTokensModel:
    """As `build_masked_lm`, of both networks; the encoder's parameters keep names and values."""
    vectors = word_vectors_of(config, special.vocab_size, vocabulary)
    model = ReplacedTokensModel(grid, config, compute or ComputeConfig(), special, objective)
    return with_initial_weights(model, seed, vectors)


class Discriminator(MaskedLanguageModel):
    """What replaced-token detection leaves: the encoder and its head, with plain word vectors."""

    def __init__(
        self, grid: Grid, config: ModelConfig, compute: ComputeConfig, vocab_size: int
    ) -> None:
        super().__init__(grid, config, compute, vocab_size)
        del self.head
        self.replaced_head = ReplacedTokenHead(config)

    def logits(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """[B, S] scores of `tokens`, above 0 for those taken for replaced; no dropout."""
        hidden = self.encoder(tokens, None, segments)
        self.weights.ready(self.replaced_head)
        scores: Tensor = self.replaced_head(hidden)
        return scores.view(tokens.shape)

"""The encoder with any set of task heads beside that of masked language modelling.

B rows, S tokens in a row, T = B x S, K label slots of a row, H hidden, E width of the word vectors.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from configs.load import ConfigError
from model.adversarial import Adversary, Predictions
from model.compute import ComputeConfig
from model.config import MLM_HEAD, ModelConfig
from model.heads import (
    MaskedLanguageModel,
    with_distances,
    with_initial_weights,
    word_vectors_of,
)
from model.lm_head import layers_before_output
from model.parallel.grid import Grid
from model.task_heads import LossAndCounts, Pooler, TaskHead, TaskHeadConfig


class MultiTaskModel(MaskedLanguageModel):
    """One encoder with the masked-language-model head and any number of named task heads."""

    def __init__(
        self,
        grid: Grid,
        config: ModelConfig,
        compute: ComputeConfig,
        vocab_size: int,
        heads: Mapping[str, TaskHeadConfig],
    ) -> None:
        super().__init__(grid, config, compute, vocab_size)
        self.task_heads = nn.ModuleDict(
            {name: head.build(name, config) for name, head in heads.items()}
        )
        self.pooler = Pooler(config)
        layers = {
            name: layers_before_output(self.grid, config, self._head(name).reads_pooled)
            for name in heads
        }
        self.transforms = nn.ModuleDict(
            {name: found for name, found in layers.items() if found is not None}
        )

    def forward(  # type: ignore[override]
        self,
        tokens: Tensor,
        labels: Mapping[str, Tensor] | None,
        masked: tuple[Tensor, Tensor] | None = None,
        dropout_key: int | None = None,
        segments: Tensor | None = None,
        adversary: Adversary | None = None,
        perturbation: Tensor | None = None,
    ) -> dict[str, LossAndCounts] | dict[str, Tensor]:
        """By head, (loss sum, number labelled, number right), from one pass through the encoder.

        `labels` are by head name; `masked` (positions, labels), [B, K] each, asks for the masked
        language model's, under the name `MLM_HEAD`. Labels of -100 leave rows out of a head.
        Without labels and masks: the scores of every head, no dropout. With an `adversary`, the
        divergence of each head under its perturbation is a head more. `perturbation` [T(/tp), E]
        is added to the word vectors.
        """
        if labels is None and masked is None:
            return self.scores(tokens, list(self.task_heads), segments)
        labels = labels or {}
        if adversary is not None:
            return self._tasks_with_adversary(
                tokens, labels, masked, dropout_key, segments, adversary
            )
        unmasked = None if masked is None else self._unmasked(tokens, *masked)
        hidden = self.encoder(
            tokens, dropout_key, segments, unmasked, perturbation=perturbation
        )  # [T, H]
        results: dict[str, LossAndCounts] = {}
        if masked is not None:
            results[MLM_HEAD] = self._masked_loss(hidden, tokens, *masked)
        scores = self._scores(hidden, tokens, list(labels), dropout_key)
        for name, head_labels in labels.items():
            results[name] = self._head(name).loss(scores[name], head_labels)
        return results

    def _tasks_with_adversary(
        self,
        tokens: Tensor,
        labels: Mapping[str, Tensor],
        masked: tuple[Tensor, Tensor] | None,
        dropout_key: int | None,
        segments: Tensor | None,
        adversary: Adversary,
    ) -> dict[str, LossAndCounts]:
        unmasked = None if masked is None else self._unmasked(tokens, *masked)

        def predict(perturbation: Tensor | None) -> dict[str, Tensor]:
            hidden = self.encoder(
                tokens, dropout_key, segments, unmasked, perturbation=perturbation
            )
            mlm = {} if masked is None else {MLM_HEAD: self._slot_logits(hidden, masked[0])}
            return mlm | self._scores(hidden, tokens, list(labels), dropout_key)

        def distances(one: Predictions, other: Predictions) -> dict[str, Tensor]:
            found = {}
            if masked is not None:
                found[MLM_HEAD] = self._slot_distance(one[MLM_HEAD], other[MLM_HEAD], masked[1])
            for name, head_labels in labels.items():
                found[name] = self._head(name).distance(one[name], other[name], head_labels)
            return found

        clean = predict(None)
        found = self._smoothness(tokens, clean, predict, distances, adversary)
        results = {name: self._head(name).loss(clean[name], labels[name]) for name in labels}
        if masked is not None:
            results[MLM_HEAD] = self._logits_loss(clean[MLM_HEAD], masked[1])
        return with_distances(results, found)

    def scores(
        self, tokens: Tensor, names: Sequence[str], segments: Tensor | None = None
    ) -> dict[str, Tensor]:
        """By head name, its scores for `tokens` [B, S] without dropout."""
        return self._scores(self.encoder(tokens, None, segments), tokens, names, None)

    def _scores(
        self, hidden: Tensor, tokens: Tensor, names: Sequence[str], dropout_key: int | None
    ) -> dict[str, Tensor]:
        by_row = hidden.view(*tokens.shape, -1)  # [B, S, H]
        pooled = None
        heads = [self._head(name) for name in names]
        self.weights.ready(*heads, *(self.transforms[n] for n in names if n in self.transforms))
        if any(head.reads_pooled for head in heads):
            self.weights.ready(self.pooler, self.encoder)  # of which it may share a matrix
            pooled = self.pooler(by_row, tokens, self.encoder)  # [B, H]
        scores = {}
        for name, head in zip(names, heads, strict=True):
            features = pooled if head.reads_pooled else by_row
            if name in self.transforms:
                features = self.transforms[name](features)
            scores[name] = head(features, dropout_key)
        return scores

    def _head(self, name: str) -> TaskHead:
        head = self.task_heads[name]
        assert isinstance(head, TaskHead)
        return head


def build_multi_task(
    config: ModelConfig,
    heads: Mapping[str, TaskHeadConfig],
    vocab_size: int,
    grid: Grid,
    seed: int | None,
    compute: ComputeConfig | None = None,
    vocabulary: Sequence[str] | None = None,
) -> MultiTaskModel:
    """As `build_masked_lm`, with task heads; parameters of both keep their names and values."""
    if MLM_HEAD in heads:
        raise ConfigError(f"heads.{MLM_HEAD}: this name is taken by the masked-language-model head")
    vectors = word_vectors_of(config, vocab_size, vocabulary)
    model = MultiTaskModel(grid, config, compute or ComputeConfig(), vocab_size, heads)
    return with_initial_weights(model, seed, vectors)

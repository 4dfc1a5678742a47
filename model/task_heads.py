"""Heads beside masked language modelling: each a frozen config with a `build()`, in one union.

B rows, S tokens in a row, H hidden, L labels. A head gives (loss sum in fp32, number of labelled
items, number predicted right); the label -100 leaves an item out.
"""

import zlib
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from configs.load import Config
from model.adversarial import symmetric_divergence
from model.config import ModelConfig
from model.dropout import Site, dropout, mask_seed
from model.encoder import Encoder
from model.layers import ReplicatedLinear

LossAndCounts = tuple[Tensor, Tensor, Tensor]
"""(loss sum in fp32, number of labels, number predicted right), scalars on the device."""


class SequenceClassification(Config):
    """One of `num_labels` classes for each row, or each of them by itself."""

    type: Literal["sequence_classification"] = "sequence_classification"
    num_labels: int = Field(2, gt=1)
    """Classes."""
    is_multi_label: bool = False
    """Whether a row has any number of the classes."""
    class_weights: tuple[float, ...] | None = None
    """Factor on the loss of a row of each class (default: 1); not for several labels a row."""

    def build(self, name: str, model: ModelConfig) -> "TaskHead":
        """The head, with its weights not initialised."""
        kind = MultiLabelHead if self.is_multi_label else SequenceClassificationHead
        return kind(name, model, self.num_labels, self.class_weights)


class SequenceRegression(Config):
    """`num_values` numbers for each row, with the squared error as loss."""

    type: Literal["sequence_regression"] = "sequence_regression"
    num_values: int = Field(1, gt=0)
    """Numbers predicted for a row."""

    def build(self, name: str, model: ModelConfig) -> "TaskHead":
        """The head, with its weights not initialised."""
        return SequenceRegressionHead(name, model, self.num_values)


class TokenClassification(Config):
    """One of `num_labels` classes for each token."""

    type: Literal["token_classification"] = "token_classification"
    num_labels: int = Field(gt=1)
    """Classes."""
    class_weights: tuple[float, ...] | None = None
    """Factor on the loss of a token of each class (default: 1)."""

    def build(self, name: str, model: ModelConfig) -> "TaskHead":
        """The head, with its weights not initialised."""
        return TokenClassificationHead(name, model, self.num_labels, self.class_weights)


class SpanQuestionAnswering(Config):
    """The first and the last token of the answer in each row (Rajpurkar et al. 2016, SQuAD)."""

    type: Literal["span_question_answering"] = "span_question_answering"

    def build(self, name: str, model: ModelConfig) -> "TaskHead":
        """The head, with its weights not initialised."""
        return SpanQuestionAnsweringHead(name, model, 2)


class MultipleChoice(Config):
    """Which of `num_choices` consecutive rows is the right one."""

    type: Literal["multiple_choice"] = "multiple_choice"
    num_choices: int = Field(4, gt=1)
    """Rows of one question."""

    def build(self, name: str, model: ModelConfig) -> "TaskHead":
        """The head, with its weights not initialised."""
        return MultipleChoiceHead(name, model, 1, self.num_choices)


TaskHeadConfig = Annotated[
    SequenceClassification
    | SequenceRegression
    | TokenClassification
    | SpanQuestionAnswering
    | MultipleChoice,
    Field(discriminator="type"),
]


class Pooler(nn.Module):
    """Hidden [B, S, H] -> [B, H], as `config.pooler` says; replicated over TP ranks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.pooler.type
        self.pad_token_id = config.pad_token_id
        sharing = config.parameter_sharing
        self.shares_matrix = sharing.type == "groups" and sharing.pooler
        self.dense: ReplicatedLinear | None = None
        has_matrix = self.kind != "none" and config.head_transform.type == "none"
        if has_matrix and not self.shares_matrix:
            self.dense = ReplicatedLinear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, tokens: Tensor, encoder: Encoder) -> Tensor:
        if self.kind == "mean":
            is_text = (tokens != self.pad_token_id)[..., None].to(hidden.dtype)
            pooled = (hidden * is_text).sum(dim=1) / is_text.sum(dim=1).clamp(min=1)
        else:
            pooled = hidden[:, 0]
        if self.dense is not None:
            return torch.tanh(self.dense(pooled))
        if not self.shares_matrix:
            return pooled
        last = encoder.layers[encoder.group_of[-1]]
        return torch.tanh(last.attention.output(pooled, x_is_whole=True))  # type: ignore[union-attr, operator]


class TaskHead(nn.Module):
    """Base: a linear layer over `H` with dropout before it."""

    reads_pooled = True
    """Whether it reads the pooled rows [B, H], or the tokens [B, S, H]."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        num_outputs: int,
        class_weights: tuple[float, ...] | None = None,
    ) -> None:
        """`class_weights`: factors on the loss of an item by its class."""
        super().__init__()
        self.rate = config.hidden_dropout
        self.class_weights = class_weights
        self.number = zlib.crc32(name.encode()) & 0x7FFFFFFF
        self.output = ReplicatedLinear(config.hidden_size, num_outputs)

    def forward(self, features: Tensor, dropout_key: int | None) -> Tensor:
        """Scores: [B, L] of pooled rows [B, H], or [B, S, L] of tokens [B, S, H]."""
        if dropout_key is not None and self.rate > 0 and self.training:
            seed = mask_seed(dropout_key, 0, Site.HEAD, self.number)
            features = dropout(features, self.rate, seed)
        scores: Tensor = self.output(features).float()
        return scores

    def loss(self, scores: Tensor, labels: Tensor) -> LossAndCounts:
        """(loss sum, number labelled, number right) of `scores`."""
        raise NotImplementedError

    def distance(self, scores: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        """How far two scores are apart, a sum over the same items as the loss: the symmetric
        divergence of classes, the squared error of numbers."""
        raise NotImplementedError


class SequenceClassificationHead(TaskHead):
    """Scores [B, L], labels [B]."""

    def loss(self, scores: Tensor, labels: Tensor) -> LossAndCounts:
        return _cross_entropy(scores, labels, self.class_weights)

    def distance(self, scores: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        return _divergence(scores, others, labels)


class MultiLabelHead(TaskHead):
    """Scores [B, L], labels [B, L] of 0 and 1; NaN leaves a label out. Each is a decision of its
    own, with the logistic loss."""

    def loss(self, scores: Tensor, labels: Tensor) -> LossAndCounts:
        is_used = ~labels.isnan()
        wanted = labels.nan_to_num().to(scores.dtype)
        losses = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        is_right = ((scores >= 0) == (wanted > 0)) & is_used
        return torch.where(is_used, losses, 0.0).sum(), is_used.sum(), is_right.sum()

    def distance(self, scores: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        """That of two Bernoulli distributions p and q is (p - q) (logit p - logit q)."""
        difference = (scores.sigmoid() - others.sigmoid()) * (scores - others)
        return torch.where(~labels.isnan(), difference, 0.0).sum()


class SequenceRegressionHead(TaskHead):
    """Scores [B, L], labels [B, L] or [B] floats; NaN leaves a value out. Nothing is "right"."""

    def loss(self, scores: Tensor, labels: Tensor) -> LossAndCounts:
        labels = labels.view_as(scores).float()
        is_used = ~labels.isnan()
        error = torch.where(is_used, scores - labels.nan_to_num(), 0.0)
        return error.square().sum(), is_used.sum(), torch.zeros_like(is_used.sum())

    def distance(self, scores: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        is_used = ~labels.view_as(scores).float().isnan()
        return torch.where(is_used, scores - others, 0.0).square().sum()


class TokenClassificationHead(TaskHead):
    """Scores [B, S, L], labels [B, S]."""

    reads_pooled = False

    def loss(self, scores: Tensor, labels: Tensor) -> LossAndCounts:
        return _cross_entropy(scores.flatten(0, 1), labels.flatten(), self.class_weights)

    def distance(self, scores: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        return _divergence(scores.flatten(0, 1), others.flatten(0, 1), labels.flatten())


class SpanQuestionAnsweringHead(TaskHead):
    """Scores [B, S, 2] of first and last token, labels [B, 2]; an answer counts with both right."""

    reads_pooled = False

    def loss(self, scores: Tensor, labels: Tensor) -> LossAndCounts:
        ends = scores.transpose(1, 2).flatten(0, 1)  # [2B, S]
        loss_sum, _, _ = _cross_entropy(ends, labels.flatten())
        is_used = labels[:, 0] >= 0
        is_right = (scores.argmax(dim=1) == labels).all(dim=1) & is_used
        return loss_sum / 2, is_used.sum(), is_right.sum()

    def distance(self, scores: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        ends, other_ends = (s.transpose(1, 2).flatten(0, 1) for s in (scores, others))  # [2B, S]
        return _divergence(ends, other_ends, labels.flatten()) / 2


class MultipleChoiceHead(TaskHead):
    """Scores [B, 1], labels [B / C]: C consecutive rows are the choices of one question.

    Labels [0]: none of the rows, however many, is a choice.
    """

    def __init__(self, name: str, config: ModelConfig, num_outputs: int, num_choices: int) -> None:
        super().__init__(name, config, num_outputs)
        self.num_choices = num_choices

    def loss(self, scores: Tensor, labels: Tensor) -> LossAndCounts:
        if not len(labels):
            scores = scores[:0]
        if scores.shape[0] != self.num_choices * labels.shape[0]:
            raise ValueError(
                f"{scores.shape[0]} rows are not {labels.shape[0]} questions of {self.num_choices} "
                "choices"
            )
        return _cross_entropy(scores.view(-1, self.num_choices), labels)

    def distance(self, scores: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        if not len(labels):
            return scores[:0].sum()
        choices, other_choices = (s.view(-1, self.num_choices) for s in (scores, others))
        return _divergence(choices, other_choices, labels)


def _divergence(scores: Tensor, others: Tensor, labels: Tensor) -> Tensor:
    return (symmetric_divergence(scores, others) * (labels >= 0)).sum()


def _cross_entropy(
    scores: Tensor, labels: Tensor, class_weights: tuple[float, ...] | None = None
) -> LossAndCounts:
    """The loss sum is divided by the number of labels: with weights too, so that each is a factor
    on its examples, whatever else is in the batch."""
    weight = None if class_weights is None else scores.new_tensor(class_weights)
    loss_sum = F.cross_entropy(scores, labels, weight, ignore_index=-100, reduction="sum")
    is_used = labels >= 0
    return loss_sum, is_used.sum(), ((scores.argmax(dim=-1) == labels) & is_used).sum()

"""Adversarial training as a choice in a config. Imports no torch.

Perturbations are added to the word vectors, before positions, segments and norm.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from configs.load import Config


class NoAdversary(Config):
    """Training on the text as it is."""

    type: Literal["none"] = "none"


class VirtualAdversary(Config):
    """Base of regularisers: the divergence between the predictions on the clean and on the
    perturbed embedding is a part of the loss.

    The defaults are those of the authors of both in github.com/namisan/mt-dnn
    (``alum/adv_masked_lm_task.py``, ``mt_dnn/perturbation.py``)."""

    steps: PositiveInt = 1
    """Ascent steps (K in the papers)."""
    step_size: PositiveFloat = 1e-3
    """Length of an ascent step: the largest change of a value in each token's vector."""
    noise: PositiveFloat = 1e-5
    """Standard deviation of the random perturbation that the ascent starts from."""
    radius: PositiveFloat | None = None
    """Largest perturbation of a value after each step (default: not bounded)."""


class Alum(VirtualAdversary):
    """ALUM (Liu et al. 2020, "Adversarial training for large neural language models"): at the
    masked positions, the symmetric KL divergence from the clean predictions."""

    type: Literal["alum"] = "alum"
    alpha: PositiveFloat = 10.0
    """Factor on the mean divergence; the mean loss has 1 (10 in pretraining, 1 in fine-tuning: Liu
    et al. 2020; ``alum/alum_train.sh`` of their code)."""


class Smart(VirtualAdversary):
    """SMART's smoothness-inducing regulariser (Jiang et al. 2020), without its proximal point
    method: symmetric KL divergence of the scores, squared error for regression."""

    type: Literal["smart"] = "smart"
    alpha: PositiveFloat = 1.0
    """Factor on the mean divergence of each task, times the weight of the task (1, 3 or 5 in the
    paper, by task; 1 by default in its code)."""


class FreeLb(Config):
    """FreeLB (Zhu et al. 2020): the gradients of the loss at every ascent step are accumulated, and
    their mean trains the weights."""

    type: Literal["freelb"] = "freelb"
    steps: PositiveInt = 2
    """Forward and backward passes of each micro-batch (K). The defaults of all three keys are those
    for MNLI and RoBERTa-large in the authors' code (github.com/zhuchen03/FreeLB,
    ``launch/FreeLB/mnli-fp32-clip.sh``); other tasks there have 2 or 3."""
    step_size: PositiveFloat = 0.1
    """Length of an ascent step: the Euclidean norm over all tokens of a row (0.025 to 0.15 in the
    authors' code, by task)."""
    radius: PositiveFloat = 0.3
    """Largest Euclidean norm of the perturbation of a row (0.2 to 0.62 there); the first one is
    drawn uniformly from (-radius, radius) divided by the root of the number of its values (Zhu et
    al. 2020, algorithm 1; their code has a range of its own there, 0.1 for MNLI)."""


PretrainingAdversary = Annotated[NoAdversary | Alum, Field(discriminator="type")]
FinetuningAdversary = Annotated[NoAdversary | FreeLb | Smart, Field(discriminator="type")]


def passes_per_step(options: NoAdversary | VirtualAdversary | FreeLb) -> float:
    """The matrix products of a step as a multiple of those without an adversary.

    A forward pass counts 1 of 3, a backward pass 2, one to the perturbation only 1.
    """
    if isinstance(options, VirtualAdversary):
        return (6 + 2 * options.steps) / 3
    return options.steps if isinstance(options, FreeLb) else 1

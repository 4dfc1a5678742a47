"""The nearest matrix with equal singular values, by Newton-Schulz iterations.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with their
coefficients, which bring singular values to about 0.7 to 1.2 in five iterations.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-7


def orthogonalised(matrices: Tensor, iterations: int) -> Tensor:
    """U V' of U S V' = each of the `matrices` [n, rows, columns], about."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + _EPS)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if is_tall else x


def orthogonalised_all(
    weights: Mapping[int, Tensor], matrices: Mapping[int, tuple[int, ...]], iterations: int
) -> dict[int, Tensor]:
    """The same of each of `weights` [rows, columns], scaled to the size of an AdamW step.

    A weight of several interleaved matrices, see `ParameterSpec.matrices`, is taken apart first.
    Matrices of one shape are computed together. The scale of 0.2 sqrt(max(rows, columns)) gives
    updates whose elements have a root mean square of about 0.2, as those of AdamW (Liu et al. 2025,
    "Muon is scalable for LLM training", section 2.2).
    """
    parts: dict[tuple[int, int], list[tuple[int, int]]] = {}
    separate = {number: _apart(weight, matrices[number]) for number, weight in weights.items()}
    for number, found in separate.items():
        for place, matrix in enumerate(found):
            parts.setdefault((matrix.shape[0], matrix.shape[1]), []).append((number, place))
    for shape, places in parts.items():
        together = torch.stack([separate[number][place] for number, place in places])
        together = orthogonalised(together, iterations).mul_(0.2 * max(shape) ** 0.5)
        for (number, place), result in zip(places, together, strict=True):
            separate[number][place] = result
    return {number: _joined(found, matrices[number]) for number, found in separate.items()}


def _apart(weight: Tensor, rows: tuple[int, ...]) -> list[Tensor]:
    """The matrices [rows of each, columns] of a weight whose blocks hold `rows` rows of each."""
    columns = weight.shape[1]
    blocks = weight.view(-1, sum(rows), columns)
    return [part.reshape(-1, columns) for part in torch.split(blocks, list(rows), dim=1)]


def _joined(matrices: list[Tensor], rows: tuple[int, ...]) -> Tensor:
    """The weight that `_apart` took apart."""
    columns = matrices[0].shape[1]
    pairs = zip(matrices, rows, strict=True)
    blocks = torch.cat([matrix.view(-1, count, columns) for matrix, count in pairs], dim=1)
    return blocks.view(-1, columns)

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
    weights: Mapping[int, Tensor], matrices: Mapping[int, tuple[int, int]], iterations: int
) -> dict[int, Tensor]:
    """The same of each of `weights` [rows, columns], scaled to the size of an AdamW step.

    A weight of several interleaved matrices, see `ParameterSpec.matrices`, is taken apart first.
    Matrices of one shape are computed together. The scale of 0.2 sqrt(max(rows, columns)) gives
    updates whose elements have a root mean square of about 0.2, as those of AdamW (Liu et al. 2025,
    "Muon is scalable for LLM training", section 2.2).
    """
    parts: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
    for number, weight in weights.items():
        count, rows = matrices[number]
        separate = weight.view(-1, count, rows, weight.shape[1]).transpose(0, 1)
        separate = separate.reshape(count, -1, weight.shape[1])  # [count, rows of each, columns]
        shape = separate.shape[1], separate.shape[2]
        parts.setdefault(shape, []).append((number, separate))
    results: dict[int, Tensor] = {}
    for shape, found in parts.items():
        together = torch.cat([separate for _, separate in found])
        together = orthogonalised(together, iterations).mul_(0.2 * max(shape) ** 0.5)
        at = 0
        for number, separate in found:
            result = together[at : at + len(separate)]
            at += len(separate)
            count, rows = matrices[number]
            blocks = result.view(count, -1, rows, shape[1]).transpose(0, 1)
            results[number] = blocks.reshape(weights[number].shape)
    return results

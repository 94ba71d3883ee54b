"""The orthogonalisation of matrices by Newton-Schulz iterations."""

import torch
from torch import Tensor

_SMALLEST_NORM = 1e-7


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """U f(S) V^T for `matrix` = U S V^T, [m, n] or stacked [e, m, n], in its type; f(S) is near one.

    The quintic iteration x <- a x + (b g + c g^2) x with g = x x^T of Muon (Jordan et al. 2024), which torch.optim.Muon
    takes on single matrices; those are computed here in its order.
    """
    a, b, c = coefficients
    add_product = torch.addmm if matrix.ndim == 2 else torch.baddbmm
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if is_tall else matrix
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=_SMALLEST_NORM)
    for _ in range(steps):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x

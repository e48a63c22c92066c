"""iALS: factorization of all cells of the interaction matrix, those observed weighted more.

Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008,
https://doi.org/10.1109/ICDM.2008.22, with the regularization of Rendle, Krichene, Zhang and Koren,
"Revisiting the Performance of iALS on Item Recommendation Benchmarks", RecSys 2022,
https://arxiv.org/abs/2110.14037. Users' and items' vectors are solved for in turn, each a least squares
problem in closed form.

``Eq. n`` refers to the numbered equations in docs/models/ials.md.

Differences: interactions have no counts, so that all observed cells have the same weight. Rendle et al. weigh
an observed cell by 1 for the target 1 and by ``unobserved_weight`` for the target 0; this is Hu et al.'s one
cell of the weight ``1 + unobserved_weight`` and the target 1, up to the scale of the scores and of
``reg_weight``. The last step is one of the users, whose vectors are then the best for the items'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphrec.core.errors import TrainingError
from graphrec.data.interactions import Interactions
from graphrec.data.query import Histories
from graphrec.models.base import ModelConfig, Ranker
from graphrec.models.search_space import Choice, Space

BLOCK = 2**20  # numbers in a block of gathered vectors: 4 MiB, and systems take no more
INITIAL_SCALE = 0.1  # of initial vectors, as Rendle et al.


class IALS(Ranker):
    """One vector per user and one per item; the score is their inner product."""

    class Config(ModelConfig):
        """Options of iALS."""

        dim: int = Field(64, ge=1)
        """Size of the vectors."""
        n_iterations: int = Field(16, ge=1)
        """Times that all users' and then all items' vectors are solved for."""
        alpha: float = Field(1.0, gt=0)
        """Weight of an observed cell beyond that of an unobserved one; only its ratio to
        ``unobserved_weight`` and ``reg_weight`` matters, so it is not searched."""
        unobserved_weight: float = Field(0.01, gt=0)
        """Weight of every cell that was not observed: the larger, the less popular items are offered."""
        reg_weight: float = Field(0.03, gt=0)
        """Penalty on squared vectors, scaled by ``reg_exponent``."""
        reg_exponent: float = Field(1.0, ge=0, le=1)
        """Exponent of the sum of weights of a user's or an item's cells, which multiplies ``reg_weight``: 0
        is the same for all, as in Hu et al., 1 is in proportion."""

    name = "ials"
    search_space: ClassVar[Space] = {
        "dim": Choice(32, 64, 128, 256),
        "n_iterations": Choice(4, 8, 16, 32),
        "unobserved_weight": Choice(0.001, 0.003, 0.01, 0.03, 0.1),
        "reg_weight": Choice(0.003, 0.01, 0.03, 0.1, 0.3),
    }
    config: Config
    users: Tensor
    items: Tensor

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__()
        self.config = config
        self.n_users = train.n_users
        self.n_items = train.n_items
        by_user = Histories(train.items, train.indptr)
        turned = Interactions(train.items, train.users, train.n_items, train.n_users)
        by_item = Histories(turned.items, turned.indptr)
        items = torch.empty(train.n_items, config.dim)
        items.normal_(std=INITIAL_SCALE / config.dim**0.5, generator=self.rng("items"))
        for _ in range(config.n_iterations):
            users = least_squares(items, by_user, config)
            items = least_squares(users, by_item, config)
        self.register_buffer("items", items)
        self.register_buffer("users", self.fold_in(by_user))

    def embed(self) -> tuple[Tensor, Tensor]:
        """Vectors of users and items ``(n_users, d), (n_items, d)``."""
        return self.users, self.items

    def fold_in(self, histories: Histories) -> Tensor:
        """Vectors ``(B, d)`` of users known by ``B`` histories: exactly those that known users with the same
        items have; zero for an empty history.
        """
        return least_squares(self.items, histories.check(self.n_items), self.config)


def least_squares(others: Tensor, histories: Histories, config: IALS.Config) -> Tensor:
    """The vectors of one side that minimize Eq. 2 for those of the other (Eq. 3).

    Args:
        others: vectors of the other side ``(n, d) float32``.
        histories: what each of ``B`` has of it, each at most once.
        config: weights and penalty.

    Returns:
        ``(B, d)``; each row depends on its own history alone.

    Raises:
        TrainingError: a system is not positive definite in float32.
    """
    n, dim = others.shape
    # In the basis of its eigenvectors the part that all systems share is diagonal.
    eigenvalues, basis = torch.linalg.eigh(config.unobserved_weight * others.T @ others)
    padded = torch.cat([others @ basis, others.new_zeros(1, dim)])  # -1, which fills up, is the last row
    total = config.alpha * histories.lengths + config.unobserved_weight * n  # weight of all cells (B,)
    penalty = torch.from_numpy(config.reg_weight * total**config.reg_exponent).to(others)  # Eq. 4
    result = others.new_zeros(len(histories), dim)
    for rows in _blocks(histories.lengths, dim):
        at = torch.from_numpy(rows)
        vectors = padded[torch.from_numpy(histories.take(rows).padded())]  # (b, length, d)
        diagonal = eigenvalues.clamp(min=0) + penalty[at, None]  # (b, d)
        if vectors.shape[1] < dim:  # one equation for each item of the history, Eq. 5
            scaled = vectors / diagonal[:, None]
            system = torch.baddbmm(_identity(vectors), scaled, vectors.mT, alpha=config.alpha)
            solved = _solve(system, vectors.new_ones(vectors.shape[:2]), config)
            result[at] = (scaled * solved[..., None]).sum(1)
        else:
            system = torch.baddbmm(torch.diag_embed(diagonal), vectors.mT, vectors, alpha=config.alpha)
            result[at] = _solve(system, vectors.sum(1), config)
    result *= config.alpha + config.unobserved_weight
    in_first_basis: Tensor = result @ basis.T
    return in_first_basis


def _identity(vectors: Tensor) -> Tensor:
    return torch.eye(vectors.shape[1])[None].to(vectors)


def _solve(systems: Tensor, targets: Tensor, config: IALS.Config) -> Tensor:
    """Solutions ``(b, n)`` of symmetric systems ``(b, n, n)`` with targets ``(b, n)``."""
    factors, failed = torch.linalg.cholesky_ex(systems)
    if failed.any():
        raise TrainingError(
            f"iALS: {int((failed > 0).sum())} of {len(systems)} systems of {systems.shape[1]} equations are "
            f"not positive definite in float32 with reg_weight={config.reg_weight:g}; raise reg_weight, or "
            "lower dim"
        )
    return torch.cholesky_solve(targets[..., None], factors)[..., 0]


def _blocks(lengths: np.ndarray, dim: int) -> Iterator[np.ndarray]:
    """Rows that have a history, in blocks of similar lengths, so that little is filled up."""
    order = np.argsort(lengths, kind="stable")
    order = order[np.searchsorted(lengths[order], 1) :]
    while len(order):
        # The longest comes last: take as many of the longest as fit.
        count = max(1, BLOCK // (dim * int(lengths[order[-1]])))
        yield order[-count:]
        order = order[:-count]

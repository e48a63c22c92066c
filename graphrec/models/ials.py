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

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.models.base import ModelConfig, Ranker
from graphrec.models.factorization import alternating_least_squares
from graphrec.models.fold_in import FoldIn, LeastSquaresFoldIn
from graphrec.models.search_space import Choice, Space


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
        self.rule = LeastSquaresFoldIn(
            config.alpha, config.unobserved_weight, config.reg_weight, config.reg_exponent
        )
        users, items = alternating_least_squares(
            train, config.dim, config.n_iterations, self.rule, self.rng("items")
        )
        self.register_buffer("users", users)
        self.register_buffer("items", items)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Vectors of users and items ``(n_users, d), (n_items, d)``."""
        return self.users, self.items

    def fold_in(self) -> FoldIn:
        """Exact: users known by a list have the vectors that known users with the same items have."""
        return self.rule

"""Popularity: every user is offered what most users took. The floor that every model has to beat."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from graphrec.data.dataset import Dataset
from graphrec.models.base import Features, ModelConfig, Ranker


class Popularity(Ranker):
    """Scores an item by its number of train interactions. There is nothing to train."""

    class Config(ModelConfig):
        """Popularity has no options of its own."""

    name = "popularity"
    personalized = False
    count: Tensor

    def __init__(self, n_users: int, count: Tensor, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.n_users, self.n_items = config, n_users, len(count)
        self.register_buffer("count", count.float())  # (n_items,)

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; features are not used."""
        return cls(data.n_users, torch.from_numpy(data.train.item_degree.copy()), config or cls.Config())

    def embed(self) -> tuple[Tensor, Tensor]:
        """Ones ``(n_users, 1)`` and counts ``(n_items, 1)``."""
        return self.count.new_ones(self.n_users, 1), self.count[:, None]

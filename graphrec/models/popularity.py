"""Popularity: every user is offered what most users took, or took lately. The floor that every model has to
beat.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from graphrec.core.errors import DataError
from graphrec.data.dataset import Dataset
from graphrec.models.base import Features, ModelConfig, Ranker


class Popularity(Ranker):
    """Scores an item by its number of train interactions, old ones counted less with ``half_life``. There is
    nothing to train.
    """

    class Config(ModelConfig):
        """Options of popularity."""

        half_life: float | None = Field(None, gt=0)
        """Days before the newest train interaction in which the weight of an interaction halves; None counts
        all alike."""

    name = "popularity"
    personalized = False
    count: Tensor

    def __init__(self, n_users: int, count: Tensor, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.n_users, self.n_items = config, n_users, len(count)
        self.register_buffer("count", count.float())  # (n_items,)

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; features are not used.

        Raises:
            DataError: ``half_life`` is set and the interactions have no times.
        """
        config = config or cls.Config()
        count = data.train.item_degree.copy()
        if config.half_life is not None:
            if data.train.times is None:
                raise DataError(
                    f"{data.name}: half_life={config.half_life} needs times, but the interactions have none; "
                    "set a time column, or half_life=null"
                )
            count = data.train.recent_degree(config.half_life)
        return cls(data.n_users, torch.from_numpy(count), config)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Ones ``(n_users, 1)`` and counts ``(n_items, 1)``."""
        return self.count.new_ones(self.n_users, 1), self.count[:, None]

"""EASE and EDLAE: a linear autoencoder over items in closed form.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, https://arxiv.org/abs/1905.03375:
each item is regressed on all others by ridge regression, the diagonal held at zero. With ``dropout`` it is
the regression of Steck, "Autoencoders that don't overfit towards the Identity", NeurIPS 2020,
https://proceedings.neurips.cc/paper/2020/hash/e33d974aae13e4d877477d51d8bafdc4-Abstract.html, trained on
histories from which a share of the items is left out: popular items are shrunk more. There is no training
loop and no seed.

``Eq. n`` refers to the numbered equations in docs/models/ease.md.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from graphrec.data.interactions import Interactions
from graphrec.models.gram import RegressionConfig, inverse_gram, penalty
from graphrec.models.regression import RegressionRanker, largest_weights
from graphrec.models.search_space import Choice, Space


class EASE(RegressionRanker):
    """Ridge regression of each item on all others."""

    class Config(RegressionConfig):
        """Options of EASE."""

    name = "ease"
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
        "dropout": Choice(0.0, 0.2, 0.4, 0.6),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        diagonal = penalty(train, config)
        if config.solver == "columns":
            self.weights = largest_weights(self.history, diagonal, config).graph()
            return
        matrix = inverse_gram(train, diagonal, config)  # P of Eq. 2, becomes B in place
        matrix /= -np.diag(matrix)  # column j by P_jj, Eq. 3
        np.fill_diagonal(matrix, 0)
        self.register_buffer("weights", torch.from_numpy(matrix).float(), persistent=False)

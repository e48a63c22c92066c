"""SimGCL: LightGCN with a contrast between two views that differ by noise on the embeddings.

Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation", SIGIR
2022, https://arxiv.org/abs/2112.08679. Noise of a given length is added after each layer; the readout leaves
the ID embeddings out, at inference too.

Defaults are those of the authors' code (SELFRec) but for ``contrast_weight``. Difference: BPR is computed
with softplus, where the code adds 1e-5 to the sigmoid. SSLRec's version is ``readout="sum"``, ``pool="all"``
and ``regularizer="all_squares"``.

The noise carries no gradient, so both views have the gradient of the propagation without noise: they are
computed without a graph of their own and added to it as constants, which saves two of three backward passes.

``Eq. n`` refers to the numbered equations in docs/models/simgcl.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import bipartite
from graphrec.models.batches import EpochContext, SeededTriplets
from graphrec.models.losses import InfoNCE, bpr, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import (
    Readout,
    Regularizer,
    SelfSupervisedConfig,
    SelfSupervisedRanker,
    Step,
    combine,
    contrast,
    noisy_layers,
    uniform_noise,
    with_gradient_of,
)


class SimGCL(SelfSupervisedRanker):
    """Propagated ID embeddings, contrasted between two noisy views."""

    class Config(SelfSupervisedConfig):
        """Options of SimGCL."""

        readout: Readout = "layers"
        """Final embeddings: the mean of the ``layers`` without the ID embeddings, the ``mean`` with them, or
        their ``sum``."""
        contrast_weight: float = Field(0.1, ge=0)
        """Weight of the contrast between the views. The authors' 0.5 for Yelp2018 spreads the few items of a
        small catalog so much that nothing is learned."""
        noise: float = Field(0.1, ge=0)
        """Length of the noise added to each embedding after each layer."""
        regularizer: Regularizer = "final_norms"
        """By default the norms of the final embeddings of users and positives; the other choices are
        those of SGL."""

    name = "simgcl"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 3),
        "contrast_weight": Choice(0.01, 0.05, 0.1, 0.2, 0.5, 1.0),
        "noise": Choice(0.01, 0.05, 0.1, 0.2),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.contrast = InfoNCE(config.temperature)

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with negatives and a seed for the noise."""
        return self.sampler.seeded_triplets(plan, "noise")

    def step(self, batch: SeededTriplets) -> Step:
        """``bpr`` on final embeddings, ``contrast`` of the views and ``reg`` (Eqs. 3 to 5)."""
        users, items = self.final(self.graph)
        final = BatchEmbeddings.lookup(batch, users, items)
        n_layers = self.config.n_layers
        noise = uniform_noise(batch.key, 2 * n_layers, (self.n_users + self.n_items, self.config.dim))
        with torch.no_grad():
            views = [self.view(noise[:n_layers]), self.view(noise[n_layers:])]
        one, other = (view.split([self.n_users, self.n_items]) for view in views)
        total = users.new_zeros(())
        for table, in_one, in_other, ids in (
            (users, one[0], other[0], batch.users),
            (items, one[1], other[1], batch.positives),
        ):
            # The noise is a constant: the gradient is that of the propagation without it.
            pair = with_gradient_of(table, in_one), with_gradient_of(table, in_other)
            total = total + contrast(self.contrast, *pair, ids, self.config.pool)
        losses = {
            "bpr": bpr(score_difference(*final)),
            "contrast": self.config.contrast_weight * total,
            "reg": self.regularization(BatchEmbeddings.lookup(batch, *self.id_embeddings), final),
        }
        return Step(users, items, losses)

    def view(self, noise: list[Tensor]) -> Tensor:
        """Final embeddings with noise ``(n_users + n_items, d)`` (Eqs. 1 and 2)."""
        found = noisy_layers(self.graph, torch.cat(self.id_embeddings), noise, self.config.noise)
        return combine(found, self.config.readout)

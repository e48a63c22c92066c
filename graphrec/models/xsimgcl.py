"""XSimGCL: one noisy propagation for both the ranking loss and the contrast between layers.

Yu et al., "XSimGCL: Towards Extremely Simple Graph Contrastive Learning for Recommendation", TKDE 2023,
https://arxiv.org/abs/2209.02544. The final embeddings of a noisy propagation are contrasted with one of its
layers, so that a step takes a single propagation.

Defaults are those of the authors' code (SELFRec). Difference: BPR is computed with softplus, where the code
adds 1e-5 to the sigmoid.

``Eq. n`` refers to the numbered equations in docs/models/simgcl.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator

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
)


class XSimGCL(SelfSupervisedRanker):
    """Noisy propagated ID embeddings, contrasted with one of their layers."""

    class Config(SelfSupervisedConfig):
        """Options of XSimGCL."""

        readout: Readout = "layers"
        """Final embeddings: the mean of the ``layers`` without the ID embeddings, the ``mean`` with them, or
        their ``sum``."""
        contrast_weight: float = Field(0.2, ge=0)
        """Weight of the contrast."""
        contrast_layer: int = Field(1, ge=0)
        """The layer that final embeddings are contrasted with; 0 is the ID embeddings."""
        temperature: float = Field(0.15, gt=0)
        """Temperature of the contrast."""
        noise: float = Field(0.2, ge=0)
        """Length of the noise added to each embedding after each layer."""
        regularizer: Regularizer = "final_norms"
        """By default the norms of the final embeddings of users and positives; the other choices are
        those of SGL."""

        @model_validator(mode="after")
        def _layer_is_there(self) -> Self:
            if self.contrast_layer > self.n_layers:
                raise ValueError(
                    f"contrast_layer={self.contrast_layer} with n_layers={self.n_layers}; expected at most "
                    "as many"
                )
            return self

    name = "xsimgcl"
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
        """``bpr`` on noisy final embeddings, ``contrast`` with one of their layers, and ``reg`` (Eq. 6)."""
        c = self.config
        noise = uniform_noise(batch.key, c.n_layers, (self.n_users + self.n_items, c.dim))
        found = noisy_layers(self.graph, torch.cat(self.id_embeddings), noise, c.noise)
        users, items = combine(found, c.readout).split([self.n_users, self.n_items])
        layer_users, layer_items = found[c.contrast_layer].split([self.n_users, self.n_items])
        final = BatchEmbeddings.lookup(batch, users, items)
        contrasts = contrast(self.contrast, users, layer_users, batch.users, c.pool)
        contrasts = contrasts + contrast(self.contrast, items, layer_items, batch.positives, c.pool)
        losses = {
            "bpr": bpr(score_difference(*final)),
            "contrast": c.contrast_weight * contrasts,
            "reg": self.regularization(BatchEmbeddings.lookup(batch, *self.id_embeddings), final),
        }
        return Step(users, items, losses)

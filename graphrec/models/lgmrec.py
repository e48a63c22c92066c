"""LGMRec: content propagated over the user-item graph, and hyperedges that content decides on.

Guo et al., "LGMRec: Local and Global Graph Learning for Multimodal Recommendation", AAAI 2024,
https://arxiv.org/abs/2312.16400. Final embeddings are the sum of LightGCN's, of projected content after
propagation in each modality, and of what passes through a few hyperedges, to which items belong by their
content and users by that of their items. Hyperedges of different modalities are to agree on a node.

``Eq. n`` refers to the numbered equations in docs/models/lgmrec.md.

Differences from the authors' code:
- scores come without Gumbel noise; the code draws it anew whenever it evaluates, so that the same weights
  give other scores each time (``noisy_scores`` keeps one draw);
- the contrast is the mean over the batch; the code's is the sum, whose weight grows with the batch;
- any number of modalities: the contrast is the mean over their pairs;
- an item without a modality adds nothing to it and belongs to none of its hyperedges, as users without items
  that have it, or it is filled (``fill``);
- items without train interactions get the embedding of their content neighbors; the code leaves them what
  their content alone gives (``cold_items="as_trained"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from graphrec.core.random import derive_seed
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import bipartite, items_to_users
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import EpochContext, PreferencesConfig, SeededTriplets
from graphrec.models.layers import ItemFeatures, projection, propagate_tables
from graphrec.models.losses import InfoNCE, bpr, embedding_norms, score_difference
from graphrec.models.multimodal import ColdItems, MultimodalConfig, MultimodalRanker
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker
from graphrec.models.search_space import Choice, Space
from graphrec.models.self_supervision import contrast, gumbel, hypergraph, uniform_noise


class Draws(NamedTuple):
    """What is drawn of a batch's hyperedges, for each modality.

    Attributes:
        noise: Gumbel noise of each node's membership ``(n_users + n_items, K)``.
        factors: 0 where dropout leaves a membership out, else what it is scaled by, likewise; None: no
            dropout.
    """

    noise: list[Tensor]
    factors: list[Tensor] | None = None


class Step(NamedTuple):
    """Embeddings of all nodes, users first.

    Attributes:
        behavior: LightGCN's ``(n_users + n_items, d)``.
        content: propagated content of each modality ``(n_users + n_items, d)``.
        hyper: what passes through the hyperedges of each modality ``(n_users + n_items, d)``.
    """

    behavior: Tensor
    content: list[Tensor]
    hyper: list[Tensor]


class LGMRec(MultimodalRanker, EmbeddingRanker):
    """LightGCN, propagated content, and hyperedges by content."""

    class Config(PreferencesConfig, MultimodalConfig):
        """Options of LGMRec; the defaults are the authors' for Amazon Baby."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_ui_layers: int = Field(2, ge=0)
        """Layers of ID embeddings on the user-item graph."""
        n_mm_layers: int = Field(2, ge=0)
        """Layers of projected content on the user-item graph, the last of which is used."""
        n_hyper_layers: int = Field(1, ge=1)
        """Layers of the hypergraph."""
        n_hyperedges: int = Field(4, ge=1)
        """Hyperedges of each modality."""
        membership_temperature: float = Field(0.2, gt=0)
        """Temperature of the softmax by which a node belongs to hyperedges."""
        keep: float = Field(0.5, gt=0, le=1)
        """Share of the memberships that dropout keeps while training."""
        alpha: float = Field(0.3, ge=0)
        """Length of what the hyperedges add to an embedding."""
        cl_weight: float = Field(0.2, ge=0)
        """Weight of the contrast between the hyperedges of two modalities, a mean over the batch. The
        authors' 1e-4 is of a sum over 2,048 rows."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of the contrast."""
        reg_weight: float = Field(1e-6, ge=0)
        """Weight of the norms of the batch's embeddings."""
        noisy_scores: bool = False
        """Add Gumbel noise to memberships for scores as well: one draw, which follows from ``seed``."""
        knn_k: int = Field(10, ge=1)
        """Content neighbors per modality from which items without train interactions are placed."""
        cold_items: Literal["neighbors", "as_trained"] = "neighbors"
        """Embedding of items without train interactions: that of their content neighbors, or what is left of
        the model without interactions."""

    name = "lgmrec"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "alpha": Choice(0.1, 0.2, 0.3, 0.6, 1.0),
        "n_hyperedges": Choice(4, 16, 64),
        "keep": Choice(0.2, 0.5, 0.8),
        "cl_weight": Choice(0.02, 0.2, 2.0),
        "train.learning_rate": Choice(5e-4, 1e-3, 2e-3),
    }
    config: Config
    known: Tensor
    degree: Tensor

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        # Sums over a user's items; means and normalization follow.
        weighted = items_to_users(train)
        self.sums = weighted.weighted(torch.ones_like(weighted.weight))
        self.features = nn.ModuleDict(
            {m: ItemFeatures(t, fill=config.fill, train=train) for m, t in features.items()}
        )
        widths = {m: table.dim for m, table in features.items()}
        self.projections = nn.ModuleDict(
            {m: projection(width, config.dim, self.rng(f"projections/{m}")) for m, width in widths.items()}
        )
        self.hyperedges = nn.ModuleDict(
            {
                m: projection(width, config.n_hyperedges, self.rng(f"hyperedges/{m}"))
                for m, width in widths.items()
            }
        )
        present = torch.stack([cast(ItemFeatures, f).present for f in self.features.values()], 1)
        degree = self.sums @ present.float()  # (n_users, M)
        self.register_buffer("degree", degree.clamp(min=1), persistent=False)
        self.register_buffer("known", torch.cat([degree > 0, present]), persistent=False)
        self.all_known = [bool(side.all()) for side in self.known.split([self.n_users, self.n_items])]
        self.contrast = InfoNCE(config.temperature)
        self.cold_start_rule = ContentRule(dict.fromkeys(features, 1 / len(features)), config.knn_k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with one uniform negative and a seed for the hyperedges."""
        return self.sampler.seeded_triplets(plan, "hyperedges")

    def draw(self, key: Tensor, dropout: bool = True) -> Draws:
        """Noise, and what dropout leaves of memberships, a function of a seed ``() int64``.

        Args:
            key: the seed.
            dropout: False leaves all memberships as they are.
        """
        n_modalities, keep = len(self.features), self.config.keep
        n_tables = 2 * n_modalities if dropout and keep < 1 else n_modalities
        tables = uniform_noise(key, n_tables, (self.n_users + self.n_items, self.config.n_hyperedges))
        noise = [gumbel(x) for x in tables[:n_modalities]]
        factors = [(x < keep) / keep for x in tables[n_modalities:]]
        return Draws(noise, factors or None)

    def project(self) -> tuple[Tensor, Tensor]:
        """Content of all nodes: projected, users with the mean of their items ``(n_users + n_items, M d)``,
        and what makes them part of hyperedges, users with the sum ``(n_users + n_items, M K)`` (Eqs. 2 and
        4). Modalities stand side by side.
        """
        dim, n_hyperedges = self.config.dim, self.config.n_hyperedges
        projected, logits = [], []
        for m, module in self.features.items():
            layers = cast(nn.Linear, self.projections[m]), cast(nn.Linear, self.hyperedges[m])
            weight = torch.cat([layer.weight for layer in layers])  # one pass over the features
            both = nn.functional.linear(cast(ItemFeatures, module).values, weight)
            projected.append(both[:, :dim])
            logits.append(both[:, dim:])
        items = torch.cat(projected + logits, 1)  # (n_items, M (d + K))
        widths = [len(projected) * dim, len(projected) * n_hyperedges]
        content, memberships = items.split(widths, 1)
        content_sums, membership_sums = (self.sums @ items).split(widths, 1)
        means = content_sums / self.degree.repeat_interleave(dim, 1)
        return torch.cat([means, content]), torch.cat([membership_sums, memberships])

    def incidence(self, logits: Tensor, draws: Draws | None) -> list[Tensor]:
        """How much each node belongs to the hyperedges of each modality ``(n_users + n_items, K)`` (Eq. 5).

        Args:
            logits: ``(n_users + n_items, M K)``.
            draws: noise and dropout; None: there are none.
        """
        found = []
        for number, h in enumerate(logits.split(self.config.n_hyperedges, 1)):
            noisy = h if draws is None else h + draws.noise[number]
            share = (noisy / self.config.membership_temperature).softmax(1)
            if not all(self.all_known):
                share = torch.where(self.known[:, number, None], share, 0)
            found.append(share if draws is None or draws.factors is None else share * draws.factors[number])
        return found

    def propagate(self, draws: Draws | None) -> Step:
        """What final embeddings are made of (Eqs. 1-7)."""
        c = self.config
        sizes = [self.n_users, self.n_items]
        _, items = behavior = propagate_tables(self.graph, *self.id_embeddings, c.n_ui_layers)
        content, logits = self.project()
        for _ in range(c.n_mm_layers):
            content = self.graph @ content
        hyper = []
        for share in self.incidence(logits, draws):
            _, of_items = share.split(sizes)
            x = items
            for _ in range(c.n_hyper_layers - 1):
                x = hypergraph(of_items, x)
            hyper.append(share @ (of_items.T @ x))  # users hear from hyperedges, and tell them nothing
        return Step(torch.cat(behavior), list(content.split(c.dim, 1)), hyper)

    def final(self, step: Step) -> tuple[Tensor, Tensor]:
        """Final embeddings ``(n_users, d), (n_items, d)`` (Eq. 8)."""
        total = step.behavior + self.config.alpha * normalize(torch.stack(step.hyper).sum(0), dim=1)
        for content in step.content:
            total = total + normalize(content, dim=1)
        users, items = total.split([self.n_users, self.n_items])
        return users, items

    def agreement(self, hyper: list[Tensor], side: Literal["users", "items"], ids: Tensor) -> Tensor:
        """The contrast between the hyperedges of two modalities, the mean over pairs of them (Eq. 9). Of
        nodes that lack one of two modalities nothing is asked.

        Args:
            hyper: see :class:`Step`.
            side: of the nodes.
            ids: users or items of the batch ``(B,) int64``.
        """
        number = ("users", "items").index(side)
        sizes = [self.n_users, self.n_items]
        tables = [x.split(sizes)[number] for x in hyper]
        known = self.known.split(sizes)[number]
        values = []
        for one, other in combinations(range(len(tables)), 2):
            a, b, own = tables[one], tables[other], ids
            if not self.all_known[number]:
                both = known[:, one] & known[:, other]  # (n,)
                rows = both.nonzero().squeeze(1)
                a, b, own = a[rows], b[rows], (both.cumsum(0) - 1)[ids[both[ids]]]
            values.append(contrast(self.contrast, a, b, own, "all"))
        return torch.stack(values).mean()

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` and ``reg`` on the final embeddings, ``contrast_users`` and ``contrast_items`` between
        hyperedges (Eqs. 9 and 10).
        """
        step = self.propagate(self.draw(batch.key))
        final = BatchEmbeddings.lookup(batch, *self.final(step))
        terms = {
            "bpr": bpr(score_difference(*final)),
            "reg": self.config.reg_weight * embedding_norms(*final),
        }
        if self.config.cl_weight and len(step.hyper) > 1:
            weight = self.config.cl_weight
            terms["contrast_users"] = weight * self.agreement(step.hyper, "users", batch.users)
            terms["contrast_items"] = weight * self.agreement(step.hyper, "items", batch.positives)
        return terms

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings without dropout, and without noise unless ``noisy_scores``; cold items by their
        neighbors.
        """
        draws = None
        if self.config.noisy_scores:
            seed = derive_seed(self.config.seed, "hyperedges/scores")
            draws = self.draw(torch.tensor(seed, device=self.known.device), dropout=False)
        users, items = self.final(self.propagate(draws))
        return users, self.cold_items(items)

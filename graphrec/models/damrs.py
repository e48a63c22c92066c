"""DA-MRS: item graphs without neighbors that modalities disagree on, and positives weighted by agreement.

Xv et al., "Improving Multi-modal Recommender Systems by Denoising and Aligning Multi-modal Content and User
Feedback", KDD 2024, https://arxiv.org/abs/2406.12501. LightGCN's item embeddings, plus the mean of
convolutions over frozen item graphs: one for each modality and one of items that users take together. The
ranking loss trusts a positive as far as these views agree on it; two more losses align the views with each
other and with behavior.

``Eq. n`` refers to the numbered equations in docs/models/damrs.md.

Differences from the authors' code:
- co-occurrence is a sparse product; the code compares the users of all pairs of items. Of items that share
  equally many users those with the lowest number are neighbors; the code leaves it to its sorting;
- the two-sided divergence and the logarithms are in forms that do not overflow; the code gives NaN where a
  probability rounds to 1;
- any number of modalities; two items that do not both have a modality are not parted by it. An item's mean is
  over the graphs that it is in, or items are filled (``fill``);
- items without train interactions get the embedding of their content neighbors; the code leaves them at
  what initialization and their neighbors' gradients made of them (``cold_items="as_trained"``).
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, logsigmoid, normalize

from graphrec.core import distributed
from graphrec.data.interactions import Interactions
from graphrec.graphs.agreed_neighbors import Vectors, agreed_neighbors
from graphrec.graphs.cooccurrence import cooccurrence_graph
from graphrec.graphs.graph import bipartite, normalize_weights
from graphrec.graphs.nearest import unit_length
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import PreferencesConfig, Triplets
from graphrec.models.fold_in import FoldIn
from graphrec.models.layers import propagate_tables
from graphrec.models.losses import score_difference
from graphrec.models.multimodal import ColdItems, MultimodalConfig, MultimodalRanker, filled
from graphrec.models.neighbor_discrimination import NeighborDiscrimination
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import distinct_ids


class Step(NamedTuple):
    """What embeddings are made of.

    Attributes:
        users: LightGCN's ``(n_users, d)``.
        items: LightGCN's ``(n_items, d)``.
        views: of each modality, then of co-occurrence ``(n_items, d)``.
        mean: over the views that an item has ``(n_items, d)``.
    """

    users: Tensor
    items: Tensor
    views: list[Tensor]
    mean: Tensor


class DAMRS(MultimodalRanker, EmbeddingRanker):
    """LightGCN plus the mean of views on denoised item graphs, with positives weighted by agreement."""

    class Config(PreferencesConfig, MultimodalConfig):
        """Options of DA-MRS; the defaults are the authors'."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_ui_layers: int = Field(2, ge=0)
        """Layers on the user-item graph."""
        n_mm_layers: int = Field(1, ge=1)
        """Layers on the item graphs."""
        knn_k: int = Field(10, ge=1)
        """Most neighbors per item and modality, the item itself included."""
        n_cooccurring: int = Field(2, ge=0)
        """Most neighbors per item by common users, besides the item itself."""
        least_cooccurrence: int = Field(2, ge=1)
        """Users that two items must have in common to be neighbors."""
        neighbor_weight: float = Field(1e-3, ge=0)
        """Weight of the discrimination of items by their neighbors, the mean over the views."""
        n_positives: int = Field(10, ge=1)
        """Neighbors that views have in common, and that are special to one, in that loss."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of that loss."""
        kl_weight: float = Field(1.0, ge=0)
        """Weight of the divergence between scores by behavior and by the views."""
        cold_items: Literal["neighbors", "as_trained"] = "neighbors"
        """Embedding of items without train interactions."""

    name = "damrs"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_ui_layers": Integers(1, 3),
        "neighbor_weight": Choice(0.0, 1e-4, 1e-3, 1e-2),
        "kl_weight": Choice(0.01, 0.1, 1.0, 10.0),
        "train.learning_rate": Choice(5e-4, 1e-3, 2e-3),
    }
    config: Config
    known: Tensor

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.fields = tuple(features)
        vectors = []
        for table in features.values():
            values, usable = filled(table, config.fill, train)
            own = torch.from_numpy(table.present.copy())
            vectors.append(Vectors(unit_length(torch.from_numpy(values)), own, torch.from_numpy(usable)))
        graphs = agreed_neighbors(vectors, config.knn_k)  # Eq. 1
        graphs.append(cooccurrence_graph(train, config.n_cooccurring, config.least_cooccurrence))  # Eq. 2
        self.item_graphs = nn.ModuleList([normalize_weights(graph, "symmetric") for graph in graphs])
        known = torch.stack([v.usable for v in vectors] + [torch.ones(self.n_items, dtype=torch.bool)], 1)
        self.register_buffer("known", known, persistent=False)  # (n_items, M + 1)
        self.discrimination = NeighborDiscrimination(config.n_positives, config.temperature)
        self.cold_start_rule = ContentRule(dict.fromkeys(features, 1 / len(features)), config.knn_k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def propagate(self) -> Step:
        """LightGCN's embeddings and the views of items (Eqs. 3 and 4)."""
        views = []
        for graph in self.item_graphs:
            h = self.item_embedding.weight
            for _ in range(self.config.n_mm_layers):
                h = graph(h)
            views.append(h)
        mean = torch.stack(views).sum(0) / self.known.sum(1, keepdim=True)
        return Step(*propagate_tables(self.graph, *self.id_embeddings, self.config.n_ui_layers), views, mean)

    @torch.no_grad()
    def trust(self, step: Step, batch: Triplets) -> tuple[Tensor, Tensor]:
        """Weights of a batch's positives as such, and as if they were the negatives ``(B,)`` each (Eqs. 7 and
        8).
        """
        users = embedding(batch.users, step.users)
        positive, negative = (
            torch.stack(
                [(users * normalize(embedding(items, view), dim=1)).sum(1) for view in step.views], 1
            ).sigmoid()
            for items in (batch.positives, batch.negatives)
        )  # (B, M + 1)
        known = self.known[batch.positives]
        count = known.sum(1)
        mean = (positive * known).sum(1) / count
        variance = ((positive - mean[:, None]).square() * known).sum(1) / (count - 1).clamp(min=1)
        as_positive = (mean * (-2 * variance).exp()).clamp(0, 1)
        known_negative = self.known[batch.negatives]
        sums = torch.stack([(negative * known_negative).sum(), known_negative.sum()])
        total, n = distributed.all_reduce_sum(sums)
        usual = total / n
        largest = torch.where(known, positive, 0).amax(1)
        as_negative = torch.where(mean < usual, (largest - usual).clamp(0, 1), 0)
        return as_positive, as_negative

    def divergence(self, step: Step, batch: Triplets) -> Tensor:
        """``mean KL(p, q) + KL(q, p)`` of the batch's users with its items, where ``p`` is what behavior says
        and ``q`` the mean of the views (Eq. 6).
        """
        users, own = distinct_ids(batch.users)
        items, _ = distinct_ids(torch.cat([batch.positives, batch.negatives]))
        u = embedding(users[own], step.users)
        behavior, views = (
            u @ normalize(embedding(items, table), dim=1).T for table in (step.items, step.mean)
        )  # (n, m) logits
        # The logarithms of both divergences add up to the difference of the logits.
        both = (behavior.sigmoid() - views.sigmoid()) * (behavior - views)
        return distributed.all_reduce_sum(both.sum()) / (len(users) * len(items))

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` with weights, ``align`` of views with behavior, and ``neighbors_<modality>`` and
        ``co_neighbors`` of the views (Eqs. 5-9).
        """
        step = self.propagate()
        final = BatchEmbeddings.lookup(batch, step.users, step.items + step.mean)
        difference = score_difference(*final)
        as_positive, as_negative = self.trust(step, batch)
        likelihood = as_positive * logsigmoid(difference) + as_negative * logsigmoid(-difference)
        terms = {"bpr": -distributed.global_mean(likelihood)}
        c = self.config
        if c.kl_weight:
            terms["align"] = c.kl_weight * self.divergence(step, batch)
        if c.neighbor_weight:
            items, own = distinct_ids(torch.cat([batch.positives, batch.negatives]))
            values = self.discrimination(step.views, self.known, items[own])
            names = [*(f"neighbors_{m}" for m in self.fields), "co_neighbors"]
            for name, value in zip(names, values, strict=True):
                terms[name] = c.neighbor_weight / len(values) * value
        return terms

    def fold_in(self) -> FoldIn:
        """That of LightGCN; cold items by their content neighbors."""
        return self.propagated_fold_in(self.graph, self.config.n_ui_layers, self.cold_items)

    def embed(self) -> tuple[Tensor, Tensor]:
        """LightGCN's embeddings, those of items plus the mean of their views (Eq. 4); cold items by their
        neighbors.
        """
        step = self.propagate()
        return step.users, self.cold_items(step.items + step.mean)

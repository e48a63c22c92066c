"""MICRO: an item graph learned from each modality, their fusion, and a contrast of each with it.

Zhang et al., "Latent Structure Mining with Contrastive Modality Fusion for Multimedia Recommendation", TKDE
2023, https://arxiv.org/abs/2111.00678. LATTICE with the modalities kept apart: ID embeddings of items pass
over the graph of each, attention fuses what they become, and in every modality an item is to be nearer to its
own fusion than to other items.

``Eq. n`` refers to the numbered equations in docs/models/micro.md.

Differences from the authors' code:
- graphs are sparse from the start; the code fills matrices of items x items. The numbers are the same;
- neighbors of negative cosine get weight 0; the code keeps them and divides by the root of what may be a
  negative sum;
- features are frozen; the code trains them, once an epoch as the projections;
- the regularizer is divided by the size of the batch at hand; the code divides by the size of a full one;
- the contrast may be over some items that are drawn for each batch (``contrast_sample``);
- any number of modalities; items without one are left out of its graphs and of its contrast, and their fusion
  is over the modalities that they have, or they are filled (``fill``). A single modality is not contrasted;
- items without train interactions get the embedding of their content neighbors; the code leaves them at
  what initialization and their neighbors' gradients made of them (``cold_items="as_trained"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from graphrec.core import distributed
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, normalize_weights, union
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import EpochContext, SeededTriplets, seeded
from graphrec.models.content_views import ModalityAttention
from graphrec.models.layers import propagate_tables
from graphrec.models.learned_graphs import LearnedGraphConfig, LearnedView, self_looped, symmetric_weights
from graphrec.models.losses import InfoNCE, bpr, half_squares, score_difference
from graphrec.models.multimodal import ColdItems, MultimodalRanker, item_graph
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space


class MICRO(MultimodalRanker, EmbeddingRanker):
    """LightGCN plus a fusion of convolutions on item graphs that are learned along with it."""

    class Config(LearnedGraphConfig):
        """Options of MICRO; the defaults are the authors'."""

        n_layers: int = Field(1, ge=1)
        """Layers on the item graphs."""
        cl_weight: float = Field(0.03, ge=0)
        """Weight of the contrast of each modality with the fusion."""
        temperature: float = Field(0.5, gt=0)
        """Temperature of the contrast."""
        contrast_sample: int | None = Field(None, ge=1)
        """Items that the contrast of a step is over, drawn for each batch; None: all of them, which takes
        time in proportion to their square."""
        sampling: Literal["users", "interactions"] = "users"
        """What an epoch is drawn from: users, who count equally however many items they have, or every
        interaction once."""

    name = "micro"
    data_parallel = "batches"
    train_defaults: ClassVar = {"schedule": "exponential", "learning_rate": 5e-4, "batch_size": 1024}
    search_space: ClassVar[Space] = {
        "n_ui_layers": Integers(1, 3),
        "cl_weight": Choice(0.003, 0.01, 0.03, 0.1),
        "reg_weight": Choice(0.0, 1e-5, 1e-4, 1e-3),
        "train.learning_rate": Choice(1e-4, 5e-4, 1e-3),
    }
    config: Config
    known: Tensor

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, config)
        self.user_item_graph = self_looped(train)  # Eq. 6

        k, cache, fill = config.knn_k, config.graph_cache, config.fill
        self.original_graphs = nn.ModuleDict(
            {
                m: normalize_weights(
                    item_graph(t, k, weight="cosine", cache=cache, fill=fill, train=train), "symmetric"
                )
                for m, t in features.items()
            }
        )  # Eqs. 1 and 2
        self.views = nn.ModuleDict(
            {m: LearnedView(t, config, train, self.rng(m)) for m, t in features.items()}
        )
        present = [cast(LearnedView, view).features.present for view in self.views.values()]
        self.register_buffer("known", torch.stack(present, 1), persistent=False)  # (n_items, M)
        self.attention = ModalityAttention(config.dim, self.rng("attention"))
        self.epoch_graphs: list[Graph] | None = None
        self.contrast = InfoNCE(config.temperature)

        self.cold_start_rule = ContentRule(dict.fromkeys(features, 1 / len(features)), k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Drops the item graphs, so that the epoch's first batch rebuilds them."""
        self.epoch_graphs = None

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """One uniform negative for an item of each user in a batch, or for every train interaction once; and
        a seed for the items of the contrast.
        """
        if self.config.sampling == "interactions":
            return self.sampler.seeded_triplets(plan, "contrast")
        return seeded((batch for batch, _ in self.sampler.user_triplets(plan)), plan, "contrast")

    def latent_graphs(self) -> list[Graph]:
        """The item graph of each modality by current parameters; its weights carry a gradient (Eq. 3)."""
        original_weight = self.config.original_weight
        found = []
        for module, view in zip(self.original_graphs.values(), self.views.values(), strict=True):
            original = cast(Graph, module)
            learned, cosines = view()
            weight = symmetric_weights(learned, cosines)
            graph, (frozen, moving) = union([original, learned])
            mixed = torch.zeros_like(graph.weight).index_add(0, moving, (1 - original_weight) * weight)
            found.append(graph.weighted(mixed.index_add(0, frozen, original_weight * original.weight)))
        return found

    def propagate(self, graphs: list[Graph]) -> tuple[tuple[Tensor, Tensor], list[Tensor], Tensor]:
        """User and item embeddings ``(n_users, d), (n_items, d)``, those of items in each modality and their
        fusion ``(n_items, d)`` (Eqs. 4-7).
        """
        modal = []
        for graph in graphs:
            h = self.item_embedding.weight
            for _ in range(self.config.n_layers):
                h = graph @ h
            modal.append(h)
        fused = self.attention(modal, self.known)
        users, items = propagate_tables(self.user_item_graph, *self.id_embeddings, self.config.n_ui_layers)
        return (users, items + normalize(fused, dim=1)), modal, fused

    def contrast_with_fusion(self, modal: Tensor, fused: Tensor, items: Tensor) -> Tensor:
        """An item in one modality is to be nearer to its fusion than to that of other items, and than to
        other items in the modality (Eq. 8).

        Args:
            modal: ``(n_items, d)``.
            fused: ``(n_items, d)``.
            items: those that are contrasted ``(n,) int64``.
        """
        own = distributed.local_slice(len(items))
        numbers = torch.arange(len(items), device=items.device)
        modal, fused = modal[items], fused[items]
        return self.contrast(modal[own], torch.cat([fused, modal]), numbers[own], numbers.repeat(2))

    def contrasted(self, key: Tensor) -> Tensor:
        """Items of a batch's contrast ``(n,) int64``, a function of its seed ``() int64``."""
        if self.config.contrast_sample is None:
            return torch.arange(self.n_items, device=self.known.device)
        rng = torch.Generator(key.device).manual_seed(int(key))
        drawn = torch.randperm(self.n_items, generator=rng, device=key.device)
        return drawn[: self.config.contrast_sample]

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` and ``reg`` on the final embeddings, ``contrast_<modality>`` with the fusion (Eqs. 8 and
        9).

        Gradients reach the projections in an epoch's first batch, which builds the graphs; the other batches
        take them as they are.
        """
        graphs = self.latent_graphs() if self.epoch_graphs is None else self.epoch_graphs
        (users, items), modal, fused = self.propagate(graphs)
        if self.epoch_graphs is None:
            self.epoch_graphs = [graph.detached() for graph in graphs]
        final = BatchEmbeddings.lookup(batch, users, items)  # (B, d) each
        terms = {
            "bpr": bpr(score_difference(*final)),
            "reg": self.config.reg_weight * half_squares(*final),
        }
        if self.config.cl_weight and len(modal) > 1:
            rows = self.contrasted(batch.key)
            for m, h, known in zip(self.views, modal, self.known.unbind(1), strict=True):
                value = self.contrast_with_fusion(h, fused, rows[known[rows]])
                terms[f"contrast_{m}"] = self.config.cl_weight * value
        return terms

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings on the item graphs of the current parameters, cold items by their neighbors; scores are
        a function of the parameters alone.
        """
        with torch.no_grad():
            graphs = self.latent_graphs()
        (users, items), _, _ = self.propagate(graphs)
        return users, self.cold_items(items)

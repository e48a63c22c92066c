"""MMGCN: a graph network for each modality, over users' preferences and items' content.

Wei et al., "MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of Micro-video", ACM
MM 2019, https://doi.org/10.1145/3343031.3351034.

``Eq. n`` refers to the numbered equations in docs/models/mmgcn.md.

Differences from the authors' code:
- ID embeddings and preferences are trained; in the code they are no parameters and stay as drawn
  (``train_ids=False``);
- the preferences of all modalities are regularized, in the code those of the image alone
  (``regularized_preferences``);
- the number of layers is an option; in the code it is three whatever the option says;
- evaluation uses the current parameters, not what the last step computed;
- items without a modality start from zeros in it, or are filled (``fill``); items without train interactions
  get the embedding of their content neighbors (``cold_items="as_trained"`` leaves them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from graphrec.core import distributed
from graphrec.core.errors import ConfigError
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.graphs.graph import Graph, bipartite, normalize_weights
from graphrec.models.base import Features
from graphrec.models.batches import Triplets
from graphrec.models.item_content import ItemContent, ItemContentConfig, ItemContentRanker
from graphrec.models.layers import fan_in_uniform_, linear, projection
from graphrec.models.losses import bpr, half_squares, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Space

Rng = Callable[[str], torch.Generator]


class MMGCN(ItemContentRanker):
    """The mean of one graph network for each modality."""

    class Config(ItemContentConfig):
        """Options of MMGCN."""

        n_layers: int = Field(3, ge=1)
        """Layers of each network."""
        projected_dims: dict[str, Annotated[int, Field(ge=1)]] = Field({"image": 256})
        """Modalities whose content is projected first, and to which width. Others are taken as they are."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the mean squares of the batch's ID embeddings and of the preferences."""
        train_ids: bool = True
        """Train ID embeddings and preferences. The authors' code leaves both as they were drawn."""
        regularized_preferences: tuple[str, ...] | None = None
        """Modalities whose preferences are regularized; None: all. The authors' code: ``["image"]``."""

    name = "mmgcn"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        "train.learning_rate": Choice(1e-4, 5e-4, 1e-3, 5e-3, 1e-2),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, features, config)
        self.draw_normal_ids()
        self.graph = normalize_weights(bipartite(train, "none"), "row")
        self.towers = nn.ModuleDict({m: Tower(m, t, train, config, self.rng) for m, t in features.items()})
        given = config.regularized_preferences
        self.regularized = tuple(features) if given is None else given
        if unknown := set(self.regularized) - set(features):
            raise ConfigError(
                f"regularized_preferences {list(self.regularized)} names {sorted(unknown)}; expected some of "
                f"{list(features)}"
            )
        if not config.train_ids:
            for table in (*self.id_embeddings, *self.preferences(features)):
                table.requires_grad_(False)

    def preferences(self, modalities: Features | tuple[str, ...]) -> list[Tensor]:
        """What users like in some modalities, ``(n_users, d_m)`` each."""
        return [cast(Tower, self.towers[m]).preference for m in modalities]

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User and item embeddings ``(n_users, d), (n_items, d)``: the mean over modalities (Eq. 5)."""
        ids = torch.cat(self.id_embeddings)
        total = sum(tower(self.graph, ids) for tower in self.towers.values()) / len(self.towers)
        return total[: self.n_users], total[self.n_users :]

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` on final embeddings and ``reg`` on ID embeddings and preferences (Eq. 6)."""
        terms = {"bpr": bpr(score_difference(*BatchEmbeddings.lookup(batch, *self.propagate())))}
        if self.config.reg_weight:
            users, positives, negatives = BatchEmbeddings.lookup(batch, *self.id_embeddings)
            total = half_squares(users, users, positives, negatives) / self.config.dim
            for preference in self.preferences(self.regularized):
                total = total + distributed.replicated(preference.square().mean())
            terms["reg"] = self.config.reg_weight * total
        return terms

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings of the current parameters, cold items by their neighbors."""
        users, items = self.propagate()
        return users, self.cold_items(items)


class Tower(nn.Module):
    """The graph network of one modality.

    Args:
        modality: its name.
        table: its features.
        train: the interactions.
        config: the model's options.
        rng: generators of initial parameters by purpose.
    """

    def __init__(
        self, modality: str, table: FeatureTable, train: Interactions, config: MMGCN.Config, rng: Rng
    ) -> None:
        super().__init__()
        self.content = ItemContent(
            table,
            config.projected_dims.get(modality),
            config,
            train,
            rng(f"{modality}/content"),
            fan_in_uniform_,
        )
        self.preference = nn.Parameter(torch.empty(train.n_users, self.content.dim))
        nn.init.xavier_normal_(self.preference, generator=rng(f"{modality}/preference"))
        self.layers = nn.ModuleList()
        for n in range(config.n_layers):
            width = config.dim if n else self.content.dim
            self.layers.append(Layer(width, config.dim, n == 0, rng, f"{modality}/{n}"))

    def forward(self, graph: Graph, ids: Tensor) -> Tensor:
        """``(n_users + n_items, d)`` from ID embeddings of this size (Eqs. 1 to 4)."""
        x = normalize(torch.cat([self.preference, self.content()]), dim=1)  # (n_users + n_items, d_m)
        for layer in self.layers:
            x = layer(graph, x, ids)
        return x


class Layer(nn.Module):
    """One layer of a network: what neighbors say, what a node says itself, and both combined.

    Args:
        n_in: width before it.
        n_out: width after it.
        first: whether it is a network's first layer, which is initialized differently.
        rng: generators of initial parameters by purpose.
        purpose: of this layer's, followed by what they are of.
    """

    def __init__(self, n_in: int, n_out: int, first: bool, rng: Rng, purpose: str) -> None:
        super().__init__()
        normal = nn.init.xavier_normal_
        self.neighbors = projection(n_in, n_in, rng(f"{purpose}/neighbors"), normal)
        self.own = linear(n_in, n_out, rng(f"{purpose}/own"), normal)
        self.combine = linear(
            n_in + n_out, n_out, rng(f"{purpose}/combine"), normal if first else fan_in_uniform_
        )

    def forward(self, graph: Graph, x: Tensor, ids: Tensor) -> Tensor:
        """``(n, n_out)`` from ``(n, n_in)`` and ID embeddings ``(n, n_out)`` (Eqs. 2 to 4)."""
        # Under autocast the product is bfloat16, of which there are no sparse products on a CPU.
        heard = leaky_relu(graph @ self.neighbors(x).float())  # (n, n_in)
        own = leaky_relu(self.own(x)) + ids  # (n, n_out)
        combined: Tensor = leaky_relu(self.combine(torch.cat([heard, own], 1)))
        return combined

"""MMSSL: content propagated to users, graphs of what content would suggest to them, and a contrast with both.

Wei et al., "Multi-Modal Self-Supervised Learning for Recommendation", WWW 2023,
https://arxiv.org/abs/2302.10632. In each modality a user has the content of their items, and the new items
that are most like it make another user-item graph. IDs of neighbors there are added to those of users and
items. A discriminator may judge whether what content suggests looks like interactions.

``Eq. n`` refers to the numbered equations in docs/models/mmssl.md, which lists the defects of the authors'
code; its form is ``graph_k=0 adversarial_weight=1e-4 discriminator_slope=1``.

Differences from the authors' code:
- the graph of each modality is made at the start of each epoch; the code's are empty from an epoch's third
  batch on and at evaluation (``graph_k=0``);
- the attention over modalities is the linear map of their mean that the code's amounts to;
- there is no discriminator by default: the penalty drowns the rest of its loss, and it takes dense rows of
  users and a matrix of ``n_items^2 / 4`` numbers for a term of weight 1e-4;
- sums over the batch are divided by the size of the batch at hand; the code divides by that of a full one;
- a user who is in a batch several times is not among their own negatives (``contrast_repeats``);
- any number of modalities; an item without one adds nothing to it and is in nobody's list there, or it is
  filled (``fill``);
- items without train interactions get the embedding of their content neighbors; the code leaves them their
  initial values (``cold_items="as_trained"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from graphrec.core import distributed
from graphrec.core.topk import topk
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, items_to_users
from graphrec.graphs.user_lists import listed
from graphrec.models.base import Features
from graphrec.models.batches import EpochContext, SeededTriplets, seeded
from graphrec.models.discriminator import Discriminator
from graphrec.models.item_content import ItemContent, ItemContentConfig, ItemContentRanker
from graphrec.models.layers import projection
from graphrec.models.losses import InfoNCE, bpr, half_squares, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import gumbel

USER_BLOCK = 1024  # users whose scores are in memory at a time
REAL_NOISE = 0.002  # factor of the noise that is added to interactions
REAL_SCORES = 100.0  # factor of scores that are added to them


class Judged(NamedTuple):
    """Users whose rows the discriminator learns to tell apart.

    Attributes:
        users: ``(B,) int64``.
        key: seed of what is drawn ``() int64``.
    """

    users: Tensor
    key: Tensor


class TwoWay(NamedTuple):
    """A user-item graph, whose sums are divided by the root of the number of neighbors (Eq. 1).

    Attributes:
        to_users: from items.
        to_items: from users.
    """

    to_users: Graph
    to_items: Graph


class Step(NamedTuple):
    """Embeddings of all users and items.

    Attributes:
        final: which are compared ``(n_users, d), (n_items, d)``.
        features: propagated content of each modality, likewise.
        views: IDs over the graph of each modality, likewise.
    """

    final: tuple[Tensor, Tensor]
    features: list[tuple[Tensor, Tensor]]
    views: list[tuple[Tensor, Tensor]]


class MMSSL(ItemContentRanker):
    """Propagated IDs and content, and IDs over graphs of the items that content suggests to users."""

    class Config(ItemContentConfig):
        """Options of MMSSL; the defaults are the authors' but for what their code does not do."""

        n_ui_layers: int = Field(2, ge=1)
        """Layers on the user-item graph."""
        feature_dropout: float = Field(0.2, ge=0, lt=1)
        """Share of the projected content that is left out while training."""
        graph_k: int = Field(10, ge=0)
        """Items of each user in the graph of a modality; 0: there are no such graphs, views of them and
        contrast, which is what remains of them in the authors' code."""
        view_map: bool = True
        """Multiply the mean of the views by a matrix, which is what the authors' attention amounts to."""
        view_weight: float = Field(0.36, ge=0)
        """Length of what the views add to ID embeddings."""
        feature_weight: float = Field(0.55, ge=0)
        """Length of what the content of each modality adds to final embeddings."""
        cl_weight: float = Field(0.003, ge=0)
        """Weight of the contrast between users' views and final embeddings. The authors' 0.03 is for views
        that are mostly empty."""
        temperature: float = Field(0.5, gt=0)
        """Temperature of the contrast."""
        contrast_repeats: bool = False
        """Let repeats of a user in a batch be negatives of each other, as in the authors' code."""
        reg_weight: float = Field(1e-5, ge=0)
        """Weight of the squares of the batch's final embeddings."""
        feature_reg_weight: float = Field(1e-5, ge=0)
        """Weight of the squares of all propagated content, over the number of items."""
        sampling: Literal["users", "interactions"] = "users"
        """What an epoch is drawn from: users, who count equally however many items they have, or every
        interaction once."""
        adversarial_weight: float = Field(0.0, ge=0)
        """Weight of what the discriminator says of content; the authors' is 1e-4. 0: there is none."""
        penalty_weight: float = Field(0.3, ge=0)
        """Weight of the penalty on the discriminator's gradient."""
        discriminator_slope: float = Field(0.01, ge=0)
        """Slope of the discriminator's leaky ReLU below 0; 1, the identity, in the authors' code."""
        discriminator_rate: float = Field(3e-4, gt=0)
        """Learning rate of the discriminator; it follows the schedule, too."""

    name = "mmssl"
    data_parallel = "batches"
    train_defaults: ClassVar = {"learning_rate": 5.5e-4, "batch_size": 1024, "weight_decay": 0.01}
    search_space: ClassVar[Space] = {
        "n_ui_layers": Integers(1, 3),
        "graph_k": Choice(0, 5, 10, 20),
        "view_weight": Choice(0.1, 0.36, 1.0),
        "feature_weight": Choice(0.1, 0.55, 1.0),
        "cl_weight": Choice(0.003, 0.01, 0.03, 0.1),
        "reg_weight": Choice(1e-5, 1e-4, 1e-3),
        "train.learning_rate": Choice(1e-4, 5.5e-4, 1e-3),
    }
    config: Config
    neighbors: Tensor

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, features, config)
        self.graph = nn.ModuleList(two_way(train))
        weighted = items_to_users(train)
        self.history = weighted.weighted(torch.ones_like(weighted.weight))
        self.content = nn.ModuleDict(
            {m: ItemContent(t, config.dim, config, train, self.rng(m)) for m, t in features.items()}
        )
        # Part of what is saved: a model that is loaded ranks with the graphs that it was trained with.
        k = min(config.graph_k, self.n_items)
        empty = torch.full((len(features), self.n_users, k), -1, dtype=torch.int32)
        self.register_buffer("neighbors", empty)
        self.view_graphs: list[TwoWay] | None = None
        mapped = config.view_map and config.graph_k
        self.view_map = projection(config.dim, config.dim, self.rng("view_map")) if mapped else None
        self.discriminator: Discriminator | None = None
        if config.adversarial_weight:
            self.discriminator = Discriminator(
                self.n_items, config.discriminator_slope, self.rng("discriminator")
            )
        self.contrast = InfoNCE(config.temperature)

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Finds the graph of each modality by the current projections."""
        if self.config.graph_k:
            self.find_neighbors()
            self.view_graphs = None

    def optimizer(self, config: Any) -> torch.optim.Optimizer:
        """AdamW; for the discriminator with decay rates 0.5 and 0.9 of its moments and without weight decay,
        which makes it Adam.
        """
        judges = [] if self.discriminator is None else list(self.discriminator.parameters())
        main = [p for name, p in self.named_parameters() if not name.startswith("discriminator.")]
        groups: list[dict[str, Any]] = [{"params": main}]
        if judges:
            rate = self.config.discriminator_rate
            groups.append({"params": judges, "lr": rate, "betas": (0.5, 0.9), "weight_decay": 0.0})
        return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay, fused=True)

    def batches(self, plan: EpochContext) -> Iterator[Judged | SeededTriplets]:
        """One uniform negative for an item of each user in a batch, or for every train interaction once; with
        a discriminator, its users come before them as a batch of their own.
        """
        by_user = (batch for batch, _ in self.sampler.user_triplets(plan))
        drawn = self.sampler.triplets(plan) if self.config.sampling == "interactions" else by_user
        rng = plan.rng("discriminator")
        for batch in seeded(drawn, plan, "dropout"):
            if self.discriminator is not None:
                yield Judged(batch.users, torch.tensor(rng.integers(2**62, dtype=np.int64)))
            yield batch

    # -- graphs ----------------------------------------------------------------------------------------------

    def rows(self, users: Tensor) -> Tensor:
        """The interactions of some users ``(B,)`` as numbers ``(B, n_items)``."""
        return self.history.rows(users).dense()

    @torch.no_grad()
    def find_neighbors(self) -> None:
        """For each user and modality the new items with the most similar content (Eq. 4). Items without
        interactions or without the modality are in no list, and neither are those whose similarity is not
        positive.
        """
        warm = self.cold_items.warm[:, 0]
        found = self.propagated_content(None)
        for users in torch.arange(self.n_users, device=self.neighbors.device).split(USER_BLOCK):
            seen = self.rows(users) > 0
            for lists, content, (of_users, of_items) in zip(
                self.neighbors, self.content.values(), found, strict=True
            ):
                allowed = warm & cast(ItemContent, content).features.present
                scores = (of_users[users] @ of_items.T).float()
                scores = scores.masked_fill(seen | ~allowed, -torch.inf)
                values, items = topk(scores, lists.shape[1])
                lists[users] = torch.where(values > 0, items, -1).int()

    def modality_graphs(self) -> list[TwoWay]:
        """The user-item graph of each modality; none without ``graph_k``."""
        if not self.config.graph_k:
            return []
        device = self.neighbors.device
        return [
            TwoWay(*(graph.to(device) for graph in two_way(listed(lists, self.n_items))))
            for lists in self.neighbors
        ]

    # -- embeddings ------------------------------------------------------------------------------------------

    def propagated_content(self, factors: list[Tensor] | None) -> list[tuple[Tensor, Tensor]]:
        """Content of users and then of items in each modality ``(n_users, d), (n_items, d)`` (Eqs. 2 and 3).

        Args:
            factors: what dropout leaves of projected content, see :meth:`draw`; None: all.
        """
        to_users, to_items = self.graph
        found = []
        for number, content in enumerate(self.content.values()):
            x = content().float()
            users = to_users(x if factors is None else x * factors[number])
            found.append((users, to_items(users)))
        return found

    def propagate(self, graphs: list[TwoWay], factors: list[Tensor] | None) -> Step:
        """Embeddings of all users and items (Eqs. 2 to 7).

        Args:
            graphs: of each modality, or none.
            factors: see :meth:`propagated_content`.
        """
        c = self.config
        to_users, to_items = self.graph
        users, items = self.id_embeddings
        features = self.propagated_content(factors)
        views = [(graph.to_users @ items, graph.to_items @ users) for graph in graphs]
        if views:
            users = users + c.view_weight * normalize(self.fused([u for u, _ in views]), dim=1)
            items = items + c.view_weight * normalize(self.fused([i for _, i in views]), dim=1)
        all_users, all_items = [users], [items]
        for layer in range(c.n_ui_layers):
            users = to_users(items)
            if layer == c.n_ui_layers - 1:
                users = users.softmax(1)
            items = to_items(users)
            if layer == c.n_ui_layers - 1:
                items = items.softmax(1)
            all_users.append(users)
            all_items.append(items)
        users, items = torch.stack(all_users).mean(0), torch.stack(all_items).mean(0)
        for of_users, of_items in features:
            users = users + c.feature_weight * normalize(of_users, dim=1)
            items = items + c.feature_weight * normalize(of_items, dim=1)
        return Step((users, items), features, views)

    def fused(self, views: list[Tensor]) -> Tensor:
        """The mapped mean of views ``(n, d)`` (Eq. 5)."""
        mean = torch.stack(views).mean(0)
        return mean if self.view_map is None else self.view_map(mean).float()

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings without dropout over the graphs that were found last, cold items by their
        neighbors.
        """
        users, items = self.propagate(self.modality_graphs(), None).final
        return users, self.cold_items(items)

    # -- loss ------------------------------------------------------------------------------------------------

    def draw(self, rng: torch.Generator) -> list[Tensor]:
        """0 where dropout leaves a number of the projected content out, else what it is scaled by
        ``(n_items, d)``, for each modality.
        """
        p, shape = self.config.feature_dropout, (self.n_items, self.config.dim)
        uniform = (torch.rand(shape, generator=rng, device=rng.device) for _ in self.content)
        return [(x >= p) / (1 - p) for x in uniform]

    def training_step(self, rng: torch.Generator) -> Step:
        """Embeddings with dropout, over this epoch's graphs."""
        if self.view_graphs is None:
            self.view_graphs = self.modality_graphs()
        return self.propagate(self.view_graphs, self.draw(rng))

    def contrast_with_final(self, step: Step, number: int, users: Tensor) -> Tensor:
        """A user in one view is to be nearer to their final embedding than to that of others, and than to
        others in the view (Eq. 8). Users without neighbors there take no part.

        Args:
            step: embeddings of all nodes.
            number: of the modality.
            users: of the whole batch ``(B,) int64``.
        """
        rows = users[self.neighbors[number, users, 0] >= 0]
        own = distributed.local_slice(len(rows))
        view, final = (embedding(rows, table) for table in (step.views[number][0], step.final[0]))
        places = torch.arange(len(rows), device=rows.device)
        ids = places if self.config.contrast_repeats else rows
        return self.contrast(view[own], torch.cat([final, view]), places[own], ids.repeat(2))

    def loss(self, batch: Judged | SeededTriplets) -> dict[str, Tensor]:
        """Of triplets ``bpr`` and ``reg`` on the final embeddings, ``feature_reg`` on all propagated content,
        ``contrast_<modality>`` and ``adversarial`` (Eqs. 8 and 11). Of users see :meth:`judgement`.
        """
        rng = torch.Generator(batch.key.device).manual_seed(int(batch.key))
        users = distributed.all_gather(batch.users)
        if isinstance(batch, Judged):
            with torch.no_grad():
                step = self.training_step(rng)
                suggested, real = self.suggestions(step, users), self.real_rows(step, users, rng)
            return self.judgement(suggested, real, rng)
        c = self.config
        step = self.training_step(rng)
        final = BatchEmbeddings.lookup(batch, *step.final)
        squares = torch.stack([table.square().sum() for both in step.features for table in both]).sum()
        terms = {
            "bpr": bpr(score_difference(*final)),
            "reg": c.reg_weight * half_squares(*final),
            "feature_reg": c.feature_reg_weight * distributed.replicated(squares) / 2 / self.n_items,
        }
        if c.cl_weight and step.views:
            for number, m in enumerate(self.content):
                terms[f"contrast_{m}"] = c.cl_weight * self.contrast_with_final(step, number, users)
        if self.discriminator is not None:
            suggested = self.suggestions(step, users)
            judged = self.discriminator.frozen(suggested, self.discriminator.draw(len(suggested), rng))
            terms["adversarial"] = -c.adversarial_weight * distributed.replicated(judged.mean())
        return terms

    def similarity(self, users: Tensor, items: Tensor, seen: Tensor) -> Tensor:
        """Inner products with items that are new to a user, scaled to length one ``(B, n_items)`` (Eq. 4).

        Args:
            users: ``(B, d)``.
            items: ``(n_items, d)``.
            seen: interactions as numbers ``(B, n_items)``.
        """
        return normalize((users @ items.T).float() * (1 - seen), dim=1)

    def suggestions(self, step: Step, users: Tensor) -> Tensor:
        """Rows of similarities by content, one modality after the other ``(M B, n_items)``."""
        seen = self.rows(users)
        return torch.cat([self.similarity(u[users], i, seen) for u, i in step.features])

    def real_rows(self, step: Step, users: Tensor, rng: torch.Generator) -> Tensor:
        """Rows of interactions, once for each modality ``(M B, n_items)``, with noise and with the scores of
        items that are new to the user, so that they are no zeros and ones (Eq. 10).
        """
        seen = self.rows(users)
        noise = gumbel(torch.rand(seen.shape, generator=rng, device=rng.device))
        soft = (seen + REAL_NOISE * noise).softmax(1)
        scores = self.similarity(step.final[0][users], step.final[1], seen)
        return normalize(soft + REAL_SCORES * scores, dim=1).repeat(len(self.content), 1)

    def judgement(self, suggested: Tensor, real: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """What the discriminator says of rows ``judged_suggested``, of real rows ``judged_real``, and
        ``penalty`` on its gradient between them (Eq. 11). The discriminator alone is trained.

        Args:
            suggested: ``(n, n_items)``.
            real: ``(n, n_items)``.
            rng: source of randomness.
        """
        judge = self.discriminator
        assert judge is not None
        share = torch.rand(len(real), 1, generator=rng, device=rng.device)
        between = share * real + (1 - share) * suggested
        n = len(real)
        penalty = judge.penalty(between, judge.draw(n, rng))
        values = {
            "judged_suggested": judge(suggested, judge.draw(n, rng)).mean(),
            "judged_real": -judge(real, judge.draw(n, rng)).mean(),
            "penalty": self.config.penalty_weight * penalty,
        }
        return {name: distributed.replicated(value) for name, value in values.items()}


def two_way(interactions: Interactions) -> TwoWay:
    """Both directions of the graph of interactions."""
    weighted = items_to_users(interactions)
    graphs = []
    for graph, degree in (
        (weighted, interactions.user_degree),
        (weighted.t(), interactions.item_degree),
    ):
        scale = torch.from_numpy(1 / np.sqrt(np.maximum(degree, 1))).float()
        graphs.append(graph.weighted(scale[graph.target]))
    return TwoWay(*graphs)

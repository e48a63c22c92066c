"""MENTOR: content towers and a graph of items, with the statistics of modalities aligned, a contrast of noisy
views and a loss on masked embeddings.

Xu et al., "MENTOR: Multi-level Self-supervised Learning for Multimodal Recommendation", AAAI 2025,
https://arxiv.org/abs/2402.19407.

``Eq. n`` refers to the numbered equations in docs/models/mentor.md.

Differences from the authors' code:
- noisy views are of the towers that scores come from; the code has four towers for them alone, and the
  contrast reaches the others nowhere (``reference_compat``);
- masked embeddings are a target without gradient, and what is compared with it is trained; the code computes
  both without gradient, so that the loss is a constant (``reference_compat``);
- the noise of a view is added to what was propagated already, as it carries no gradient;
- the contrast may take a sample of users and items (``contrast_rows``);
- scores follow from the current parameters; the code scores by the last training step;
- the graph of users, which the code builds and does not use, is left out;
- items without a modality are masked in it, or filled (``fill``); the code would propagate NaN;
- items without train interactions get the embedding of their content neighbors; the code leaves them to the
  towers and the graph of items (``cold_items="as_trained"``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize, pdist

from graphrec.data.interactions import Interactions
from graphrec.models.base import Features
from graphrec.models.batches import EpochContext, SeededTriplets
from graphrec.models.layers import fan_in_uniform_, linear
from graphrec.models.losses import CosineContrastive, InfoNCE, bpr2, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Space
from graphrec.models.self_supervision import noisy_layers, read_out, uniform_noise, with_gradient_of
from graphrec.models.towers import LAYERS, ItemGraphConfig, TowerRanker, TowersConfig, weighted

VIEWS = 2


class Draws(NamedTuple):
    """What a step draws.

    Attributes:
        noise: of each view and layer, numbers from 0 to 1 ``(n_users + n_items, M d)``.
        kept: entries of the embeddings that are not masked ``(n_users + n_items, M d) bool``.
        users: users of the contrast ``(n,) int64``; None: all.
        items: items of the contrast, likewise.
    """

    noise: list[list[Tensor]]
    kept: Tensor
    users: Tensor | None
    items: Tensor | None


class Propagated(NamedTuple):
    """Towers after propagation, those of users and items; an item's have its content neighbors added."""

    users: Tensor
    items: Tensor


class MENTOR(TowerRanker):
    """Modalities side by side, those of users weighted, with three self-supervised losses."""

    class Config(ItemGraphConfig, TowersConfig):
        """Options of MENTOR."""

        align_weight: float = Field(0.1, ge=0)
        """Weight of the differences between modalities in mean and variance."""
        noise_weight: float = Field(1e-3, ge=0)
        """Weight of the contrast of noisy views."""
        noise_scale: float = Field(0.1, ge=0)
        """Length of the noise added to each modality of a node after each layer."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of the contrast."""
        contrast_rows: int | None = Field(None, ge=1)
        """Users, and items, that a step contrasts; None takes all of them, at a cost that grows with the
        square of their number."""
        mask_weight: float = Field(1.5, ge=0)
        """Weight of the loss on masked embeddings."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Share of entries that are masked."""
        reference_compat: bool = False
        """Give noisy views towers of their own, and the loss on masked embeddings no gradient, as the code
        does."""

    name = "mentor"
    train_defaults: ClassVar = {"learning_rate": 1e-4}
    search_space: ClassVar[Space] = {
        "align_weight": Choice(0.1, 0.2, 0.3),
        "noise_weight": Choice(1e-4, 1e-3, 1e-2),
        "temperature": Choice(0.2, 0.4, 0.6),
        "mask_weight": Choice(0.5, 1.5, 2.5),
        "dropout": Choice(0.3, 0.5, 0.7),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        weights = config.weights_of(features)
        super().__init__(train, features, config, weights)
        self.item_id = self.id_table()
        self.id_tower = self.tower(config.dim, "ids of items")
        self.user_weight = self.modality_weights()
        own = range(VIEWS) if config.reference_compat else ()
        self.noise_towers = nn.ModuleList(
            nn.ModuleDict({m: self.tower(t.shape[1], f"{m}/noise {view}") for m, t in features.items()})
            for view in own
        )
        width = len(features) * config.dim
        self.mask_head = linear(width, width, self.rng("mask head"), fan_in_uniform_)
        self.mask_head.requires_grad_(not config.reference_compat)
        self.item_graph = self.frozen_item_graph(features, weights)  # Eq. 4

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with one uniform negative and a seed for noise and masks."""
        return self.sampler.seeded_triplets(plan, "noise")

    def draw(self, key: Tensor) -> Draws:
        """What follows from a batch's seed."""
        c = self.config
        shape = self.n_users + self.n_items, self.user_weight.shape[1] * c.dim
        masked, *noise = uniform_noise(key, 1 + VIEWS * LAYERS * bool(c.noise_weight), shape)
        rows: list[Tensor | None] = [None, None]
        if c.contrast_rows is not None:
            rng = torch.Generator(key.device).manual_seed(int(key) + 1)
            rows = [
                torch.randperm(n, generator=rng, device=key.device)[: c.contrast_rows]
                for n in (self.n_users, self.n_items)
            ]
        views = [noise[view * LAYERS : (view + 1) * LAYERS] for view in range(VIEWS)]
        return Draws(views, masked >= c.dropout, *rows)

    def propagate(self, users: Tensor, items: Tensor) -> Propagated:
        """Towers side by side ``(n_users, w), (n_items, w)`` after propagation (Eqs. 2 and 5)."""
        users, items = read_out(self.graph, users, items, LAYERS, "sum")
        return Propagated(users, self.completed(items))

    def final(self, propagated: Propagated) -> tuple[Tensor, Tensor]:
        """Embeddings of users and items ``(n_users, M d), (n_items, M d)`` (Eq. 3)."""
        return weighted(propagated.users, self.user_weight), propagated.items

    def noisy(self, towers: tuple[Tensor, Tensor], clean: Propagated, noise: list[Tensor]) -> Propagated:
        """A view: towers ``(n_users, M d), (n_items, M d)`` propagated with noise after each layer; ``clean``
        is what becomes of them without (Eq. 6).
        """
        m = self.user_weight.shape[1]
        # Noise of length one in each modality has the length sqrt(M) in all of them.
        unit = (normalize(r.view(len(r), m, -1), dim=2).flatten(1) for r in noise)
        with torch.no_grad():
            found = noisy_layers(self.graph, torch.cat(towers), unit, math.sqrt(m) * self.config.noise_scale)
            users, items = torch.stack(found).sum(0).split([self.n_users, self.n_items])
            items = self.completed(items)
        # The sign of what it is added to is all that the noise depends on: the gradient is that without.
        return Propagated(with_gradient_of(clean.users, users), with_gradient_of(clean.items, items))

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr``, ``reg`` and the self-supervised terms ``align``, ``contrast_noise`` and ``mask``, as far
        as they have a weight (Eqs. 7-11).
        """
        return self.loss_with(batch, self.draw(batch.key))

    def loss_with(self, batch: SeededTriplets, draws: Draws) -> dict[str, Tensor]:
        """The losses of a batch with given draws."""
        c = self.config
        towers = self.tower_embeddings()
        width = towers[0].shape[1]
        # The IDs are propagated along with the modalities.
        ids = self.id_tower.users(), normalize(self.id_tower(self.item_id), dim=1)
        both = self.propagate(*(torch.cat(pair, 1) for pair in zip(towers, ids, strict=True)))
        clean = Propagated(both.users[:, :width], both.items[:, :width])
        users, items = self.final(clean)
        embeddings = BatchEmbeddings.lookup(batch, users, items)
        penalties = self.regularization(batch.users, self.user_weight)
        terms = {
            "bpr": bpr2(score_difference(*embeddings)),
            "reg": torch.stack(list(penalties.values())).sum(),
        }
        if c.align_weight:
            terms["align"] = c.align_weight * self.alignment(users, items, both)
        if c.noise_weight:
            terms["contrast_noise"] = c.noise_weight * self.contrast(towers, clean, draws)
        if c.mask_weight:
            terms["mask"] = self.mask_loss(users, items, draws.kept)
        return terms

    def alignment(self, users: Tensor, items: Tensor, propagated: Propagated) -> Tensor:
        """How far modalities, IDs and the embeddings differ in mean and variance (Eq. 8).

        Args:
            users: embeddings ``(n_users, M d)``.
            items: embeddings ``(n_items, M d)``.
            propagated: modalities and, behind them, IDs, ``(1 + M) d`` wide.
        """
        m = self.user_weight.shape[1]
        found = [moments(users, items, 1)]
        for part in zip(*(x.split(self.config.dim, 1) for x in propagated), strict=True):
            found.append(moments(part[0], part[1], m))
        return pdist(torch.stack(found), p=1).sum()

    def contrast(self, towers: tuple[Tensor, Tensor], clean: Propagated, draws: Draws) -> Tensor:
        """The contrast of two noisy views, over users and over items (Eqs. 6 and 9)."""
        views = []
        for view, noise in enumerate(draws.noise):
            if self.config.reference_compat:
                towers = self.tower_embeddings(cast(nn.ModuleDict, self.noise_towers[view]))
                clean = self.propagate(*towers)
            views.append(self.final(self.noisy(towers, clean, noise)))
        loss = InfoNCE(self.config.temperature)
        terms = []
        for one, other, rows in zip(*views, (draws.users, draws.items), strict=True):
            queries, pool = (one, other) if rows is None else (one[rows], other[rows])
            terms.append(loss(queries, pool, torch.arange(len(queries), device=queries.device)))
        return torch.stack(terms).sum()

    def mask_loss(self, users: Tensor, items: Tensor, kept: Tensor) -> Tensor:
        """How far embeddings after a linear map are from themselves with entries masked, weighted (Eq. 10).

        Args:
            users: embeddings ``(n_users, M d)``.
            items: embeddings ``(n_items, M d)``.
            kept: entries that are not masked ``(n_users + n_items, M d) bool``.
        """
        if self.config.reference_compat:
            users, items = users.detach(), items.detach()
        pairs = (
            (self.mask_head(x), x.detach() * mask)
            for x, mask in zip((users, items), kept.split([self.n_users, self.n_items]), strict=True)
        )
        return CosineContrastive(self.config.mask_weight).symmetric(*pairs)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings of the current parameters, cold items by their neighbors (Eq. 12)."""
        users, items = self.final(self.propagate(*self.tower_embeddings()))
        return users, self.cold_items(items)


def moments(users: Tensor, items: Tensor, copies: int) -> Tensor:
    """The variance, unbiased, and the mean of all numbers of two tables that stand side by side several times
    ``(2,)``.

    Args:
        users: ``(n_users, d)``.
        items: ``(n_items, d)``.
        copies: how often.
    """
    numbers = torch.cat([users.flatten(), items.flatten()])
    variance, mean = torch.var_mean(numbers, correction=0)
    n = copies * len(numbers)
    return torch.stack([variance * (n / (n - 1)), mean])

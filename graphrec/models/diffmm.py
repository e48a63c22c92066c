"""DiffMM: user-item graphs that a diffusion model rebuilds with an eye on content, one for each modality.

Jiang et al., "DiffMM: Multi-Modal Diffusion Model for Recommendation", ACM MM 2024,
https://arxiv.org/abs/2406.11781. Each epoch trains an autoencoder for each modality to take noise from users'
rows of interactions, takes for each user the items that it then ranks first, and trains a recommender over
these graphs and the one of interactions.

``Eq. n`` refers to the numbered equations in docs/models/diffmm.md.

Differences from the authors' code:
- the epoch is selected on validation; the code reports the one that is best on test;
- interactions are sparse, and dense for a block of users at a time; the code holds the whole matrix;
- scores use the whole rebuilt graphs; the code uses those whose entries it has dropped (there is no
  difference with ``keep`` 1, its setting);
- BPR is a mean also over a smaller last batch;
- any number of modalities: the contrast is the mean over their pairs, and there is none with a single one;
- an item without a modality adds nothing to it and takes no part in its contrast, or it is filled (``fill``);
- items without train interactions get the embedding of their content neighbors; the code leaves them what the
  graphs make of them (``cold_items="as_trained"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from graphrec.core import distributed
from graphrec.core.topk import topk
from graphrec.data.interactions import Interactions
from graphrec.graphs.augmentation import drop_entries
from graphrec.graphs.graph import Graph, bipartite, items_to_users, normalize_weights
from graphrec.graphs.masking import with_pairs
from graphrec.graphs.user_lists import listed
from graphrec.models.base import Features
from graphrec.models.batches import EpochContext, Triplets
from graphrec.models.diffusion import Denoiser, NoiseDraws, NoiseSchedule
from graphrec.models.item_content import ItemContent, ItemContentConfig, ItemContentRanker
from graphrec.models.layers import propagate
from graphrec.models.losses import InfoNCE, bpr, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import contrast

USER_BLOCK = 1024  # users whose rows are dense at a time


class Rows(NamedTuple):
    """Users whose rows are denoised.

    Attributes:
        users: of the whole batch, whatever this process's part of it ``(B,) int64``.
        key: seed of noise and dropout ``() int64``.
    """

    users: Tensor
    key: Tensor


class Step(NamedTuple):
    """Embeddings of all nodes, users first.

    Attributes:
        final: which are compared ``(n_users + n_items, d)``.
        views: of content over the rebuilt graph of each modality ``(n_users + n_items, d)``.
    """

    final: Tensor
    views: list[Tensor]


class DiffMM(ItemContentRanker):
    """IDs and content over the graph of interactions and over graphs that denoisers rebuild in each epoch."""

    class Config(ItemContentConfig):
        """Options of DiffMM; the defaults are the authors' for Amazon Baby."""

        n_layers: int = Field(1, ge=0)
        """Layers on the user-item graph."""
        content_map: Literal["leaky", "linear"] = "leaky"
        """How content is projected: a matrix and a leaky ReLU, or a linear map with a bias (the authors'
        setting for Amazon Sports)."""
        residual: float = Field(0.5, ge=0)
        """Length of what the fused modalities add to an embedding."""
        rebuilt_weight: float = Field(0.2, ge=0)
        """Weight of ID embeddings over the rebuilt graphs."""
        rebuilt_k: int = Field(1, ge=1)
        """Items of each user in a rebuilt graph."""
        keep: float = Field(1.0, gt=0, le=1)
        """Share of a rebuilt graph's entries that an epoch trains on, drawn once."""
        steps: int = Field(5, ge=1)
        """Steps of noise."""
        noise_scale: float = Field(0.1, gt=0)
        """Factor of the least and the greatest variance of noise."""
        noise_min: float = Field(1e-4, gt=0, lt=1)
        """Variance of noise up to the first step."""
        noise_max: float = Field(0.02, gt=0, lt=1)
        """Variance of noise up to the last step."""
        denoiser_dim: int = Field(1000, ge=1)
        """Width of the denoisers between encoder and decoder."""
        denoiser_dropout: float = Field(0.5, ge=0, lt=1)
        """Share of a row's items that are left out while the denoisers are trained."""
        time_dim: int = Field(10, ge=2, multiple_of=2)
        """Width of the code of a step of noise."""
        content_loss: float = Field(0.01, ge=0)
        """Weight of what makes an estimated row add up to content that is like the embeddings of the user's
        items."""
        contrast: Literal["modalities", "final"] = "modalities"
        """What is contrasted with a view of content: the view of another modality, or the final
        embeddings."""
        cl_weight: float = Field(0.1, ge=0)
        """Weight of the contrast."""
        temperature: float = Field(0.5, gt=0)
        """Temperature of the contrast."""
        reg_weight: float = Field(1e-5, ge=0)
        """Weight of the squares of all ID embeddings, in every step."""

    name = "diffmm"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 1024}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 2),
        "content_map": Choice("leaky", "linear"),
        "residual": Choice(0.1, 0.5),
        "content_loss": Choice(0.01, 0.1, 0.5),
        "cl_weight": Choice(0.001, 0.01, 0.1, 1.0),
        "temperature": Choice(0.1, 0.5, 1.0),
        "reg_weight": Choice(1e-6, 1e-5, 1e-4),
    }
    config: Config
    rebuilt: Tensor
    known: Tensor

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, features, config)
        c = config
        self.graph = normalize_weights(with_pairs(bipartite(train, "none")), "symmetric")
        weighted = items_to_users(train)
        self.history = weighted.weighted(torch.ones_like(weighted.weight))
        self.content = nn.ModuleDict(
            {
                m: ItemContent(t, c.dim, c, train, self.rng(m), bias=c.content_map == "linear")
                for m, t in features.items()
            }
        )
        schedule = NoiseSchedule(c.steps, c.noise_scale * c.noise_min, c.noise_scale * c.noise_max)
        self.denoisers = nn.ModuleDict(
            {
                m: Denoiser(
                    self.n_items, c.denoiser_dim, c.time_dim, schedule, c.denoiser_dropout,
                    self.rng(f"denoisers/{m}"),
                )
                for m in features
            }
        )  # fmt: skip
        self.modality_weights = nn.Parameter(torch.full((len(features),), 1 / len(features)))
        self.contrast = InfoNCE(c.temperature)
        present = [cast(ItemContent, x).features.present for x in self.content.values()]
        self.register_buffer("known", torch.stack(present, 1), persistent=False)  # (n_items, M)
        self.has_gaps = not bool(self.known.all())
        # Part of what is saved: a model that is loaded ranks with the graphs that it was trained with.
        shape = (len(features), self.n_users, min(c.rebuilt_k, self.n_items))
        self.register_buffer("rebuilt", torch.full(shape, -1, dtype=torch.int32))
        self.epoch_graphs: list[Graph] | None = None
        self.drop_seed = 0

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Drops the rebuilt graphs, so that the epoch's first batch of triplets rebuilds them."""
        self.epoch_graphs = None
        self.drop_seed = int(rng.integers(2**62))

    def batches(self, plan: EpochContext) -> Iterator[Rows | Triplets]:
        """All users once, for the denoisers; then every train interaction once, with one negative."""
        rng = plan.rng("denoising")
        for users in torch.from_numpy(rng.permutation(self.n_users)).split(plan.batch_size):
            yield Rows(users, torch.tensor(rng.integers(2**62, dtype=np.int64)))
        yield from self.sampler.triplets(plan)

    def projected(self) -> list[Tensor]:
        """The content of all items in each modality ``(n_items, d)`` (Eq. 7)."""
        found = [content() for content in self.content.values()]
        return [leaky_relu(x, 0.2) for x in found] if self.config.content_map == "leaky" else found

    def rows(self, users: Tensor) -> Tensor:
        """The interactions of some users ``(B,)`` as numbers ``(B, n_items)``."""
        return self.history.rows(users).dense()

    def draw(self, batch: Rows) -> list[NoiseDraws]:
        """Noise and dropout for each modality, of the users of the whole batch."""
        rng = torch.Generator(batch.key.device).manual_seed(int(batch.key))
        return [cast(Denoiser, d).draw(len(batch.users), rng) for d in self.denoisers.values()]

    def denoising(self, batch: Rows) -> dict[str, Tensor]:
        """``denoising_<modality>``, the weighted error of estimated rows, and ``content_<modality>``, how
        unlike the user's items their content is (Eqs. 4 and 6). The denoisers alone are trained.
        """
        own = distributed.local_slice(len(batch.users))
        rows = self.rows(batch.users[own])
        with torch.no_grad():
            content = self.projected()
            target = rows @ self.item_embedding.weight  # (B, d)
        terms = {}
        for (m, denoiser), x, draws in zip(self.denoisers.items(), content, self.draw(batch), strict=True):
            drawn = NoiseDraws(*(table[own] for table in draws))
            estimate, error = cast(Denoiser, denoiser).estimate(rows, drawn)
            terms[f"denoising_{m}"] = distributed.global_mean(error)
            if self.config.content_loss:
                unlike = distributed.global_mean((estimate @ x - target).square())
                terms[f"content_{m}"] = self.config.content_loss * unlike
        return terms

    @torch.no_grad()
    def rebuild(self) -> None:
        """For each user and modality the items that the denoiser ranks first (Eq. 5)."""
        k = self.rebuilt.shape[2]
        functions = [cast(Denoiser, denoiser).denoising() for denoiser in self.denoisers.values()]
        for users in torch.arange(self.n_users, device=self.rebuilt.device).split(USER_BLOCK):
            rows = self.rows(users)
            for lists, denoise in zip(self.rebuilt, functions, strict=True):
                lists[users] = topk(denoise(rows).float(), k)[1].int()

    def rebuilt_graphs(self) -> list[Graph]:
        """The user-item graph of each modality's lists, with self-loops."""
        return [
            normalize_weights(with_pairs(bipartite(listed(lists, self.n_items), "none")), "symmetric").to(
                self.rebuilt.device
            )
            for lists in self.rebuilt
        ]

    def training_graphs(self) -> list[Graph]:
        """The graphs of this epoch, of which ``keep`` leaves a share of the entries."""
        graphs = self.rebuilt_graphs()
        if self.config.keep == 1:
            return graphs
        rng = np.random.default_rng(self.drop_seed)
        return [drop_entries(graph, 1 - self.config.keep, rng, rescale=True) for graph in graphs]

    def propagate(self, graphs: list[Graph]) -> Step:
        """Final embeddings and views of content (Eqs. 8 to 11).

        Args:
            graphs: the rebuilt graph of each modality.
        """
        c = self.config
        users, items = self.id_embeddings
        ids = torch.cat([users, items])
        weights = self.modality_weights.softmax(0)
        fused = torch.zeros_like(ids)
        views = []
        for weight, graph, x in zip(weights, graphs, self.projected(), strict=True):
            nodes = torch.cat([users, normalize(x.float(), dim=1)])
            heard = self.graph @ nodes
            both = heard + self.graph @ torch.cat([heard[: self.n_users], items])
            fused = fused + weight * (both + c.rebuilt_weight * (graph @ ids))
            views.append(self.summed(graph @ nodes))
        return Step(self.summed(fused) + c.residual * normalize(fused, dim=1), views)

    def summed(self, x: Tensor) -> Tensor:
        """The sum of ``x (n_users + n_items, d)`` and its layers."""
        return (self.config.n_layers + 1) * propagate(self.graph, x, self.config.n_layers)

    def agreement(self, step: Step, side: Literal["users", "items"], ids: Tensor) -> Tensor:
        """The contrast of views with each other, a mean over their pairs, or with the final embeddings, a sum
        over views (Eq. 12). Items that lack a modality are not contrasted in it.

        Args:
            step: embeddings of all nodes.
            side: of the nodes.
            ids: users or items of the batch ``(B,) int64``.
        """
        number = ("users", "items").index(side)
        sizes = [self.n_users, self.n_items]
        final, *views = (x.split(sizes)[number] for x in (step.final, *step.views))

        def compared(one: Tensor, other: Tensor, modalities: tuple[int, ...]) -> Tensor:
            rows = ids
            if side == "items" and self.has_gaps:
                known = self.known[:, list(modalities)].all(1)
                place = known.cumsum(0) - 1
                rows, one, other = place[ids[known[ids]]], one[known], other[known]
            return contrast(self.contrast, one, other, rows, "all")

        if self.config.contrast == "final":
            return torch.stack([compared(final, view, (n,)) for n, view in enumerate(views)]).sum()
        pairs = combinations(range(len(views)), 2)
        return torch.stack([compared(views[a], views[b], (a, b)) for a, b in pairs]).mean()

    def loss(self, batch: Rows | Triplets) -> dict[str, Tensor]:
        """Of users' rows see :meth:`denoising`. Of triplets ``bpr`` on the final embeddings, ``reg`` on all
        ID embeddings, and the contrast ``contrast_users`` and ``contrast_items`` (Eqs. 12 and 13).
        """
        if isinstance(batch, Rows):
            return self.denoising(batch)
        if self.epoch_graphs is None:
            self.rebuild()
            self.epoch_graphs = self.training_graphs()
        step = self.propagate(self.epoch_graphs)
        users, items = step.final.split([self.n_users, self.n_items])
        squares = torch.stack([table.square().sum() for table in self.id_embeddings]).sum()
        terms = {
            "bpr": bpr(score_difference(*BatchEmbeddings.lookup(batch, users, items))),
            "reg": self.config.reg_weight * distributed.replicated(squares),
        }
        if self.config.cl_weight and (len(step.views) > 1 or self.config.contrast == "final"):
            weight = self.config.cl_weight
            terms["contrast_users"] = weight * self.agreement(step, "users", batch.users)
            terms["contrast_items"] = weight * self.agreement(step, "items", batch.positives)
        return terms

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings over the graphs that were rebuilt last, cold items by their neighbors."""
        step = self.propagate(self.rebuilt_graphs())
        users, items = step.final.split([self.n_users, self.n_items])
        return users, self.cold_items(items)

"""AutoCF: a graph autoencoder that masks the surroundings of nodes it has learned to choose; no negatives.

Xia et al., "Automated Self-Supervised Learning for Recommendation", WWW 2023,
https://arxiv.org/abs/2303.07797. Every few steps, nodes that are like their surroundings are drawn as seeds
and the edges around them are masked. Embeddings are propagated over what is left, and then attend over it and
over random edges among masked nodes.

Defaults are those of the authors' code (https://github.com/HKUDS/AutoCF), with its regularizer for Gowalla.
Differences: seeds are at most a share of the nodes (``seed_share``), edges are masked with one sparse product
in place of a pass over all edges for every node, and sums of exponentials cannot overflow. SSLRec's version
is ``self_loops="training"``. There is one layer of attention, the default of both.

``Eq. n`` refers to the numbered equations in docs/models/autocf.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.core import distributed
from graphrec.data.interactions import Interactions
from graphrec.graphs.attention import edge_attention
from graphrec.graphs.augmentation import keep_entries
from graphrec.graphs.graph import Graph, bipartite, normalize_weights
from graphrec.graphs.masking import mask_neighborhoods, random_nodes, random_pairs, with_pairs
from graphrec.models import layers
from graphrec.models.batches import EpochContext, shared_seeds
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import (
    EdgeAttentionConfig,
    alignment_and_spread,
    all_squares,
    combine,
    gumbel_noise,
    infomax_scores,
)


class Pairs(NamedTuple):
    """Users, an item of each, and what the masked graphs are drawn from.

    Attributes:
        users: ``(B,) int64``.
        items: ``(B,) int64``.
        key: seed of the graphs, the same for all steps that use them ``() int64``.
        redraw: whether they are drawn in this step ``() bool``.
    """

    users: Tensor
    items: Tensor
    key: Tensor
    redraw: Tensor


class MaskedGraphs(NamedTuple):
    """What embeddings are propagated over, and what they attend over afterward."""

    encoder: Graph
    decoder: Graph


class AutoCF(EmbeddingRanker):
    """Propagated ID embeddings that attend to one another, trained on masked graphs."""

    class Config(EdgeAttentionConfig):
        """Options of AutoCF."""

        n_layers: int = Field(2, ge=1)
        """Propagation layers before the layer of attention."""
        n_seeds: int = Field(100, ge=1)
        """Nodes whose surroundings are masked."""
        seed_share: float = Field(0.05, gt=0, le=1)
        """Largest share of all nodes that seeds may be; there is one at least. On small data more of them
        mask so much that nothing is learned. The authors' code, made for data of 45,000 nodes and more, has
        no such limit (1)."""
        mask_depth: int = Field(2, ge=1)
        """Length of the paths from a seed whose edges are masked."""
        random_nodes: float = Field(0.2, ge=0, le=1)
        """Nodes that random edges may end at besides the masked ones, as a share of all."""
        redraw_every: int = Field(10, ge=1)
        """Steps with the same masked graphs; the first step of an epoch draws new ones, too."""
        self_loops: Literal["graph", "attention", "training"] = "graph"
        """Where nodes are neighbors of themselves: in the whole ``graph``, as in the authors' code; in the
        ``attention`` alone; or in the attention while ``training`` alone, as in SSLRec."""
        spread_weight: float = Field(1.0, ge=0)
        """Weight of what keeps users apart from users and items from items."""
        reg_weight: float = Field(1e-6, ge=0)
        """Weight of the squares of all parameters."""

    name = "autocf"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 4096}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 3),
        "n_seeds": Choice(100, 200, 500),
        "spread_weight": Choice(0.1, 0.5, 1.0),
        "reg_weight": Choice(1e-8, 1e-7, 1e-6, 1e-5, 1e-4),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        plain = bipartite(train, "none")
        looped = with_pairs(plain)
        self.adjacency = looped if config.self_loops == "graph" else plain
        self.attended = plain if config.self_loops == "training" else looped
        self.graph = normalize_weights(self.adjacency, "symmetric")
        self.masked: MaskedGraphs | None = None
        self.query, self.key, self.value = (
            nn.Parameter(layers.projection(config.dim, config.dim, self.rng(purpose)).weight.detach())
            for purpose in ("query", "key", "value")
        )  # (d, d) each

    def batches(self, plan: EpochContext) -> Iterator[Pairs]:
        """Every train interaction once, and with the first of several batches a new seed."""
        seeds = shared_seeds(plan, "masks", self.config.redraw_every)
        for (users, items), (key, redraw) in zip(self.sampler.pairs(plan), seeds, strict=False):
            yield Pairs(torch.from_numpy(users), torch.from_numpy(items), key, redraw)

    def draw(self, key: Tensor) -> tuple[Tensor, MaskedGraphs]:
        """Scores of all nodes ``(n_users + n_items,)``, and graphs masked around the highest (Eqs. 1 to 4).

        Args:
            key: seed ``() int64``.
        """
        c = self.config
        n = self.n_users + self.n_items
        rng = torch.Generator(key.device).manual_seed(int(key))
        scores = infomax_scores(self.adjacency, torch.cat(self.id_embeddings)) + gumbel_noise(n, rng)
        n_seeds = max(1, min(c.n_seeds, int(n * c.seed_share)))
        seeds = scores.detach().topk(n_seeds).indices
        kept, masked = mask_neighborhoods(self.adjacency, seeds, c.mask_depth)
        rest = keep_entries(self.adjacency, kept)
        rest.symmetric = True  # an edge is kept in both directions or in none
        masked[random_nodes(n, int(n * c.random_nodes), rng)] = True
        pairs = random_pairs(masked.nonzero().squeeze(1), len(self.adjacency), rng)
        return scores, MaskedGraphs(normalize_weights(rest, "symmetric"), with_pairs(rest, pairs))

    def final(self, encoder: Graph, decoder: Graph) -> tuple[Tensor, Tensor]:
        """The sum of ID embeddings, layers and attention ``(n_users, d), (n_items, d)`` (Eqs. 5 and 6).

        Args:
            encoder: normalized, to propagate over.
            decoder: whose edges the last layer attends over.
        """
        found = [torch.cat(self.id_embeddings)]
        for _ in range(self.config.n_layers):
            found.append(encoder @ found[-1])
        last = found[-1]
        projected = last @ self.query, last @ self.key, last @ self.value
        found.append(edge_attention(decoder, *projected, self.config.n_heads))
        users, items = combine(found, "sum").split([self.n_users, self.n_items])
        return users, items

    def loss(self, batch: Pairs) -> dict[str, Tensor]:
        """``alignment`` of users and their items, ``spread`` of users and items, ``infomax`` in steps that
        draw graphs, and ``reg`` (Eqs. 7 and 8).
        """
        c = self.config
        infomax = self.query.new_zeros(())
        if self.masked is None or bool(batch.redraw):
            scores, self.masked = self.draw(batch.key)
            infomax = distributed.replicated(-scores.mean())
        final = self.final(*self.masked)
        return {
            **alignment_and_spread(*final, (batch.users, batch.items), c.spread_weight),
            "infomax": infomax,
            "reg": c.reg_weight * all_squares(self.parameters()),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings over the whole graph."""
        return self.final(self.graph, self.attended)

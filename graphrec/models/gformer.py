"""GFormer: a graph autoencoder that masks the edges nodes attend to most, and learns from those apart, too.

Li et al., "Graph Transformer for Recommendation", SIGIR 2023, https://arxiv.org/abs/2306.02330. Nodes attend
to one another along the edges of the user-item graph; the edges with much attention are its rationale. The
encoder sees a graph from which mostly these are missing, and a view that consists mostly of these has to rank
items, too. What nodes know of the whole graph is how near they are to some random anchors.

Defaults are those of SSLRec's version (https://github.com/HKUDS/SSLRec), the one that was read, with two
layers of propagation. What makes its results wrong are options that are off here:

- ``scramble``: its anchor layer mixes each node's messages with other nodes in place of the node itself.
- ``own_scorer``: the anchor layer that edges are scored with is another one than the layer that is trained.
- ``inference``: it ranks without the anchor layer and without the attention that it has trained, which is
  still the default here, as it ranks better (docs/models/gformer.md); ``inference="trained"`` has both.

Other differences change no formula: distances are found by sparse products in place of a loop over nodes,
edges are drawn on the model's device and without a distribution over all of them, BPR and sums of
exponentials cannot overflow, and BPR is a mean also over a smaller last batch. Layers of the reference that
nothing but its regularizer sees are left out.

``Eq. n`` refers to the numbered equations in docs/models/gformer.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, linear

from graphrec.core import distributed
from graphrec.data.interactions import Interactions
from graphrec.graphs.attention import edge_attention, edge_shares
from graphrec.graphs.augmentation import keep_entries
from graphrec.graphs.distances import closeness
from graphrec.graphs.graph import Graph, bipartite, normalize_weights
from graphrec.graphs.masking import random_nodes, random_pairs, with_pairs
from graphrec.models import layers
from graphrec.models.batches import EpochContext, NegativesConfig, shared_seeds
from graphrec.models.fold_in import FoldIn, LeastSquaresFoldIn, MeanFoldIn
from graphrec.models.losses import bpr, score_difference
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import (
    EdgeAttentionConfig,
    alignment_and_spread,
    all_squares,
    combine,
    draw_without_replacement,
    read_out,
)

MOST_ATTENTION = 3.0  # of an edge over all heads; what is above counts as this
LEAST_ATTENTION = 1e-3  # added to it where edges are drawn in proportion to it


class Triplets(NamedTuple):
    """Users with a positive and negatives, and what the graphs are drawn from.

    Attributes:
        users: ``(B,) int64``.
        positives: ``(B,) int64``.
        negatives: ``(B,)`` or ``(B, n) int64``.
        key: seed of the graphs, the same for all steps that use them ``() int64``.
        redraw: whether they are drawn in this step ``() bool``.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    key: Tensor
    redraw: Tensor


class Anchors(NamedTuple):
    """Nodes by which the others know where they are.

    Attributes:
        nodes: ``(A,) int64``.
        closeness: of every node to each of them ``(n, A)``.
    """

    nodes: Tensor
    closeness: Tensor


class Graphs(NamedTuple):
    """What a training step sees.

    Attributes:
        encoder: normalized, mostly without the edges of most attention.
        decoder: whose edges the last layer attends over.
        rationale: normalized, mostly edges of much attention.
        complement: normalized, mostly edges of little attention.
    """

    encoder: Graph
    decoder: Graph
    rationale: Graph
    complement: Graph


class AnchorLayer(nn.Module):
    """A linear map of each node and of the mean of the anchors, weighted by how close they are (Eq. 2)."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.map = layers.linear(2 * dim, dim, generator)

    def forward(self, x: Tensor, anchors: Anchors, scramble: bool = False) -> Tensor:
        """``(n, d)`` from ``(n, d)``.

        Args:
            x: embeddings of all nodes.
            anchors: among them.
            scramble: in place of node ``v`` itself use the mean of the ``A`` nodes ``v A, v A + 1, ...``,
                counted on from the first after the last.
        """
        n_anchors = len(anchors.nodes)
        of_anchors, of_itself = self.map.weight.chunk(2, 1)  # (d, d) each
        # The map of the mean is the mean of the maps, which takes A instead of n products with d x d.
        heard = anchors.closeness @ (linear(embedding(anchors.nodes, x), of_anchors) / n_anchors)
        if scramble:
            slots = torch.arange(len(x) * n_anchors, device=x.device).view(len(x), n_anchors)
            x = embedding_bag(slots % len(x), x, mode="mean")
        return heard + linear(x, of_itself, self.map.bias)


class GFormer(EmbeddingRanker):
    """ID embeddings, propagated, placed by anchors and attending to one another over masked graphs."""

    class Config(NegativesConfig, EdgeAttentionConfig):
        """Options of GFormer."""

        n_layers: int = Field(2, ge=1)
        """Propagation layers before the anchors and the attention."""
        n_anchors: int = Field(64, ge=1)
        """Random nodes, new ones in each epoch, to which all nodes know their distances; all nodes where
        there are fewer."""
        scramble: bool = False
        """Mix other nodes with the messages of the anchors in place of the node itself, as SSLRec's code
        does by mistake."""
        own_scorer: bool = False
        """Score edges by attention after an anchor layer of its own, as SSLRec's code does. No loss reaches
        that layer, so it stays random. Otherwise the layer is the one that is trained."""
        added_pairs: float = Field(0.01, ge=0)
        """Random pairs added to the graph before its edges are scored, as a share of its entries."""
        encoder_share: float = Field(0.9, gt=0, lt=1)
        """Share of entries that the encoder sees; those of much attention are left out more often."""
        view_share: float = Field(0.1, gt=0, lt=1)
        """Share of entries that make up the rationale, and its complement."""
        decoder_pairs: float = Field(0.8, ge=0)
        """Random pairs of the ends of masked edges that the last layer attends over, too, as a share of the
        graph's entries."""
        random_ends: float = Field(0.5, ge=0)
        """Nodes that these pairs may end at besides, as a share of the ends of masked edges."""
        redraw_every: int = Field(10, ge=1)
        """Steps with the same graphs; the first step of an epoch draws new ones, too."""
        attention_weight: float = Field(0.1, ge=0)
        """Weight of attention in the embeddings of rationale and complement."""
        spread_weight: float = Field(1.0, ge=0)
        """Weight of what keeps users apart from users and items from items."""
        rationale_weight: float = Field(1.0, ge=0)
        """Weight of the ranking by the rationale."""
        contrast_weight: float = Field(1e-3, ge=0)
        """Weight of what keeps rationale and complement apart."""
        reg_weight: float = Field(1e-4, ge=0)
        """Weight of the squares of all parameters."""
        inference: Literal["propagation", "trained"] = "propagation"
        """Final embeddings: ``propagation`` alone over the whole graph, as in SSLRec's code; or as they are
        ``trained``, with the anchors of the last epoch and attention over the whole graph."""

    name = "gformer"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 4096}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 3),
        "spread_weight": Choice(0.1, 0.5, 1.0),
        "rationale_weight": Choice(0.1, 1.0),
        "contrast_weight": Choice(1e-4, 1e-3, 1e-2),
        "reg_weight": Choice(1e-8, 1e-7, 1e-6, 1e-5, 1e-4),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config
    anchors: Tensor

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.adjacency = bipartite(train, "none")
        self.graph = bipartite(train)
        self.drawn: Graphs | None = None
        self._near: Anchors | None = None
        n = self.n_users + self.n_items
        # Part of what is saved: a model that is loaded ranks with the anchors it was trained with.
        first = torch.randperm(n, generator=self.rng("anchors"))[: config.n_anchors]
        self.register_buffer("anchors", first)
        self.query, self.key, self.value = (
            nn.Parameter(layers.projection(config.dim, config.dim, self.rng(purpose)).weight.detach())
            for purpose in ("query", "key", "value")
        )  # (d, d) each
        self.anchor_layer = AnchorLayer(config.dim, self.rng("anchor_layer"))
        self.scorer_layer = AnchorLayer(config.dim, self.rng("scorer_layer")) if config.own_scorer else None

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Draws new anchors."""
        n = self.n_users + self.n_items
        drawn = torch.from_numpy(rng.choice(n, len(self.anchors), replace=False))
        self.anchors.copy_(drawn)
        self._near = None

    def batches(self, plan: EpochContext) -> Iterator[Triplets]:
        """Every train interaction once, with negatives, and with the first of several batches a new seed."""
        seeds = shared_seeds(plan, "graphs", self.config.redraw_every)
        for batch, (key, redraw) in zip(self.sampler.triplets(plan), seeds, strict=False):
            yield Triplets(*batch, key, redraw)

    def near(self) -> Anchors:
        """The anchors, and how close all nodes are to them (Eq. 1); computed once an epoch."""
        if self._near is None:
            self._near = Anchors(self.anchors.clone(), closeness(self.adjacency, self.anchors))
        return self._near

    @torch.no_grad()
    def draw(self, key: Tensor) -> Graphs:
        """Graphs whose entries are drawn by how much attention they get (Eqs. 4 to 8).

        Args:
            key: seed ``() int64``.
        """
        c = self.config
        rng = torch.Generator(key.device).manual_seed(int(key))
        graph, attention = self.scored(rng)

        def normalized(kept: Graph) -> Graph:
            """With self-loops besides those that are kept."""
            return normalize_weights(with_pairs(kept, counted=True), "symmetric")

        def view(log_weights: Tensor) -> Graph:
            drawn = draw_without_replacement(log_weights, int(len(graph) * c.view_share), rng)
            return normalized(keep_entries(graph, drawn))

        kept = draw_without_replacement(-attention, int(len(graph) * c.encoder_share), rng)
        rest = keep_entries(graph, kept)
        ends = torch.cat([graph.target[~kept], graph.col[~kept].long()])
        others = random_nodes(graph.n_target, int(len(ends) * c.random_ends), rng)
        pairs = random_pairs(torch.cat([ends, others]), int(len(graph) * c.decoder_pairs), rng)
        return Graphs(
            encoder=normalized(rest),
            decoder=with_pairs(rest, pairs),
            rationale=view((attention + LEAST_ATTENTION).log()),
            complement=view(-attention),
        )

    def scored(self, rng: torch.Generator) -> tuple[Graph, Tensor]:
        """The graph with self-loops and a few random pairs, and how much attention each of its ``E`` entries
        gets over all heads, up to :data:`MOST_ATTENTION` ``(E,)`` (Eqs. 2 to 4).

        Args:
            rng: source of randomness for the pairs.
        """
        c = self.config
        n_pairs = int(len(self.adjacency) * c.added_pairs)
        # Ends of entries, so a node is drawn in proportion to its degree.
        graph = with_pairs(self.adjacency, random_pairs(self.adjacency.target, n_pairs, rng))
        layer = self.scorer_layer or self.anchor_layer
        x = layer(torch.cat(self.id_embeddings), self.near(), c.scramble)
        shares = edge_shares(graph, x @ self.query, x @ self.key, c.n_heads)
        return graph, shares.sum(0).clamp(max=MOST_ATTENTION)

    def attend(self, graph: Graph, projected: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Attention ``(n, d)`` along the edges of a graph (Eq. 3)."""
        return edge_attention(graph, *projected, self.config.n_heads)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``(n, d)`` each."""
        return x @ self.query, x @ self.key, x @ self.value

    def final(self, encoder: Graph, decoder: Graph, anchors: Anchors) -> tuple[Tensor, list[Tensor]]:
        """The sum of ID embeddings, layers, anchor layer and attention ``(n_users + n_items, d)``, and the ID
        embeddings and layers of propagation, as many tables of that shape (Eqs. 9 and 10).

        Args:
            encoder: normalized, to propagate over.
            decoder: whose edges the last layer attends over.
            anchors: nodes by which the others are placed.
        """
        found = [torch.cat(self.id_embeddings)]
        for _ in range(self.config.n_layers):
            found.append(encoder @ found[-1])
        placed = self.anchor_layer(found[-1], anchors, self.config.scramble)
        attended = self.attend(decoder, self.projected(placed))
        return combine([*found, placed, attended], "sum"), found

    def views(self, graphs: Graphs, found: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings of the rationale and of its complement ``(n_users + n_items, d)`` each (Eq. 11).

        Args:
            graphs: with both of them.
            found: ID embeddings and layers of propagation over the encoder's graph.
        """
        projected = self.projected(found[0])
        below = combine(found[:-1], "sum")  # one product in place of one for each layer
        rationale, complement = (
            found[0] + self.config.attention_weight * self.attend(graph, projected) + graph @ below
            for graph in (graphs.rationale, graphs.complement)
        )
        return rationale, complement

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``alignment`` of users and their items, ``spread`` of users and items, ``rationale``, by which they
        are ranked, ``contrast`` of it and its complement, and ``reg`` (Eq. 12).
        """
        c = self.config
        if self.drawn is None or bool(batch.redraw):
            self.drawn = self.draw(batch.key)
        sizes = [self.n_users, self.n_items]
        final, found = self.final(self.drawn.encoder, self.drawn.decoder, self.near())
        users, items = final.split(sizes)
        rationale, complement = self.views(self.drawn, found)
        of_users, of_items = rationale.split(sizes)
        own = embedding(batch.users, of_users)
        # The negatives' embeddings are not those of the rationale.
        difference = score_difference(
            own, embedding(batch.positives, of_items), embedding(batch.negatives, items)
        )
        shared = (own * embedding(batch.users, complement)).logsumexp(1)  # users come first
        return {
            **alignment_and_spread(users, items, (batch.users, batch.positives), c.spread_weight),
            "rationale": c.rationale_weight * bpr(difference),
            "contrast": c.contrast_weight * distributed.global_mean(shared),
            "reg": c.reg_weight * all_squares(self.parameters()),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings over the whole graph, as ``Config.inference`` says."""
        if self.config.inference == "propagation":
            return read_out(self.graph, *self.id_embeddings, self.config.n_layers, "sum")
        decoder = with_pairs(self.adjacency)
        # Self-loops besides those of the graph, as where edges are masked.
        encoder = normalize_weights(with_pairs(decoder, counted=True), "symmetric")
        anchors = Anchors(self.anchors, closeness(self.adjacency, self.anchors))
        final, _ = self.final(encoder, decoder, anchors)
        users, items = final.split([self.n_users, self.n_items])
        return users, items

    def fold_in(self) -> FoldIn:
        """What the items of a history add, exact but for the share of the user's own embedding; least squares
        where anchors and attention follow on propagation.
        """
        c = self.config
        if c.inference == "trained":
            return LeastSquaresFoldIn()
        degree = self.train_pairs.item_degree
        mean = layers.fold_in_table(self.graph, *self.id_embeddings, c.n_layers, degree)
        table = (c.n_layers + 1) * mean
        return MeanFoldIn(table, table.new_zeros(c.dim))

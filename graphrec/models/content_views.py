"""What models share that see items in views of their content: gates, attention over modalities, filters, and
the ranker that MGCN and SMORE are, up to how they make views and fuse them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.core.config import option
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, bipartite, items_to_users, normalize_weights
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import EpochContext, PreferencesConfig, SeededTriplets
from graphrec.models.item_content import ItemContent
from graphrec.models.layers import fan_in_uniform_, linear, projection, propagate_tables
from graphrec.models.losses import InfoNCE, bpr, half_squares, score_difference
from graphrec.models.multimodal import ColdItems, MultimodalConfig, MultimodalRanker, item_graph
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker


class Gate(nn.Module):
    """Embeddings filtered by other vectors of the same nodes: ``e * sigmoid(W z + b)`` (Yu et al.,
    "Multi-View Graph Convolutional Network for Multimedia Recommendation" (MGCN), ACM MM 2023,
    https://arxiv.org/abs/2308.03588).

    Args:
        n_in: size of the vectors ``z``.
        n_out: size of the embeddings.
        generator: of the initial parameters, which are distributed as torch's.
    """

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear(n_in, n_out, generator, fan_in_uniform_)

    def forward(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """``(n, n_out)`` of ``(n, n_out)`` and ``(n, n_in)``."""
        gated: Tensor = embeddings * self.linear(vectors).sigmoid()
        return gated


class ModalityAttention(nn.Module):
    """The weighted mean of a node's vectors in several modalities, with weights
    ``softmax_m(w . tanh(W x_m + b))`` (same paper).

    Args:
        dim: size of the vectors.
        generator: of the initial parameters, which are distributed as torch's.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(dim, dim, generator, fan_in_uniform_)
        self.out = projection(dim, 1, generator, fan_in_uniform_)

    def forward(self, vectors: Sequence[Tensor], known: Tensor) -> Tensor:
        """The mean ``(n, d)``; 0 for nodes without any modality.

        Args:
            vectors: of each modality ``(n, d)``.
            known: modalities that each node has ``(n, M) bool``; the others have no weight.
        """
        logits = torch.cat([self.out(self.hidden(x).tanh()) for x in vectors], 1)  # (n, M)
        share = logits.masked_fill(~known, torch.finfo(logits.dtype).min).softmax(1) * known
        parts = [weight[:, None] * x for weight, x in zip(share.unbind(1), vectors, strict=True)]
        return torch.stack(parts).sum(0)


class SpectralFilter(nn.Module):
    """A learned filter of vectors' coordinates in the frequency domain (Ong and Khong, "Spectrum-based
    Modality Representation Fusion Graph Convolutional Network for Multimodal Recommendation" (SMORE), WSDM
    2025, https://arxiv.org/abs/2412.14978).

    Args:
        dim: size of the vectors.
        generator: of the initial filter, standard normal.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.randn(dim // 2 + 1, 2, generator=generator))
        """Real and imaginary part of each frequency."""

    @staticmethod
    def spectra(vectors: Tensor) -> Tensor:
        """The frequencies ``(n, dim // 2 + 1) complex64`` of real vectors ``(n, dim)``; orthonormal."""
        spectra: Tensor = torch.fft.rfft(vectors.float(), norm="ortho")
        return spectra

    def forward(self, spectra: Tensor) -> Tensor:
        """The filtered vectors ``(n, dim)`` of spectra ``(n, dim // 2 + 1)``."""
        passed = spectra * torch.view_as_complex(self.weight)
        filtered: Tensor = torch.fft.irfft(passed, n=self.dim, norm="ortho")
        return filtered


class GatedViewsConfig(PreferencesConfig, MultimodalConfig):
    """Options of models with gated views."""

    dim: int = Field(64, ge=1)
    """Embedding size."""
    n_ui_layers: int = Field(2, ge=0)
    """Layers on the user-item graph."""
    n_layers: int = Field(1, ge=1)
    """Layers on the item graphs."""
    knn_k: int = Field(10, ge=1)
    """Neighbors per item and modality, the item itself included."""
    reg_weight: float = Field(1e-4, ge=0)
    """Weight of the squared norms of the batch's embeddings."""
    cl_weight: float = Field(0.01, ge=0)
    """Weight of the contrast between what is known by content and by behavior."""
    temperature: float = Field(0.2, gt=0)
    """Temperature of the contrast."""
    contrast_repeats: bool = False
    """Let repeats of a user or an item in a batch be negatives of each other, as in the authors' code."""
    train_features: bool = False
    """Train the features as well, as the authors' code does."""
    cold_items: Literal["neighbors", "as_trained"] = "neighbors"
    """Embedding of items without train interactions."""
    graph_cache: Path | None = option(None, affects_result=False)
    """Directory in which neighbors are kept between runs; None computes them each time."""

    def neighbors(self, modality: str) -> int:
        """Neighbors per item in a modality."""
        return self.knn_k


class Nodes(NamedTuple):
    """What is known of ``n`` nodes before it is fused.

    Attributes:
        ids: their numbers, items after users ``(n,) int64``.
        content: embeddings by behavior, which the authors call content ``(n, d)``.
        views: embeddings in each view ``(n, d)``.
        known: the views that each node has ``(n, V) bool``.
    """

    ids: Tensor
    content: Tensor
    views: list[Tensor]
    known: Tensor


class GatedViewsRanker(MultimodalRanker, EmbeddingRanker):
    """A ranker whose embeddings are LightGCN's plus a fusion of views: in each view, item embeddings pass a
    gate that content controls, then an item graph of that content, and users have those of their items.

    A subclass defines :meth:`views`, one for each graph that it passes on, and :meth:`fuse`.
    """

    config: GatedViewsConfig
    known: Tensor

    def __init__(self, train: Interactions, features: Features, config: GatedViewsConfig) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.user_graph = items_to_users(train)
        self.projections = nn.ModuleDict(
            {
                m: ItemContent(
                    table,
                    config.dim,
                    config,
                    train,
                    self.rng(m),
                    fan_in_uniform_,
                    train_features=config.train_features,
                )
                for m, table in features.items()
            }
        )
        self.contrast = InfoNCE(config.temperature)
        self.cold_start_rule = ContentRule(dict.fromkeys(features, 1 / len(features)), config.knn_k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def content_graphs(self, features: Features) -> list[Graph]:
        """The item graph of each modality: cosines with the nearest items, divided by the roots of both
        items' sums.
        """
        c = self.config
        return [
            normalize_weights(
                item_graph(
                    table, c.neighbors(m), weight="cosine", cache=c.graph_cache, fill=c.fill,
                    train=self.train_pairs,
                ),
                "symmetric",
            )
            for m, table in features.items()
        ]  # fmt: skip

    def set_graphs(self, graphs: Sequence[Graph]) -> None:
        """Sets the item graph of each view, and which nodes have the view: items with neighbors in it, and
        the users of such items.
        """
        self.item_graphs = nn.ModuleList(graphs)
        items = torch.stack([(g.rowptr[1:] > g.rowptr[:-1]) for g in graphs], 1)  # (n_items, V)
        users = (self.user_graph @ items.float()) > 0  # (n_users, V)
        self.register_buffer("known", torch.cat([users, items]), persistent=False)

    def views(self) -> list[Tensor]:
        """Gated item embeddings of each view ``(n_items, d)``."""
        raise TypeError(f"{type(self).__name__} does not define views()")

    def fuse(self, nodes: Nodes, key: Tensor | None) -> Tensor:
        """What content says of some nodes ``(n, d)``.

        Args:
            nodes: what is known of them.
            key: seed of dropout ``() int64``; None: there is none.
        """
        raise TypeError(f"{type(self).__name__} does not define fuse()")

    def propagate(self) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]:
        """Embeddings by behavior ``(n_users, d), (n_items, d)``, and those of each view."""
        content = propagate_tables(self.graph, *self.id_embeddings, self.config.n_ui_layers)
        views = []
        for item_view, graph in zip(self.views(), self.item_graphs, strict=True):
            for _ in range(self.config.n_layers):
                item_view = graph(item_view)
            views.append((self.user_graph @ item_view, item_view))
        return content, views

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with one uniform negative and a seed for dropout."""
        return self.sampler.seeded_triplets(plan, "dropout")

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` and ``reg`` on the final embeddings, ``contrast_users`` and ``contrast_items`` between
        content and behavior. Only the batch's rows are fused.
        """
        content, views = self.propagate()

        def rows(table: tuple[Tensor, Tensor]) -> Tensor:
            return torch.cat(BatchEmbeddings.lookup(batch, *table))  # (3 B, d)

        items = torch.cat([batch.positives, batch.negatives])
        ids = torch.cat([batch.users, items + self.n_users])
        nodes = Nodes(ids, rows(content), [rows(view) for view in views], self.known[ids])
        side = self.fuse(nodes, batch.key)
        size = len(batch.users)
        final = BatchEmbeddings(*(nodes.content + side).split(size))
        terms = {
            "bpr": bpr(score_difference(*final)),
            "reg": self.config.reg_weight * half_squares(*final),
        }
        if self.config.cl_weight:
            for name, start, same in (("users", 0, batch.users), ("items", size, batch.positives)):
                part = slice(start, start + size)
                distinct = None if self.config.contrast_repeats else same
                value = self.contrast.in_batch(side[part], nodes.content[part], distinct)
                terms[f"contrast_{name}"] = self.config.cl_weight * value
        return terms

    def all_nodes(self) -> Nodes:
        """What is known of all users and items."""
        content, views = self.propagate()
        ids = torch.arange(len(self.known), device=self.known.device)
        return Nodes(ids, torch.cat(content), [torch.cat(view) for view in views], self.known)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings by behavior plus what content says, cold items by their neighbors."""
        nodes = self.all_nodes()
        users, items = (nodes.content + self.fuse(nodes, None)).split([self.n_users, self.n_items])
        return users, self.cold_items(items)

"""CODER: who will work on which file, from what files say, where they stand and who did what in projects.

Jin et al., "Code Recommendation for Open Source Software Developers", WWW 2023,
https://arxiv.org/abs/2210.08332. Segments of a file are attended to together with people who worked on it,
propagated over the tree of directories, then over the graph of people and files; what people did in whole
repositories is propagated beside it, and both are put together.

``Eq. n`` refers to the numbered equations in docs/models/coder.md. The authors' model was never published:
what the paper leaves open is an option, with the choice of the specification as its default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import embedding as rows
from torch_geometric.nn import GATConv

from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import Repositories
from graphrec.errors import ConfigError
from graphrec.graph import bipartite
from graphrec.losses import bpr
from graphrec.model import Features, ModelConfig, Ranker
from graphrec.nn import embedding, projection, propagate
from graphrec.sampling import Plan, triplets, uniform_negatives
from graphrec.search import Choice, Space


class Batch(NamedTuple):
    """Contributions, and what was done in repositories.

    Attributes:
        users: ``(B,) int64``.
        positives: files ``(B,) int64``.
        negatives: likewise.
        did: which behaviour ``(P,) int64``.
        doers: users ``(P,) int64``.
        done: repositories it was done in ``(P,) int64``.
        others: repositories it was not done in ``(P,) int64``.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    did: Tensor
    doers: Tensor
    done: Tensor
    others: Tensor


class CODER(Ranker):
    """Files by content, tree and projects."""

    class Config(ModelConfig):
        """Options of CODER."""

        dim: int = Field(32, ge=1)
        """Embedding size."""
        segments: int = Field(8, ge=1)
        """Segments of a file; features hold their vectors side by side."""
        queries: int = Field(4, ge=1)
        """People who worked on a file that its segments are attended to with."""
        attention: int = Field(32, ge=1)
        """Width of the attention."""
        tree_layers: int = Field(3, ge=1)
        """Layers over the tree."""
        heads: int = Field(4, ge=1)
        """Heads of each, side by side; they divide ``dim``."""
        n_layers: int = Field(4, ge=0)
        """Layers over people and files, and over people and repositories."""
        project_weight: float = Field(0.1, ge=0)
        """Weight of the loss on repositories (lambda 1)."""
        contrast_weight: float = Field(1e-6, ge=0)
        """Weight of the contrast between layers (lambda 2)."""
        contrast_layer: int = Field(2, ge=1)
        """Layer that is contrasted with the first, an even one to meet its own kind (eta)."""
        temperature: float = Field(0.1, gt=0)
        """Of the contrast."""
        reg_weight: float = Field(1e-4, ge=0)
        """Weight of the squared norm of all parameters (lambda 3)."""
        local_negatives: float = Field(0.0, ge=0, le=1)
        """Share of the negatives that come from the positive's repository."""
        semantics: bool = True
        """What files say; off: an embedding of their own instead."""
        own_embeddings: bool = False
        """Files have an embedding of their own beside what they say."""
        tree: bool = True
        """The tree of directories."""
        projects: bool = True
        """What people did in repositories."""
        refresh_every: int = Field(1, ge=1)
        """Steps between looking at contents and tree anew; in between files are taken as they were."""

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.dim % self.heads:
                raise ValueError(f"heads={self.heads} do not divide dim={self.dim}")
            if self.contrast_weight and self.contrast_layer > self.n_layers:
                raise ValueError(f"contrast_layer={self.contrast_layer} is beyond n_layers={self.n_layers}")
            return self

    name = "coder"
    modalities = True
    search_space: ClassVar[Space] = {
        "project_weight": Choice(1e-2, 1e-1, 1.0),
        "reg_weight": Choice(1e-5, 1e-4, 1e-3),
        "local_negatives": Choice(0.0, 0.5, 1.0),
        "train.learning_rate": Choice(1e-3, 3e-3, 1e-2),
    }
    config: Config
    code: Tensor
    says: Tensor
    queries: Tensor
    known: Tensor
    about: Tensor
    repository: Tensor
    tree_edges: Tensor
    tree_words: Tensor
    tree_weights: Tensor
    tree_offsets: Tensor

    def __init__(
        self, train: Interactions, code: np.ndarray | None, place: Repositories, config: Config
    ) -> None:
        super().__init__()
        d = config.dim
        self.config, self.train_pairs, self.place = config, train, place
        self.n_users, self.n_items = train.n_users, train.n_items
        self.graph = bipartite(train)
        self.user_embedding = embedding(self.n_users, d, self.stream("users"))
        if config.own_embeddings or not config.semantics:
            self.item_embedding = embedding(self.n_items, d, self.stream("items"))
        if config.semantics:
            assert code is not None
            parts = torch.from_numpy(code.reshape(self.n_items, config.segments, -1))  # (V, N_C, d')
            self.register_buffer("code", parts, persistent=False)
            self.register_buffer("says", (parts != 0).any(2), persistent=False)  # (V, N_C)
            self.project = projection(parts.shape[2], d, self.stream("code"))
            self.attention = CoAttention(d, config.attention, self.stream("attention"))
            self.register_buffer("queries", torch.zeros(self.n_items, config.queries, dtype=torch.int64))
            self.register_buffer("known", torch.from_numpy(train.item_degree > 0), persistent=False)
        self.register_buffer("repository", torch.from_numpy(place.repository), persistent=False)
        if config.tree or config.projects:
            self.about_repositories = projection(place.about.shape[1], d, self.stream("repositories"))
            self.register_buffer("about", torch.from_numpy(place.about), persistent=False)
        if config.tree:
            for part in ("edges", "words", "weights", "offsets"):
                self.register_buffer(f"tree_{part}", torch.from_numpy(getattr(place, part)), persistent=False)
            self.names = nn.EmbeddingBag(place.n_words, d, mode="sum", include_last_offset=True,
                                         _weight=torch.empty(place.n_words, d))  # fmt: skip
            nn.init.xavier_uniform_(self.names.weight, generator=self.stream("directories"))
            self.layers = nn.ModuleList(Tree(d, config.heads, self.stream(f"tree/{i}"))
                                        for i in range(config.tree_layers))  # fmt: skip
        self.behaviours = list(place.behaviours) if config.projects else []
        for name in self.behaviours:
            setattr(self, f"graph_{name}", bipartite(place.behaviours[name]))
        width = 2 * d if self.behaviours else d
        self.fuse_users, self.fuse_items = (
            mlp(width, d, self.stream(f"fuse/{w}")) for w in ("users", "items")
        )
        self._files: tuple[Tensor, Tensor] | None = None
        self._steps = 0

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.model.Model.build`; needs repositories and directories (``graphrec data git``)
        and, unless ``semantics=False``, one feature table of the extractor ``code-segments``.
        """
        config = config or cls.Config()
        code = None
        if config.semantics:
            code = segments_of(data, features, config.segments)
        return cls(data.train, code, Repositories.of(data), config)

    # -- files, by what they say and where they stand --------------------------------------------------------

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Draws anew who is asked about each file."""
        self._files, self._steps = None, 0
        if self.config.semantics:
            by_item = np.argsort(self.train_pairs.items, kind="stable")
            degree = self.train_pairs.item_degree
            first = np.cumsum(degree) - degree
            drawn = (rng.random((self.n_items, self.config.queries)) * degree[:, None]).astype(np.int64)
            at = np.minimum(first[:, None] + drawn, len(by_item) - 1)
            self.queries.copy_(torch.from_numpy(self.train_pairs.users[by_item[at]].astype(np.int64)))

    def files(self) -> tuple[Tensor, Tensor]:
        """Files ``(n_items, d)`` and repositories ``(n_repositories, d)`` before anybody works on them."""
        config, parts = self.config, []
        if config.semantics:
            people = self.user_embedding(self.queries) * self.known[:, None, None]  # (V, N_Q, d)
            parts.append(self.attention(self.project(self.code), people, self.says))
        if config.own_embeddings or not config.semantics:
            parts.append(self.item_embedding.weight)
        files = torch.stack(parts).sum(0)
        if not (config.tree or config.projects):
            return files, files[:0]
        repositories = self.about_repositories(self.about)
        if config.tree:
            directories = self.names(self.tree_words, self.tree_offsets, per_sample_weights=self.tree_weights)
            x = torch.cat([files, directories, repositories])
            for layer in self.layers:
                x = layer(x, self.tree_edges)  # Eq. 5
            files, repositories = x[: self.n_items], x[len(x) - len(repositories) :]
        return files, repositories

    def _refreshed(self) -> tuple[Tensor, Tensor]:
        if not self.training or self._files is None or self._steps % self.config.refresh_every == 0:
            files, repositories = self.files()
            if self.training:
                self._files, self._steps = (files.detach(), repositories.detach()), self._steps + 1
            return files, repositories
        self._steps += 1
        return self._files

    # -- people, files and projects --------------------------------------------------------------------------

    def propagate(self) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        """Final people and files, both by behaviour in repositories, and layers 0 and eta of the former."""
        files, repositories = self._refreshed()
        x = torch.cat([self.user_embedding.weight, files])  # (n_users + n_items, d)
        layers = [x]
        for _ in range(self.config.n_layers):
            layers.append(self.graph @ layers[-1])  # Eq. 6
        both = torch.stack(layers).mean(0)
        users, items = both[: self.n_users], both[self.n_users :]
        z = torch.cat([self.user_embedding.weight, repositories])
        macro = [
            cast(
                tuple[Tensor, Tensor],
                propagate(graph, z, self.config.n_layers).split([self.n_users, len(repositories)]),
            )
            for graph in (getattr(self, f"graph_{name}") for name in self.behaviours)
        ]  # Eq. 7
        if macro:
            z_users, z_items = (torch.stack([m[side] for m in macro]).mean(0) for side in (0, 1))
            users = torch.cat([users, z_users], 1)
            items = torch.cat([items, rows(self.repository, z_items)], 1)
        eta = min(self.config.contrast_layer, self.config.n_layers)
        return self.fuse_users(users), self.fuse_items(items), macro, layers[0], layers[eta]  # Eq. 8

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``bpr`` on files, ``projects``, ``contrast`` between layers, and ``reg`` (Eqs. 9-12)."""
        users, items, macro, first, later = self.propagate()
        u = rows(batch.users, users)
        difference = rows(batch.positives, items) - rows(batch.negatives, items)
        terms = {"bpr": bpr((u * difference).sum(1))}
        if macro and self.config.project_weight:
            by_behaviour = [
                bpr(
                    (rows(batch.doers, z) * (rows(batch.done, r) - rows(batch.others, r))).sum(1),
                    batch.did == t,
                )
                for t, (z, r) in enumerate(macro)
            ]
            terms["projects"] = self.config.project_weight * torch.stack(by_behaviour).sum()
        if self.config.contrast_weight:
            at = self.n_users
            terms["contrast"] = self.config.contrast_weight * (
                contrast(later[:at], first[:at], batch.users, self.config.temperature)
                + contrast(later[at:], first[at:], batch.positives, self.config.temperature)
            )
        if self.config.reg_weight:
            norms = torch.stack([p.square().sum() for p in self.parameters()])
            terms["reg"] = self.config.reg_weight * norms.sum()
        return terms

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings ``(n_users, d), (n_items, d)``."""
        users, items, *_ = self.propagate()
        return users, items

    # -- batches ---------------------------------------------------------------------------------------------

    def batches(self, plan: Plan) -> Iterator[Batch]:
        """Every train interaction once, with one negative, and the same share of what was done in
        repositories.
        """
        whole = list(triplets(self.train_pairs, plan))
        deeds = self._deeds(plan)
        edges = np.linspace(0, len(deeds[0]), len(whole) + 1).round().astype(int)
        rng = plan.rng("negatives/local")
        for (users, positives, negatives), low, high in zip(whole, edges, edges[1:], strict=False):
            if self.config.local_negatives:
                local = self.place.local_negatives(self.train_pairs, users.numpy(), positives.numpy(), rng)
                use = (local >= 0) & (rng.random(len(local)) < self.config.local_negatives)
                negatives = torch.where(torch.from_numpy(use), torch.from_numpy(local), negatives)
            yield Batch(users, positives, negatives, *(torch.from_numpy(a[low:high]) for a in deeds))

    def _deeds(self, plan: Plan) -> list[np.ndarray]:
        """All that was done in repositories, shuffled, each with one where it was not done."""
        found: list[tuple[np.ndarray, ...]] = []
        for t, name in enumerate(self.behaviours):
            pairs = self.place.behaviours[name]
            users = pairs.users.astype(np.int64)
            others = uniform_negatives(pairs, users, plan.rng(f"negatives/{name}"))
            kept = others >= 0
            found.append(
                (np.full(kept.sum(), t), users[kept], pairs.items[kept].astype(np.int64), others[kept])
            )
        columns = [np.concatenate([np.empty(0, np.int64), *part]) for part in zip(*found, strict=True)]
        columns = columns or [np.empty(0, np.int64)] * 4
        order = plan.rng("shuffle/repositories").permutation(len(columns[0]))
        return [column[order] for column in columns]


class CoAttention(nn.Module):
    """Attention over the segments of a file together with people who worked on it (Eqs. 1-4)."""

    def __init__(self, d: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.between = projection(d, d, generator)
        self.of_code, self.of_people = projection(d, width, generator), projection(d, width, generator)
        self.worth = projection(width, 1, generator)

    def weights(self, code: Tensor, people: Tensor, says: Tensor) -> Tensor:
        """Shares of the segments ``(V, N_C)``; zero where nothing is said.

        Args:
            code: ``(V, N_C, d)``.
            people: ``(V, N_Q, d)``, zero for nobody.
            says: which segments count ``(V, N_C) bool``.
        """
        affinity = torch.tanh(self.between(code) @ people.transpose(1, 2))  # (V, N_C, N_Q), Eq. 1
        hidden = torch.tanh(self.of_code(code) + self.of_people(affinity @ people))  # (V, N_C, N_H), Eq. 2
        worth = self.worth(hidden)[:, :, 0].masked_fill(~says, -torch.inf)
        return torch.where(says, worth.softmax(1), 0)  # Eq. 3; a file without any is nowhere attended to

    def forward(self, code: Tensor, people: Tensor, says: Tensor) -> Tensor:
        """Files ``(V, d)`` (Eq. 4)."""
        return (self.weights(code, people, says)[:, :, None] * code).sum(1)


class Tree(nn.Module):
    """One layer over the tree: graph attention (https://arxiv.org/abs/1710.10903), and what was before."""

    def __init__(self, d: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.attention = GATConv(d, d // heads, heads)
        for parameter in self.attention.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Nodes ``(n, d)`` from nodes ``(n, d)`` and edges ``(2, E)``."""
        return x + nn.functional.elu(self.attention(x, edges))


def contrast(later: Tensor, first: Tensor, index: Tensor, temperature: float) -> Tensor:
    """``-sum log softmax`` of a node's own first layer among those of all (Eq. 11), over distinct nodes."""
    index = index.unique()
    later, first = nn.functional.normalize(later), nn.functional.normalize(first)
    logits = rows(index, later) @ first.T / temperature  # (B, n)
    return nn.functional.cross_entropy(logits, index, reduction="sum")


def mlp(width: int, d: int, generator: torch.Generator) -> nn.Sequential:
    """Two layers."""
    layers = nn.Linear(width, d), nn.Linear(d, d)
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def segments_of(data: Dataset, features: Features | None, segments: int) -> np.ndarray:
    """Vectors of the segments ``(n_items, segments * d) float32``, zero for files without any.

    Raises:
        ConfigError: not one table, or of another number of segments.
    """
    if not features or len(features) != 1:
        given = sorted(features or {})
        raise ConfigError(
            f"CODER needs one feature table, of the extractor code-segments, and got {given or 'none'}; run: "
            "graphrec features build DATASET --field code --extractor code-segments"
        )
    (table,) = features.values()
    values = table.check(data).numpy(np.float32)
    if values.shape[1] % segments:
        raise ConfigError(f"vectors of {values.shape[1]} values are not those of {segments} segments")
    values[~np.asarray(table.present)] = 0
    return values

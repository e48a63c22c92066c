"""CODER: who will work on which file, from what files say, where they stand and who did what in projects.

Jin et al., "Code Recommendation for Open Source Software Developers", WWW 2023,
https://arxiv.org/abs/2210.08332. Segments of a file are attended to together with people who worked on it,
propagated over the tree of directories, then over the graph of people and files; what people did in whole
repositories is propagated beside it, and both are put together.

``Eq. n`` refers to the numbered equations in docs/models/coder.md. The authors' model was never published:
what the paper leaves open is an option, with the choice of the specification as its default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import embedding as rows
from torch_geometric.nn import GATConv

from graphrec.code.cochange import CoChangeConfig, CoChangeTerm
from graphrec.code.sessions import Sessions
from graphrec.core.errors import ConfigError
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import Repositories
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.batches import EpochContext, InGroupNegatives, triplets, uniform_negatives
from graphrec.models.layers import embedding, projection, propagate
from graphrec.models.losses import bpr
from graphrec.models.search_space import Choice, Space

PRODUCTS = 2**18  # of the contrast at a time


class Batch(NamedTuple):
    """Contributions, and what was done in repositories.

    Attributes:
        users: or sessions ``(B,) int64``.
        positives: files ``(B,) int64``.
        negatives: likewise.
        did: which behavior ``(P,) int64``.
        doers: users ``(P,) int64``.
        done: repositories it was done in ``(P,) int64``.
        others: repositories it was not done in ``(P,) int64``.
        beside: co-change of positives less that of negatives ``(B,) float32``; empty without ``cochange``.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    did: Tensor
    doers: Tensor
    done: Tensor
    others: Tensor
    beside: Tensor


class Propagated(NamedTuple):
    """What all graphs come to.

    Attributes:
        doing: people, or their sessions ``(n_users or n_sessions, d)``.
        items: files ``(n_items, d)``.
        done: by behavior, users ``(n_users, d)`` and repositories ``(n_repositories, d)``.
        first: people, or sessions, and files before propagation ``(n_users or n_sessions + n_items, d)``.
        later: likewise after ``contrast_layer`` layers.
    """

    doing: Tensor
    items: Tensor
    done: list[tuple[Tensor, Tensor]]
    first: Tensor
    later: Tensor


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
        contrast_among: Literal["all", "batch"] = "all"
        """The nodes among which one is to be told; all takes time and memory in proportion to them."""
        temperature: float = Field(0.1, gt=0)
        """Of the contrast."""
        reg_weight: float = Field(1e-4, ge=0)
        """Weight of the squared norm of all parameters (lambda 3)."""
        local_negatives: float = Field(0.0, ge=0, le=1)
        """Share of the negatives that come from the positive's repository."""
        semantics: bool = True
        """What files say; off: an embedding of their own instead."""
        tree: bool = True
        """The tree of directories."""
        projects: bool = True
        """What people did in repositories."""
        fusion: Literal["mlp", "sum"] = "mlp"
        """How files and projects are put together: by a network each for people and files, or by adding."""
        session: float = Field(0.0, ge=0)
        """Days of a session; people are then nodes for each of theirs; 0 is the paper's model."""
        identity: bool = False
        """Files have an embedding of their own beside what they say."""
        cochange: float = Field(0.0, ge=0)
        """Weight, to begin with, of co-change beside what is learned; 0 is the paper's model."""
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
    extractor = "code-segments"
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
    person: Tensor
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
        self.local = (
            InGroupNegatives(place.repository, config.local_negatives) if config.local_negatives else None
        )
        self.config, self.train_pairs, self.place = config, train, place
        self.n_users, self.n_items = train.n_users, train.n_items
        self.sessions = Sessions.cut(train, config.session) if config.session else None
        self.doing = train if self.sessions is None else self.sessions.pairs
        self.graph = bipartite(self.doing)
        self.user_embedding = embedding(self.doing.n_users, d, self.rng("users"))
        if self.sessions is not None:
            self.share = self.sessions.share
            self.register_buffer("person", torch.from_numpy(self.sessions.person), persistent=False)
        if config.identity or not config.semantics:
            self.item_embedding = embedding(self.n_items, d, self.rng("items"))
        if config.semantics:
            assert code is not None
            parts = torch.from_numpy(code.reshape(self.n_items, config.segments, -1))  # (V, N_C, d')
            self.register_buffer("code", parts, persistent=False)
            self.register_buffer("says", (parts != 0).any(2), persistent=False)  # (V, N_C)
            self.project = projection(parts.shape[2], d, self.rng("code"))
            self.attention = CoAttention(d, config.attention, self.rng("attention"))
            self.register_buffer("queries", torch.zeros(self.n_items, config.queries, dtype=torch.int64))
            self.register_buffer("known", torch.from_numpy(train.item_degree > 0), persistent=False)
        self.register_buffer("repository", torch.from_numpy(place.repository), persistent=False)
        if config.tree or config.projects:
            self.about_repositories = projection(place.about.shape[1], d, self.rng("repositories"))
            self.register_buffer("about", torch.from_numpy(place.about), persistent=False)
        if config.tree:
            for part in ("edges", "words", "weights", "offsets"):
                self.register_buffer(f"tree_{part}", torch.from_numpy(getattr(place, part)), persistent=False)
            self.names = nn.EmbeddingBag(place.n_words, d, mode="sum", include_last_offset=True,
                                         _weight=torch.empty(place.n_words, d))  # fmt: skip
            nn.init.xavier_uniform_(self.names.weight, generator=self.rng("directories"))
            self.layers = nn.ModuleList(Tree(d, config.heads, self.rng(f"tree/{i}"))
                                        for i in range(config.tree_layers))  # fmt: skip
        self.behaviors = list(place.behaviors) if config.projects else []
        for name in self.behaviors:
            setattr(self, f"graph_{name}", bipartite(place.behaviors[name]))
        if config.fusion == "mlp":
            width = 2 * d if self.behaviors else d
            self.fuse_users = mlp(width, d, self.rng("fuse/users"))
            self.fuse_items = mlp(width, d, self.rng("fuse/items"))
        if config.cochange:
            self.beside = CoChangeTerm(train, CoChangeConfig())
            self.log_weight = nn.Parameter(torch.tensor(math.log(config.cochange)))
        self._files: tuple[Tensor, Tensor] | None = None
        self._steps = 0

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; needs repositories, and features of ``code-segments``."""
        config = config or cls.Config()
        code = segments_of(data, features, config.segments) if config.semantics else None
        return cls(data.train, code, Repositories.from_dataset(data), config)

    @classmethod
    def needs_features(cls, config: ModelConfig) -> bool:
        """Unless contents are switched off."""
        return bool(getattr(config, "semantics", True))

    # -- files, by what they say and where they stand --------------------------------------------------------

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Draws anew who is asked about each file."""
        self._files, self._steps = None, 0
        if self.config.semantics:
            by_item = np.argsort(self.doing.items, kind="stable")
            degree = self.doing.item_degree
            first = np.cumsum(degree) - degree
            drawn = (rng.random((self.n_items, self.config.queries)) * degree[:, None]).astype(np.int64)
            at = np.minimum(first[:, None] + drawn, len(by_item) - 1)
            self.queries.copy_(torch.from_numpy(self.doing.users[by_item[at]].astype(np.int64)))

    def files(self) -> tuple[Tensor, Tensor]:
        """Files ``(n_items, d)`` and repositories ``(n_repositories, d)`` before anybody works on them."""
        config = self.config
        if config.semantics:
            people = self.user_embedding(self.queries) * self.known[:, None, None]  # (V, N_Q, d)
            files = self.attention(self.project(self.code), people, self.says)
            if config.identity:
                files = files + self.item_embedding.weight
        else:
            files = self.item_embedding.weight
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

    def propagate(self) -> Propagated:
        """People, files and repositories after all graphs."""
        config, (files, repositories) = self.config, self._refreshed()
        doing = self.user_embedding.weight
        sizes, layers = [len(doing), self.n_items], [torch.cat([doing, files])]
        for _ in range(config.n_layers):
            layers.append(self.graph @ layers[-1])  # Eq. 6
        z = torch.cat([self._people(doing), repositories])
        doing, items = torch.stack(layers).mean(0).split(sizes)
        done = []
        for graph in (getattr(self, f"graph_{name}") for name in self.behaviors):
            x = propagate(graph, z, config.n_layers)  # Eq. 7
            done.append((x[: self.n_users], x[self.n_users :]))
        if done:
            of_users, of_repositories = (torch.stack(side).mean(0) for side in zip(*done, strict=True))
            of_items = rows(self.repository, of_repositories)
            if self.sessions is not None:
                of_users = rows(self.person, of_users)
            if config.fusion == "sum":
                doing, items = doing + of_users, items + of_items
            else:
                doing, items = torch.cat([doing, of_users], 1), torch.cat([items, of_items], 1)
        if config.fusion == "mlp":
            doing, items = self.fuse_users(doing), self.fuse_items(items)  # Eq. 8
        return Propagated(doing, items, done, layers[0], layers[min(config.contrast_layer, config.n_layers)])

    def _people(self, doing: Tensor) -> Tensor:
        """People ``(n_users, d)`` from their sessions (Eq. 14); without sessions they are what is given."""
        return doing if self.sessions is None else self.share @ doing

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``bpr`` on files, ``projects``, ``contrast`` between layers, and ``reg`` (Eqs. 9-12)."""
        config, found, sizes = self.config, self.propagate(), [self.doing.n_users, self.n_items]
        difference = rows(batch.positives, found.items) - rows(batch.negatives, found.items)
        better = (rows(batch.users, found.doing) * difference).sum(1)
        if config.cochange:
            better = better + self.log_weight.exp() * batch.beside  # Eq. 13
        terms = {"bpr": bpr(better)}
        if found.done and config.project_weight:
            losses = []
            for t, (z, r) in enumerate(found.done):
                difference = rows(batch.done, r) - rows(batch.others, r)
                losses.append(bpr((rows(batch.doers, z) * difference).sum(1), batch.did == t))
            terms["projects"] = config.project_weight * torch.stack(losses).sum()
        if config.contrast_weight:
            sides = zip(found.later.split(sizes), found.first.split(sizes), (batch.users, batch.positives),
                        strict=True)  # fmt: skip
            losses = [contrast(*side, config.temperature, config.contrast_among == "all") for side in sides]
            terms["contrast"] = config.contrast_weight * torch.stack(losses).sum()
        if config.reg_weight:
            norms = [p.square().sum() for name, p in self.named_parameters() if name != "log_weight"]
            terms["reg"] = config.reg_weight * torch.stack(norms).sum()
        return terms

    def embed(self) -> tuple[Tensor, Tensor] | tuple[Graph, Graph]:
        """Final embeddings ``(n_users, d), (n_items, d)``; with co-change those and, over the items, what a
        person worked on and what each item was worked on with.
        """
        doing, items, *_ = self.propagate()
        users = self._people(doing)
        if not self.config.cochange:
            return users, items
        return self.beside.joined(users, items, float(self.log_weight.exp()))  # Eq. 13

    # -- batches ---------------------------------------------------------------------------------------------

    def batches(self, plan: EpochContext) -> Iterator[Batch]:
        """Every train interaction once, with one negative, and as large a share of what was done."""
        whole = list(triplets(self.train_pairs, plan, self.local))
        deeds = self._deeds(plan)
        edges = np.linspace(0, len(deeds[0]), len(whole) + 1).round().astype(int)
        for triplet, low, high in zip(whole, edges, edges[1:], strict=False):
            beside = self.beside.differences(triplet) if self.config.cochange else torch.empty(0)
            did, doers, done, others = (torch.from_numpy(a[low:high]) for a in deeds)
            if self.sessions is not None:
                of = self.sessions.of[self.train_pairs.positions(triplet.users, triplet.positives)]
                triplet = triplet._replace(users=torch.from_numpy(of))
            yield Batch(*triplet, did, doers, done, others, beside)

    def _deeds(self, plan: EpochContext) -> list[np.ndarray]:
        """All that was done in repositories, shuffled, each with one where it was not done."""
        found: list[tuple[np.ndarray, ...]] = []
        for t, name in enumerate(self.behaviors):
            pairs = self.place.behaviors[name]
            users = pairs.users.astype(np.int64)
            others = uniform_negatives(pairs, users, plan.rng(f"negatives/{name}"))
            kept = others >= 0
            done = pairs.items[kept].astype(np.int64)
            found.append((np.full(kept.sum(), t), users[kept], done, others[kept]))
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


def contrast(later: Tensor, first: Tensor, index: Tensor, temperature: float, among_all: bool) -> Tensor:
    """``-sum log softmax`` of a node's own first layer among those of all, or of the batch's (Eq. 11), over
    distinct nodes.
    """
    index = index.unique()
    own = nn.functional.normalize(rows(index, later)) / temperature  # (B, d)
    its = nn.functional.normalize(rows(index, first))
    others = nn.functional.normalize(first) if among_all else its
    among: Tensor = _SumLogSumExp.apply(own, others, 1 / temperature)
    return among - (own * its).sum()


class _SumLogSumExp(torch.autograd.Function):
    """``sum_b log sum_n exp(x_b y_n)`` of rows ``(B, d), (N, d)`` whose products stay below ``most``. The
    ``(B, N)`` products are taken some rows at a time, which stay in the cache and never exist all at once;
    the gradients are found on the way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, most: float) -> Tensor:
        total, by_x, by_y = x.new_zeros(()), torch.empty_like(x), torch.zeros_like(y)
        step = max(16, PRODUCTS // len(y))
        for part in (slice(start, start + step) for start in range(0, len(x), step)):
            share = (x[part] @ y.T).sub_(most).exp_()
            sums = share.sum(1, keepdim=True)
            total += sums.log().sum() + most * len(sums)
            share /= sums
            by_x[part] = share @ y
            by_y.addmm_(share.T, x[part])
        ctx.save_for_backward(by_x, by_y)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        by_x, by_y = ctx.saved_tensors
        return gradients[0] * by_x, gradients[0] * by_y, None


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
            "graphrec features build DATASET --text code-segments"
        )
    (table,) = features.values()
    values = table.check(data).numpy(np.float32)
    if values.shape[1] % segments:
        raise ConfigError(f"vectors of {values.shape[1]} values are not those of {segments} segments")
    values[~np.asarray(table.present)] = 0
    return values

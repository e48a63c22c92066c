"""CODER: who will work on which file, from file contents, the directory tree and behavior in projects.

Jin et al., "Code Recommendation for Open Source Software Developers", WWW 2023,
https://arxiv.org/abs/2210.08332. A co-attention between the segments of a file and people who worked on it
gives a vector of the file, which is propagated over the directory tree and then over the graph of people and
files. Behavior of people in whole repositories is propagated separately, and both results are fused.

``Eq. n`` refers to the numbered equations in docs/models/coder.md. The authors' code was never published:
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

from graphrec.code.cochange import CoChangeConfig, CoChangeTerm
from graphrec.code.sessions import Sessions
from graphrec.core.errors import ConfigError
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import Repositories
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.batches import EpochContext, Triplets, uniform_negatives
from graphrec.models.layers import embedding, projection, propagate
from graphrec.models.losses import bpr, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Space

BLOCK_SIZE = 2**18
"""Number of inner products of the contrastive loss computed at a time."""


class Batch(NamedTuple):
    """Contributions, and behavior in repositories.

    Attributes:
        users: users, or sessions ``(B,) int64``.
        positives: files ``(B,) int64``.
        negatives: files ``(B,) int64``.
        behavior: index of the behavior ``(P,) int64``.
        behavior_users: users ``(P,) int64``.
        positive_repos: repositories in which the user showed the behavior ``(P,) int64``.
        negative_repos: repositories in which the user did not ``(P,) int64``.
        cochange_difference: co-change of positives minus that of negatives ``(B,) float32``; empty without
            ``cochange``.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    behavior: Tensor
    behavior_users: Tensor
    positive_repos: Tensor
    negative_repos: Tensor
    cochange_difference: Tensor


class Propagated(NamedTuple):
    """Embeddings after all graphs.

    Attributes:
        users: users, or their sessions ``(n_users or n_sessions, d)``.
        items: files ``(n_items, d)``.
        by_behavior: for each behavior users ``(n_users, d)`` and repositories ``(n_repositories, d)``.
        first_layer: users, or sessions, and files before propagation ``(n_users or n_sessions + n_items,
            d)``.
        contrast_layer: the same after ``contrast_layer`` layers.
    """

    users: Tensor
    items: Tensor
    by_behavior: list[tuple[Tensor, Tensor]]
    first_layer: Tensor
    contrast_layer: Tensor


class CODER(Ranker):
    """Ranks files by content, directory tree and projects."""

    class Config(ModelConfig):
        """Options of CODER."""

        dim: int = Field(32, ge=1)
        """Embedding size."""
        segments: int = Field(8, ge=1)
        """Segments of a file; a feature vector is the concatenation of their vectors."""
        queries: int = Field(4, ge=1)
        """People who worked on a file that take part in its co-attention."""
        attention: int = Field(32, ge=1)
        """Width of the attention."""
        tree_layers: int = Field(3, ge=1)
        """Layers over the tree."""
        heads: int = Field(4, ge=1)
        """Attention heads of a tree layer, concatenated; a divisor of ``dim``."""
        n_layers: int = Field(4, ge=0)
        """Layers over people and files, and over people and repositories."""
        project_weight: float = Field(0.1, ge=0)
        """Weight of the loss on repositories (lambda 1)."""
        contrast_weight: float = Field(1e-6, ge=0)
        """Weight of the contrast between layers (lambda 2)."""
        contrast_layer: int = Field(2, ge=1)
        """Layer that is contrasted with the first; even, so that users meet users and files meet files
        (eta)."""
        contrast_among: Literal["all", "batch"] = "all"
        """Negatives of the contrastive loss: all nodes, at a cost in proportion to their number, or the
        batch's."""
        temperature: float = Field(0.1, gt=0)
        """Temperature of the contrastive loss."""
        reg_weight: float = Field(1e-4, ge=0)
        """Weight of the squared norm of all parameters (lambda 3)."""
        local_negatives: float = Field(0.0, ge=0, le=1)
        """Share of the negatives that are drawn from the positive's repository."""
        semantics: bool = True
        """Use file contents; False: a learned embedding of each file instead."""
        tree: bool = True
        """Use the directory tree."""
        projects: bool = True
        """Use people's behavior in repositories."""
        fusion: Literal["mlp", "sum"] = "mlp"
        """Fusion of both results: by one network for people and one for files, or by addition."""
        session: float = Field(0.0, ge=0)
        """Length of a session in days; each session is then a node of the graph. 0 is the paper's model."""
        identity: bool = False
        """Add a learned embedding of each file to its content vector."""
        cochange: float = Field(0.0, ge=0)
        """Initial weight of co-change, added to the model's score; 0 is the paper's model."""
        refresh_every: int = Field(1, ge=1)
        """Steps between updates of the file vectors from contents and tree; in between they are constants."""

        @model_validator(mode="after")
        def _check(self) -> Self:
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
    segment_mask: Tensor
    queries: Tensor
    has_users: Tensor
    session_user: Tensor
    repository_features: Tensor
    repository: Tensor
    tree_edges: Tensor
    tree_words: Tensor
    tree_weights: Tensor
    tree_offsets: Tensor

    def __init__(
        self, train: Interactions, code: np.ndarray | None, repositories: Repositories, config: Config
    ) -> None:
        super().__init__()
        d = config.dim
        self.config = config
        self.train_pairs = train
        self.repositories = repositories
        self.n_users = train.n_users
        self.n_items = train.n_items
        self.sessions = Sessions.from_interactions(train, config.session) if config.session else None
        self.node_pairs = train if self.sessions is None else self.sessions.pairs
        self.graph = bipartite(self.node_pairs)
        self.user_embedding = embedding(self.node_pairs.n_users, d, self.rng("users"))
        if self.sessions is not None:
            self.session_weights = self.sessions.weights
            self.register_buffer("session_user", torch.from_numpy(self.sessions.user), persistent=False)
        if config.identity or not config.semantics:
            self.item_embedding = embedding(self.n_items, d, self.rng("items"))
        if config.semantics:
            assert code is not None
            segments = torch.from_numpy(code.reshape(self.n_items, config.segments, -1))  # (V, N_C, d')
            self.register_buffer("code", segments, persistent=False)
            self.register_buffer("segment_mask", (segments != 0).any(2), persistent=False)  # (V, N_C)
            self.project = projection(segments.shape[2], d, self.rng("code"))
            self.attention = CoAttention(d, config.attention, self.rng("attention"))
            self.register_buffer("queries", torch.zeros(self.n_items, config.queries, dtype=torch.int64))
            self.register_buffer("has_users", torch.from_numpy(train.item_degree > 0), persistent=False)
        self.register_buffer("repository", torch.from_numpy(repositories.repository), persistent=False)
        if config.tree or config.projects:
            features = torch.from_numpy(repositories.features)
            self.about_repositories = projection(features.shape[1], d, self.rng("repositories"))
            self.register_buffer("repository_features", features, persistent=False)
        if config.tree:
            for part in ("edges", "words", "weights", "offsets"):
                array = getattr(repositories, part)
                self.register_buffer(f"tree_{part}", torch.from_numpy(array), persistent=False)
            self.names = nn.EmbeddingBag(
                repositories.n_words,
                d,
                mode="sum",
                include_last_offset=True,
                _weight=torch.empty(repositories.n_words, d),
            )
            nn.init.xavier_uniform_(self.names.weight, generator=self.rng("directories"))
            self.layers = nn.ModuleList(
                TreeLayer(d, config.heads, self.rng(f"tree/{i}")) for i in range(config.tree_layers)
            )
        self.behaviors = list(repositories.behaviors) if config.projects else []
        for name in self.behaviors:
            setattr(self, f"graph_{name}", bipartite(repositories.behaviors[name]))
        if config.fusion == "mlp":
            width = 2 * d if self.behaviors else d
            self.fuse_users = mlp(width, d, self.rng("fuse/users"))
            self.fuse_items = mlp(width, d, self.rng("fuse/items"))
        if config.cochange:
            self.cochange_term = CoChangeTerm(train, CoChangeConfig())
            self.log_weight = nn.Parameter(torch.tensor(math.log(config.cochange)))
        self._files: tuple[Tensor, Tensor] | None = None
        self._steps = 0

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; needs repositories and features of
        ``code-segments``.
        """
        config = config or cls.Config()
        code = segments_of(data, features, config.segments) if config.semantics else None
        model = cls(data.train, code, Repositories.from_dataset(data), config)
        return model.with_sampler(data, features)

    @classmethod
    def needs_features(cls, config: ModelConfig) -> bool:
        """Whether file contents are used."""
        return bool(getattr(config, "semantics", True))

    # -- files, from contents and directory tree -------------------------------------------------------------

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Draws the people who take part in the co-attention of each file."""
        self._files = None
        self._steps = 0
        if self.config.semantics:
            by_item = np.argsort(self.node_pairs.items, kind="stable")
            degree = self.node_pairs.item_degree
            first = np.cumsum(degree) - degree
            drawn = (rng.random((self.n_items, self.config.queries)) * degree[:, None]).astype(np.int64)
            index = np.minimum(first[:, None] + drawn, len(by_item) - 1)
            self.queries.copy_(torch.from_numpy(self.node_pairs.users[by_item[index]].astype(np.int64)))

    def files(self) -> tuple[Tensor, Tensor]:
        """Vectors of files ``(n_items, d)`` and repositories ``(n_repositories, d)`` before propagation."""
        config = self.config
        if config.semantics:
            people = self.user_embedding(self.queries) * self.has_users[:, None, None]  # (V, N_Q, d)
            files = self.attention(self.project(self.code), people, self.segment_mask)
            if config.identity:
                files = files + self.item_embedding.weight
        else:
            files = self.item_embedding.weight
        if not (config.tree or config.projects):
            return files, files[:0]
        repositories = self.about_repositories(self.repository_features)
        if config.tree:
            directories = self.names(self.tree_words, self.tree_offsets, per_sample_weights=self.tree_weights)
            x = torch.cat([files, directories, repositories])
            for layer in self.layers:
                x = layer(x, self.tree_edges)  # Eq. 5
            files = x[: self.n_items]
            repositories = x[len(x) - len(repositories) :]
        return files, repositories

    def _cached_files(self) -> tuple[Tensor, Tensor]:
        """:meth:`files`, in training computed only every ``refresh_every`` steps."""
        if not self.training:
            return self.files()
        step = self._steps
        self._steps += 1
        if self._files is not None and step % self.config.refresh_every:
            return self._files
        files, repositories = self.files()
        self._files = (files.detach(), repositories.detach())
        return files, repositories

    # -- people, files and projects --------------------------------------------------------------------------

    def propagate(self) -> Propagated:
        """Embeddings of people, files and repositories after all graphs."""
        config = self.config
        files, repositories = self._cached_files()
        users = self.user_embedding.weight
        sizes = [len(users), self.n_items]
        layers = [torch.cat([users, files])]
        for _ in range(config.n_layers):
            layers.append(self.graph @ layers[-1])  # Eq. 6
        z = torch.cat([self._user_vectors(users), repositories])
        users, items = torch.stack(layers).mean(0).split(sizes)
        by_behavior = []
        for graph in (getattr(self, f"graph_{name}") for name in self.behaviors):
            x = propagate(graph, z, config.n_layers)  # Eq. 7
            by_behavior.append((x[: self.n_users], x[self.n_users :]))
        if by_behavior:
            project_users, project_repositories = (
                torch.stack(side).mean(0) for side in zip(*by_behavior, strict=True)
            )
            project_items = gather(project_repositories, self.repository)
            if self.sessions is not None:
                project_users = gather(project_users, self.session_user)
            if config.fusion == "sum":
                users = users + project_users
                items = items + project_items
            else:
                users = torch.cat([users, project_users], 1)
                items = torch.cat([items, project_items], 1)
        if config.fusion == "mlp":
            users = self.fuse_users(users)  # Eq. 8
            items = self.fuse_items(items)
        contrast_layer = layers[min(config.contrast_layer, config.n_layers)]
        return Propagated(users, items, by_behavior, layers[0], contrast_layer)

    def _user_vectors(self, nodes: Tensor) -> Tensor:
        """Users ``(n_users, d)`` from their sessions (Eq. 14); without sessions the nodes are the users."""
        return nodes if self.sessions is None else self.session_weights @ nodes

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``bpr`` on files, ``projects``, ``contrast`` between layers, and ``reg`` (Eqs. 9-12)."""
        config = self.config
        embeddings = self.propagate()
        margin = score_difference(*BatchEmbeddings.lookup(batch, embeddings.users, embeddings.items))
        if config.cochange:
            margin = margin + self.log_weight.exp() * batch.cochange_difference  # Eq. 13
        terms = {"bpr": bpr(margin)}
        if embeddings.by_behavior and config.project_weight:
            losses = []
            for t, (z, r) in enumerate(embeddings.by_behavior):
                index = Triplets(batch.behavior_users, batch.positive_repos, batch.negative_repos)
                margin = score_difference(*BatchEmbeddings.lookup(index, z, r))
                losses.append(bpr(margin, batch.behavior == t))
            terms["projects"] = config.project_weight * torch.stack(losses).sum()
        if config.contrast_weight:
            sizes = [self.node_pairs.n_users, self.n_items]
            later = embeddings.contrast_layer.split(sizes)
            first = embeddings.first_layer.split(sizes)
            losses = [
                contrast(*side, config.temperature, config.contrast_among == "all")
                for side in zip(later, first, (batch.users, batch.positives), strict=True)
            ]
            terms["contrast"] = config.contrast_weight * torch.stack(losses).sum()
        if config.reg_weight:
            norms = [p.square().sum() for name, p in self.named_parameters() if name != "log_weight"]
            terms["reg"] = config.reg_weight * torch.stack(norms).sum()
        return terms

    def embed(self) -> tuple[Tensor, Tensor] | tuple[Graph, Graph]:
        """Final embeddings ``(n_users, d), (n_items, d)``; with co-change, profiles of users and neighbors of
        items are appended (Eq. 13).
        """
        nodes, items, *_ = self.propagate()
        users = self._user_vectors(nodes)
        if not self.config.cochange:
            return users, items
        return self.cochange_term.append_to(users, items, float(self.log_weight.exp()))

    # -- batches ---------------------------------------------------------------------------------------------

    def batches(self, plan: EpochContext) -> Iterator[Batch]:
        """Every train interaction once, with one negative, and an equal share of the behavior."""
        batches = list(self.sampler.triplets(plan))
        samples = self._behavior_samples(plan)
        edges = np.linspace(0, len(samples[0]), len(batches) + 1).round().astype(int)
        for triplet, low, high in zip(batches, edges, edges[1:], strict=False):
            cochange_difference = torch.empty(0)
            if self.config.cochange:
                cochange_difference = self.cochange_term.differences(triplet)
            if self.sessions is not None:
                session = self.sessions.session_of[
                    self.train_pairs.positions(triplet.users, triplet.positives)
                ]
                triplet = triplet._replace(users=torch.from_numpy(session))
            behavior, users, positives, negatives = (torch.from_numpy(a[low:high]) for a in samples)
            yield Batch(*triplet, behavior, users, positives, negatives, cochange_difference)

    def _behavior_samples(self, plan: EpochContext) -> list[np.ndarray]:
        """Behavior, user, positive and negative repository of every interaction with a repository, in random
        order, four arrays ``(n,) int64``.
        """
        samples: list[tuple[np.ndarray, ...]] = []
        for t, name in enumerate(self.behaviors):
            pairs = self.repositories.behaviors[name]
            users = pairs.users.astype(np.int64)
            negatives = uniform_negatives(pairs, users, plan.rng(f"negatives/{name}"))
            valid = negatives >= 0
            positives = pairs.items[valid].astype(np.int64)
            samples.append((np.full(valid.sum(), t), users[valid], positives, negatives[valid]))
        empty = np.empty(0, np.int64)
        columns = [np.concatenate([empty, *column]) for column in zip(*samples, strict=True)] or [empty] * 4
        order = plan.rng("shuffle/repositories").permutation(len(columns[0]))
        return [column[order] for column in columns]


class CoAttention(nn.Module):
    """Co-attention between the segments of a file and people who worked on it (Eqs. 1-4)."""

    def __init__(self, d: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.between = projection(d, d, generator)
        self.of_code = projection(d, width, generator)
        self.of_people = projection(d, width, generator)
        self.worth = projection(width, 1, generator)

    def weights(self, code: Tensor, people: Tensor, segment_mask: Tensor) -> Tensor:
        """Weights of the segments ``(V, N_C)``, zero for empty segments.

        Args:
            code: ``(V, N_C, d)``.
            people: ``(V, N_Q, d)``, zero for a file without people.
            segment_mask: which segments are not empty ``(V, N_C) bool``.
        """
        affinity = torch.tanh(self.between(code) @ people.transpose(1, 2))  # (V, N_C, N_Q), Eq. 1
        hidden = torch.tanh(self.of_code(code) + self.of_people(affinity @ people))  # (V, N_C, N_H), Eq. 2
        score = self.worth(hidden)[:, :, 0].masked_fill(~segment_mask, -torch.inf)
        return torch.where(segment_mask, score.softmax(1), 0)  # Eq. 3; all zero for a file without segments

    def forward(self, code: Tensor, people: Tensor, segment_mask: Tensor) -> Tensor:
        """Files ``(V, d)`` (Eq. 4)."""
        return (self.weights(code, people, segment_mask)[:, :, None] * code).sum(1)


class TreeLayer(nn.Module):
    """One layer over the directory tree: graph attention (https://arxiv.org/abs/1710.10903) with a residual
    connection.
    """

    def __init__(self, d: int, heads: int, generator: torch.Generator) -> None:
        # Imported on use: it takes seconds, and listing the models imports this file.
        from torch_geometric.nn import GATConv

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


def gather(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table ``(B, d)``; its backward is faster than that of ``table[index]``."""
    return nn.functional.embedding(index, table)


def contrast(later: Tensor, first: Tensor, index: Tensor, temperature: float, among_all: bool) -> Tensor:
    """``-sum log softmax`` of a node's first layer among those of all nodes, or of the batch's (Eq. 11), over
    distinct nodes.
    """
    index = index.unique()
    anchors = nn.functional.normalize(gather(later, index)) / temperature  # (B, d)
    positives = nn.functional.normalize(gather(first, index))
    compared = nn.functional.normalize(first) if among_all else positives
    log_sums: Tensor = _SumLogSumExp.apply(anchors, compared, 1 / temperature)
    return log_sums - (anchors * positives).sum()


class _SumLogSumExp(torch.autograd.Function):
    """``sum_b log sum_n exp(x_b y_n)`` of rows ``(B, d), (N, d)`` whose inner products are at most ``bound``.
    The ``(B, N)`` products are computed in blocks of rows that fit into the cache, and never stored all at
    once; the gradients are computed in the same pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bound: float) -> Tensor:
        total = x.new_zeros(())
        x_gradient = torch.empty_like(x)
        y_gradient = torch.zeros_like(y)
        step = max(16, BLOCK_SIZE // len(y))
        for start in range(0, len(x), step):
            block = slice(start, start + step)
            share = (x[block] @ y.T).sub_(bound).exp_()
            sums = share.sum(1, keepdim=True)
            total += sums.log().sum() + bound * len(sums)
            share /= sums
            x_gradient[block] = share @ y
            y_gradient.addmm_(share.T, x[block])
        ctx.save_for_backward(x_gradient, y_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x_gradient, y_gradient = ctx.saved_tensors
        return gradients[0] * x_gradient, gradients[0] * y_gradient, None


def mlp(width: int, d: int, generator: torch.Generator) -> nn.Sequential:
    """A network of two linear layers with a ReLU in between."""
    layers = (nn.Linear(width, d), nn.Linear(d, d))
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def segments_of(data: Dataset, features: Features | None, segments: int) -> np.ndarray:
    """Vectors of the segments ``(n_items, segments * d) float32``, zero for files without contents.

    Raises:
        ConfigError: there is not exactly one table, or it has another number of segments.
    """
    if not features or len(features) != 1:
        names = sorted(features or {})
        raise ConfigError(
            f"CODER needs one feature table, of the extractor code-segments, and got {names or 'none'}; run: "
            "graphrec features build DATASET --text code-segments"
        )
    (table,) = features.values()
    values = table.check(data).numpy(np.float32)
    if values.shape[1] % segments:
        raise ConfigError(
            f"the feature table has vectors of {values.shape[1]} values; expected a multiple of "
            f"segments={segments}"
        )
    values[~np.asarray(table.present)] = 0
    return values

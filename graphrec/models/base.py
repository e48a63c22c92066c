"""The whole protocol between a model and the rest: Model, Ranker, and what a config holds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.core.config import Config
from graphrec.core.errors import ConfigError
from graphrec.core.random import torch_rng
from graphrec.data.query import Histories, Query
from graphrec.features import ATTRIBUTE_PREFIX, PREFERENCES
from graphrec.features.prefetch import RowsOnDisk, prefetch
from graphrec.graphs import sparse
from graphrec.graphs.graph import Graph
from graphrec.models.batches import BatchSampler, EpochContext
from graphrec.models.capabilities import Capability, Encoder, Generator, RankedLists, check_unweighted
from graphrec.models.fold_in import FoldIn, Folding, LeastSquaresFoldIn
from graphrec.models.row_adam import RowAdam, skip_index_checks
from graphrec.models.search_space import Space

if TYPE_CHECKING:
    from graphrec.data.dataset import Dataset
    from graphrec.data.interactions import Interactions
    from graphrec.features import FeatureTable
    from graphrec.models.train_config import Task, TrainConfig

Features = Mapping[str, "FeatureTable"]

ITEM_BLOCK = 1024  # items whose scores are computed at a time
LEAST_BLOCKED = 64  # users from which blocks are faster than one product
MOST_BLOCKED = 2**23  # scores up to which they are; more come in memory that is new each time


class ModelConfig(Config):
    """Options every model has."""

    seed: int = Field(0, ge=0)
    """Seed of the initial parameters."""


class ContentRule(NamedTuple):
    """How an item that was never interacted with gets its embedding: the direction of its content
    neighbors' weighted mean, the weighted mean of their lengths.

    Attributes:
        weights: modality -> weight; modalities the item lacks are left out and the others scaled up.
        k: neighbors per modality.
    """

    weights: dict[str, float]
    k: int


class ContentProjection(NamedTuple):
    """How an item that was never interacted with gets its embedding: ``sum_m x_m P_m`` of its features.

    Attributes:
        weights: modality -> ``P_m (d_m, d) float32``; modalities the item lacks add nothing.
        fill: modality -> what stands for a missing ``x_m (d_m,) float32``; empty if nothing does.
        normalize_features: scale each ``x_m`` to length one first.
        normalize: scale the sum to length one.
    """

    weights: dict[str, np.ndarray]
    fill: dict[str, np.ndarray]
    normalize_features: bool = False
    normalize: bool = False


class ContentSimilarity(NamedTuple):
    """How an item that was never interacted with gets its embedding, sparse over the items: ``w_m`` times
    its cosine with each of its content neighbors, negative ones left out.

    Attributes:
        weights: modality -> weight; modalities the item lacks are left out and the others scaled up.
        k: neighbors per modality.
        normalize: divide by the sum over all neighbors.
        fill: modality -> what stands for a missing vector ``(d_m,) float32``; empty if nothing does.
    """

    weights: dict[str, float]
    k: int
    normalize: bool
    fill: dict[str, np.ndarray]


class Scaling(NamedTuple):
    """How a model grows beyond one process and memory; :mod:`graphrec.testing` holds it to this.

    Attributes:
        trains: whether there is anything to train.
        data_parallel: what several processes divide, see :attr:`Model.data_parallel`.
        sampled_subgraphs: whether ``Config.fanouts`` trains it on sampled subgraphs.
        features_on_disk: whether ``Config.features_on_disk`` leaves features on disk.
    """

    trains: bool
    data_parallel: str | None
    sampled_subgraphs: bool
    features_on_disk: bool


ColdStartRule = ContentRule | ContentProjection | ContentSimilarity
"""How new items get an embedding from their content."""


class Model(nn.Module):
    """Something that can be trained by :class:`graphrec.Trainer`.

    A subclass has a nested ``Config``, a ``build`` that is the only place to see a dataset, ``batches`` and
    ``loss``.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    name: ClassVar[str] = ""
    modalities: ClassVar[bool] = False
    """Whether ``build`` needs features of the items' content, of any fields."""
    extractor: ClassVar[str | None] = None
    """The one extractor whose features it takes, of one field; None: those of any extractor and field."""
    data_parallel: ClassVar[Literal["batches", "dialogues"] | None] = None
    """What is divided among several processes (:mod:`graphrec.core.distributed`): ``"batches"``, whose losses
    and gradients are summed, or ``"dialogues"`` to learn from, after which each process makes every step
    itself. None: it trains in one process."""
    converses: ClassVar[bool] = False
    """Whether it learns from conversations, for which the items need attributes and ``Config`` a scorer."""
    reads_valid: ClassVar[bool] = False
    """Whether ``build`` takes what it learns from out of ``data.valid``; such a model is not fitted on all
    interactions."""
    search_space: ClassVar[Space] = {}
    """What ``graphrec tune`` searches; empty where there is nothing to choose."""
    train_defaults: ClassVar[Mapping[str, Any]] = {}
    """Options of training that differ for this model where the user sets none."""
    select: ClassVar[str] = "recall@20"
    """The validated metric to choose the epoch by where the user names none."""

    config: ModelConfig

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """Makes the model for a dataset.

        Args:
            data: gives sizes and the train split; models never see the other splits.
            features: feature tables by field; only multimodal models use them.
            config: an instance of ``cls.Config``; default: its defaults.
        """
        raise TypeError(f"{cls.__name__} does not define build()")

    @classmethod
    def reuse(cls) -> AbstractContextManager[None]:
        """A context in which models built on the same data share what takes long to compute and does not
        differ between their options. A study builds its trials in it.
        """
        return nullcontext()

    @classmethod
    def optional_fields(cls, config: ModelConfig) -> tuple[str, ...]:
        """Fields that these options need besides content; ``*`` stands for anything."""
        fields = {"augmented": PREFERENCES, "attributes": f"{ATTRIBUTE_PREFIX}*"}
        return tuple(field for option, field in fields.items() if getattr(config, option, False))

    @classmethod
    def needs_features(cls, config: ModelConfig) -> bool:
        """Whether these options need features of content."""
        return cls.modalities

    @classmethod
    def inputs(cls, features: Features | None, config: ModelConfig) -> dict[str, FeatureTable]:
        """The tables it is built with: all, or the optional fields where it needs no content."""
        patterns = ("*",) if cls.needs_features(config) else cls.optional_fields(config)
        return {f: t for f, t in (features or {}).items() if any(fnmatchcase(f, p) for p in patterns)}

    @classmethod
    def scaling(cls) -> Scaling:
        """How it grows beyond one process, whole graphs and features in memory."""
        options = cls.Config.model_fields
        trains = cls.loss is not Model.loss
        return Scaling(trains, cls.data_parallel, "fanouts" in options, "features_on_disk" in options)

    def batches(self, plan: EpochContext) -> Iterator[Any]:
        """Yields one epoch's batches, each a NamedTuple of tensors; all randomness comes from ``plan``.

        They may be of several types, for parts of a model that are trained apart: a step moves those
        parameters alone to which the loss of its batch has a gradient.
        """
        return iter(())

    def feature_items(self, batch: Any) -> tuple[Tensor, ...]:
        """The items whose features the loss of a batch reads; default: none."""
        return ()

    def epoch_batches(self, plan: EpochContext) -> Iterator[Any]:
        """:meth:`batches`; features that stay on disk are read for the next batch while one is processed."""
        on_disk = [getattr(module, "disk", None) for module in self.modules()]
        tables = [rows for rows in on_disk if isinstance(rows, RowsOnDisk)]
        return prefetch(self.batches(plan), tables, self.feature_items)

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Named scalars, already weighted; the trainer minimizes their sum."""
        raise TypeError(f"{type(self).__name__} has no loss; it has nothing to train")

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Same as :meth:`loss`, so that hooks and wrappers of ``nn.Module`` work."""
        return self.loss(batch)

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Called before each epoch's batches, for what is redrawn once an epoch."""

    def optimizer(self, config: TrainConfig) -> torch.optim.Optimizer:
        """The optimizer; default: Adam, and :class:`~graphrec.models.row_adam.RowAdam` for the sparse
        gradients of ``fanouts``. Groups of parameters may have learning rates (``lr``) of their own; the
        schedule scales each.

        Raises:
            ConfigError: gradients are sparse, and ``weight_decay`` or ``clip_norm`` needs dense ones.
        """
        if getattr(self.config, "fanouts", None) is not None:
            if config.weight_decay or config.clip_norm is not None:
                raise ConfigError(
                    "weight_decay and clip_norm need dense gradients, and fanouts makes them sparse; "
                    "leave out fanouts, or both of them"
                )
            skip_index_checks()
            return RowAdam(self.parameters(), config.learning_rate)
        return torch.optim.Adam(
            self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def task(self, data: Dataset) -> Task | None:
        """What validates it where ``select`` is not a metric of ranking; None: nothing else does.

        Args:
            data: what the model was built from.
        """
        return None

    def conversational_agent(self, data: Dataset) -> Any:
        """The agent that holds conversations with this model, saved with its run; None if there is none.

        Args:
            data: what the model was built from.
        """
        return None


class Ranker(Model):
    """A model that ranks items for users, by one of four capabilities (:mod:`graphrec.models.capabilities`).

    What a subclass defines depends on its ``capability``: *embeddings*: :meth:`embed`; *item_weights*:
    :meth:`item_weights` and :meth:`history_rows`; *encoder*: ``encoder_class``, the attribute ``encoder`` and
    :meth:`item_embeddings`; *generator*: ``generator_class`` and the attribute ``generator``.
    """

    n_users: int
    n_items: int
    capability: ClassVar[Capability] = "embeddings"
    """How it answers a :class:`~graphrec.data.query.Query`."""
    encoder_class: ClassVar[type[Encoder] | None] = None
    """Class of ``encoder``, by which a saved recommender makes it again."""
    generator_class: ClassVar[type[Generator] | None] = None
    """Class of ``generator``, likewise."""
    personalized: ClassVar[bool] = True
    """Whether different users may be offered different items."""
    supports_cold_items: ClassVar[bool] = False
    """Whether items without interactions can be scored by their content; instances then have a
    ``cold_start_rule``."""
    sampler: BatchSampler
    """Draws the batches of a model that learns from triplets or pairs; :meth:`build` sets it."""
    cold_start_rule: ColdStartRule | None = None
    """How new items get an embedding from content; None if the model has no way to place them."""
    train_pairs: Interactions
    """What it learns from; an encoder's or a generator's known users have these as their histories where a
    query gives none."""
    encoder: Encoder
    generator: Generator

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`Model.build`; for models of the train interactions alone, ``cls(train, config)``."""
        model = cls(data.train, config or cls.Config())
        return model.with_sampler(data, features)

    def with_sampler(self, data: Dataset, features: Features | None) -> Self:
        """The model, with batches drawn from a dataset as its options ask for."""
        self.sampler = BatchSampler.from_options(data, features, self.config)
        return self

    @property
    def cold_scores(self) -> str:
        """How items without train interactions are scored: ``"from content"``, or ``"as trained"``, which is
        what initialization and training made of them.
        """
        as_trained = getattr(self.config, "cold_items", None) == "as_trained"
        return "from content" if self.supports_cold_items and not as_trained else "as trained"

    def embed(self) -> tuple[Tensor, Tensor] | tuple[Graph, Graph]:
        """Final embeddings ``(n_users, d), (n_items, d)``.

        Sparse ones are two graphs whose rows are the vectors. With item weights they are
        :meth:`history_rows` and :meth:`item_weights`.
        """
        if self.capability == "item_weights":
            return self.history_rows(), self.item_weights()
        raise TypeError(f"{type(self).__name__} does not define embed()")

    def history_rows(self) -> Graph:
        """What each known user has ``(n_users, n_items)``."""
        raise TypeError(f"{type(self).__name__} does not define history_rows()")

    def item_weights(self) -> Graph:
        """What the items of a history add to each item's score ``(n_items, n_items)``: row ``i`` holds the
        weights that make up the score of item ``i``.
        """
        raise TypeError(f"{type(self).__name__} does not define item_weights()")

    def item_embeddings(self) -> Tensor:
        """Vectors ``(n_items, d)`` that an encoder's are compared with."""
        raise TypeError(f"{type(self).__name__} does not define item_embeddings()")

    def fold_in(self) -> FoldIn:
        """How a user known only by a list of items gets a vector, for models with embeddings.

        The default is least squares on the item embeddings. Models whose users' embeddings follow from the
        items state the formula.
        """
        return LeastSquaresFoldIn()

    @torch.no_grad()
    def scorer(self) -> Callable[[Any], Tensor]:
        """A function to scores of all items ``(B, n_items)`` from users ``(B,)`` or a query; embeds once.

        Embeddings answer known users by their embedding and others by folding in their history
        (:meth:`fold_in`). Item weights answer histories where a query has some. Encoders and generators
        always do: see ``train_pairs``.
        """
        if self.capability == "generator":
            return self._generated_scores
        training = self.training
        self.eval()
        if self.capability == "encoder":
            item_vectors = self.item_embeddings().detach()
            self.train(training)
            return lambda query: inner_products(
                self.encoder(self._with_histories(query)).detach(), item_vectors
            )
        users, items = self.embed()
        self.train(training)
        if isinstance(users, Graph):
            assert isinstance(items, Graph)
            score_users = sparse.scorer(users, items)
            if self.capability != "item_weights":
                return lambda query: score_users(self._known_users(query))
            score_rows = sparse.row_scorer(items)
            return lambda query: (
                score_rows(sparse.history_matrix(query.histories, self.n_items))
                if isinstance(query, Query) and query.histories is not None
                else score_users(self._known_users(query))
            )
        user_vectors, item_vectors = users.detach(), cast(Tensor, items).detach()
        # Made for the first history, if there is one.
        folding = functools.cache(lambda: Folding(self.fold_in(), item_vectors.cpu()))
        return lambda query: inner_products(self._vectors_of(query, user_vectors, folding), item_vectors)

    @torch.no_grad()
    def score(self, who: Any) -> Tensor:
        """Scores of all items ``(B, n_items)`` for users ``(B,)`` or a query."""
        who = who if isinstance(who, Query) else torch.as_tensor(who, dtype=torch.int64)
        training = self.training
        self.eval()
        scores = self.scorer()(who)
        self.train(training)
        return scores

    def _vectors_of(self, query: Any, users: Tensor, folding: Callable[[], Folding]) -> Tensor:
        """Rows of the users' embeddings ``(B, d)``, and folded-in vectors of users who are not known."""
        if not isinstance(query, Query) or query.histories is None:
            return users[self._known_users(query).to(users.device)]
        rows = np.full(len(query), -1) if query.users is None else query.users
        vectors = users[torch.from_numpy(rows).clamp(min=0).to(users.device)]
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            query.histories.check(self.n_items)
            folded = folding()(query.histories.take(unknown))
            vectors = vectors.index_copy(0, torch.from_numpy(unknown).to(users.device), folded.to(users))
        return vectors

    def _known_users(self, query: Any) -> Tensor:
        """Indices ``(B,)`` of known users; raises a ConfigError for a query about other users."""
        if not isinstance(query, Query):
            return torch.as_tensor(query)
        if query.users is None or (query.users < 0).any():
            raise ConfigError(
                f"{self.name or type(self).__name__} looks users up and cannot answer a history; ask for "
                "known users, or use a model with item weights or an encoder"
            )
        return torch.from_numpy(query.users)

    def _with_histories(self, users: Any) -> Query:
        """A query with histories: its own, or what known users have in ``train_pairs``."""
        query = users if isinstance(users, Query) else Query(users=np.asarray(users))
        if query.histories is not None:
            query.histories.check(self.n_items)
            check_unweighted(query.histories, self.name or type(self).__name__)
            return query
        assert query.users is not None
        return Query(query.users, Histories.from_interactions(self.train_pairs).take(query.users))

    def _generated_scores(self, users: Any) -> Tensor:
        """Scores ``(B, n_items)`` from lists of all items; ``-inf`` for those the search did not reach."""
        query = self._with_histories(users)
        lists: RankedLists = self.generator.generate(
            query, self.n_items, torch.ones(len(query), self.n_items, dtype=torch.bool)
        )
        scores = torch.full((len(query), self.n_items + 1), -torch.inf)
        scores.scatter_(1, torch.where(lists.items < 0, self.n_items, lists.items), lists.scores)
        return scores[:, :-1]

    def rng(self, purpose: str) -> torch.Generator:
        """A generator for initial parameters: a function of the config's seed and the purpose."""
        return torch_rng(self.config.seed, f"init/{purpose}")


def inner_products(rows: Tensor, items: Tensor) -> Tensor:
    """``rows @ items.T`` ``(B, n_items)`` of ``(B, d)`` and ``(n_items, d)``.

    On a CPU it is computed in blocks of items, whose scores fit into the cache: for 256 users and 18,357
    items in half the time of one product in one thread (python -m experiments.bench.propagation).
    """
    few = len(rows) < LEAST_BLOCKED or len(items) <= ITEM_BLOCK
    if rows.device.type != "cpu" or few or len(rows) * len(items) > MOST_BLOCKED:
        return rows @ items.T
    scores = rows.new_empty(len(rows), len(items))
    for start in range(0, len(items), ITEM_BLOCK):
        block = slice(start, start + ITEM_BLOCK)
        scores[:, block] = rows @ items[block].T
    return scores

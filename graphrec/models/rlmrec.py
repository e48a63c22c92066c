"""RLMRec: embeddings of a graph model, aligned with vectors of what a language model says of users and items.

Ren et al., "Representation Learning with Large Language Models for Recommendation", WWW 2024,
https://arxiv.org/abs/2310.15950. RLMRec-Con contrasts the embeddings of a base model with projected text
vectors; RLMRec-Gen masks some users and items and restores their text vectors from their embeddings.

Defaults are those of the authors' code, Amazon's where they differ by dataset. Differences:
- user vectors are the means of the user's train items where there are no written profiles; the code always
  has profiles;
- only nodes with a text vector are masked or contrasted; in the code every node has one;
- the base models other than ``lightgcn`` have their own defaults here; the authors' are in the docs page.

``Eq. n`` refers to the numbered equations in docs/models/rlmrec.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import embedding

from graphrec.core import distributed
from graphrec.core.errors import ConfigError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.features import PROFILE, FeatureTable
from graphrec.graphs.augmentation import drop_entries
from graphrec.graphs.graph import bipartite
from graphrec.models import model as model_class
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.batches import EpochContext, SeededTriplets
from graphrec.models.fold_in import FoldIn
from graphrec.models.losses import InfoNCE, bpr, score_difference
from graphrec.models.multimodal import MultimodalConfig, filled, tables_of, user_means
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Space
from graphrec.models.self_supervision import (
    PropagatedConfig,
    Readout,
    Regularizer,
    SelfSupervisedRanker,
    Step,
    all_squares,
    projector,
    read_out,
)

Base = Literal["lightgcn", "sgl", "simgcl", "xsimgcl"]
TextPool = Literal["all", "rows", "distinct"]
USER, ITEM, BOTH = "user", "item", "both"


class PropagatedIDs(SelfSupervisedRanker):
    """LightGCN with the readouts and regularizers of self-supervised models, and dropout: the base
    ``lightgcn``.

    The registered LightGCN has neither: its sampled neighborhoods (``fanouts``) have sparse gradients, which
    a regularizer of all parameters would make dense.
    """

    class Config(PropagatedConfig):
        """Options of the base ``lightgcn``; the defaults are those of RLMRec's authors."""

        dim: int = Field(32, ge=1)
        """Embedding size."""
        readout: Readout = "sum"
        """Final embeddings: the ``sum`` of the ID embeddings and all layers, their ``mean``, or the mean of
        the ``layers`` without the ID embeddings."""
        regularizer: Regularizer = "all_squares"
        """By default the squares of all parameters, those of the projection included; the other choices are
        those of SGL."""
        reg_weight: float = Field(1e-7, ge=0)
        """Weight of the regularizer."""
        dropout: float = Field(0.2, ge=0, lt=1)
        """Share of the graph's entries that a step leaves out, each direction of an edge by itself; the
        others keep their weights."""

    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with negatives and a seed for dropout."""
        return self.sampler.seeded_triplets(plan, "dropout")

    def step(self, batch: SeededTriplets) -> Step:
        """``bpr`` on final embeddings and ``reg`` (Eqs. 1 and 2)."""
        c = self.config
        graph = self.graph
        if c.dropout:
            graph = drop_entries(graph, c.dropout, np.random.default_rng(int(batch.key)))
        users, items = read_out(graph, *self.id_embeddings, c.n_layers, c.readout)
        final = BatchEmbeddings.lookup(batch, users, items)
        losses = {
            "bpr": bpr(score_difference(*final)),
            "reg": self.regularization(BatchEmbeddings.lookup(batch, *self.id_embeddings), final),
        }
        return Step(users, items, losses)


class RLMRecConfig(MultimodalConfig):
    """Options of both models."""

    base: Base = "lightgcn"
    """Model whose embeddings are learned and aligned with text."""
    base_options: dict[str, Any] = Field({})
    """Options of the base by name, such as ``{"n_layers": 2}``; the others have the base's defaults."""

    base_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Defaults of a base's options that differ from its own."""

    @model_validator(mode="after")
    def _base_has_these_options(self) -> Self:
        self.base_config()
        return self

    @property
    def base_class(self) -> type[SelfSupervisedRanker]:
        """The class of the base."""
        if self.base == "lightgcn":
            return PropagatedIDs
        return cast(type[SelfSupervisedRanker], model_class(self.base))

    def base_config(self) -> ModelConfig:
        """The options of the base, with the seed of the whole.

        Raises:
            ConfigError: ``base_options`` names an option that the base does not have, or a value it refuses.
        """
        if "seed" in self.base_options:
            raise ConfigError(
                "base_options holds seed; the base takes the seed of the whole: set seed itself"
            )
        try:
            options = {**self.base_defaults.get(self.base, {}), **self.base_options}
            return self.base_class.Config(**options, seed=self.seed)
        except ConfigError as cause:
            raise ConfigError(f"base_options of {self.base}: {cause}") from None


class Texts(nn.Module):
    """Frozen text vectors of users or of items; not part of the state dict.

    Args:
        values: vectors ``(n, d)``.
        present: which rows have one ``(n,) bool``; ``m`` of them.

    Attributes:
        values: of the rows that have one ``(m, d)``.
        place: where each row's vector is in ``values``, -1 where it has none ``(n,) int64``.
    """

    values: Tensor
    place: Tensor

    def __init__(self, values: np.ndarray, present: np.ndarray) -> None:
        super().__init__()
        place = np.where(present, np.cumsum(present) - 1, -1)
        self.register_buffer("values", torch.from_numpy(values[present]), persistent=False)
        self.register_buffer("place", torch.from_numpy(place), persistent=False)

    @property
    def dim(self) -> int:
        """Size of the vectors."""
        return self.values.shape[1]


class RLMRec(Ranker):
    """A base model and projections between its embeddings and text vectors.

    Args:
        train: interactions to learn from.
        base: the model that is aligned.
        users: their text vectors.
        items: likewise.
        config: options.
    """

    modalities = True
    data_parallel = "batches"
    config: RLMRecConfig

    def __init__(
        self,
        train: Interactions,
        base: SelfSupervisedRanker,
        users: Texts,
        items: Texts,
        config: RLMRecConfig,
    ) -> None:
        super().__init__()
        self.config = config
        self.train_pairs = train
        self.n_users = train.n_users
        self.n_items = train.n_items
        self.base = base
        self.texts = nn.ModuleDict({USER: users, ITEM: items})
        dims = {BOTH: items.dim} if users.dim == items.dim else {USER: users.dim, ITEM: items.dim}
        self.projectors = nn.ModuleDict({of: self.projector(of, d) for of, d in dims.items()})

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; takes all modalities of items, side by side, and
        ``profile`` of users where there is one.
        """
        config = config or cls.Config()
        tables = tables_of(cls.__name__, data, features, config.attributes)
        profiles = (features or {}).get(PROFILE)
        if profiles is not None and profiles.check(data).entity != "user":
            raise FeatureError(f"{PROFILE!r} is of {profiles.entity}s; expected a table of users")
        users, items = text_vectors(tables, profiles, data.train, config)
        base = config.base_class.build(data, None, config.base_config())
        return cls(data.train, base, users, items, config)

    @classmethod
    def optional_fields(cls, config: ModelConfig) -> tuple[str, ...]:
        """Profiles, and attributes if the options take them."""
        return PROFILE, *super().optional_fields(config)

    def projector(self, of: str, text_dim: int) -> nn.Sequential:
        """The map between embeddings and text vectors of ``text_dim`` of users, items or both."""
        raise TypeError(f"{type(self).__name__} does not define projector()")

    def side(self, of: str) -> tuple[Texts, nn.Module]:
        """Text vectors of users or items, and their projection."""
        shared = self.projectors[BOTH] if BOTH in self.projectors else self.projectors[of]
        return cast(Texts, self.texts[of]), shared

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Draws what the base draws once an epoch."""
        self.base.start_epoch(rng)

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Those of the base."""
        return self.base.batches(plan)

    def with_projection(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the base, with the parameters it does not know in the regularizer of all (Eq. 2)."""
        c = self.base.config
        losses = dict(losses)
        if c.regularizer == "all_squares":
            own = [p for name, p in self.named_parameters() if not name.startswith("base.")]
            losses["reg"] = losses["reg"] + c.reg_weight * all_squares(own)
        return losses

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings of the base, without masks."""
        return self.base.embed()

    def fold_in(self) -> FoldIn:
        """That of the base."""
        return self.base.fold_in()


class RLMRecCon(RLMRec):
    """Embeddings of a graph model, contrasted with projected text vectors."""

    class Config(RLMRecConfig):
        """Options of RLMRec-Con."""

        language_weight: float = Field(0.01, ge=0)
        """Weight of the contrast with text."""
        language_temperature: float = Field(0.2, gt=0)
        """Temperature of the contrast with text."""
        user_pool: TextPool = "all"
        """Whose texts a user is contrasted with: those of ``all`` users, the ``rows`` of the batch, as often
        as they are in it, or its ``distinct`` users. With ``all``, the texts of all users are projected in
        every step."""
        item_pool: TextPool = "rows"
        """What an item is contrasted with, likewise. Among ``rows``, an item that is in the batch twice is
        its own negative."""

    name = "rlmrec-con"
    search_space: ClassVar[Space] = {
        "language_weight": Choice(1e-3, 1e-2, 1e-1, 1.0),
        "language_temperature": Choice(0.1, 0.2, 0.5),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.contrast = InfoNCE(self.config.language_temperature)

    def projector(self, of: str, text_dim: int) -> nn.Sequential:
        """From text vectors to embeddings (Eq. 3)."""
        dim = self.base.config.dim
        return projector(text_dim, (text_dim + dim) // 2, dim, self.rng(f"projector/{of}"))

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """The losses of the base, and ``language`` of users, positives and negatives (Eq. 4)."""
        c = self.config
        step = self.base.step(batch)
        total = self.alignment(USER, batch.users, step.users, c.user_pool)
        for ids in (batch.positives, batch.negatives.flatten()):
            total = total + self.alignment(ITEM, ids, step.items, c.item_pool)
        return {**self.with_projection(step.losses), "language": c.language_weight * total}

    def alignment(self, of: str, ids: Tensor, table: Tensor, pool: TextPool) -> Tensor:
        """An embedding is to be nearer to its own projected text than the others of the pool are; mean over
        those of the batch that have a text, 0 if none has.

        Args:
            of: users or items.
            ids: of the batch ``(B,) int64``.
            table: final embeddings ``(n, d)``.
            pool: see :class:`RLMRecCon.Config`.
        """
        texts, project = self.side(of)
        ids = ids[texts.place[ids] >= 0]
        rows, first = distributed.all_gather_pool(ids)
        if not len(rows):
            return table.new_zeros(())
        if pool == "all":
            return self.contrast(embedding(ids, table), divided(project, texts.values), texts.place[ids])
        distinct, inverse = rows.unique(return_inverse=True)
        projected = divided(project, embedding(texts.place[distinct], texts.values))  # (K, d)
        own = torch.arange(first, first + len(ids), device=ids.device)
        if pool == "distinct":
            return self.contrast(embedding(ids, table), projected, inverse[own])
        return self.contrast(embedding(ids, table), embedding(inverse, projected), own)


class RLMRecGen(RLMRec):
    """Embeddings of a graph model, some masked, from which text vectors are restored."""

    class Config(RLMRecConfig):
        """Options of RLMRec-Gen."""

        base_options: dict[str, Any] = Field({})
        """Options of the base by name, such as ``{"n_layers": 3}``; the others have the base's defaults, but
        ``lightgcn`` has two layers."""
        language_weight: float = Field(0.1, ge=0)
        """Weight of restoring text vectors."""
        language_temperature: float = Field(0.5, gt=0)
        """Temperature of the contrast of restored with real text vectors."""
        mask: float = Field(0.15, gt=0, le=1)
        """Share of the users and items with a text whose ID embeddings a step replaces by a learned one; at
        least one of them."""

        base_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lightgcn": {"n_layers": 2}}

    name = "rlmrec-gen"
    search_space: ClassVar[Space] = {
        "mask": Choice(0.05, 0.1, 0.15, 0.2),
        "language_weight": Choice(1e-2, 1e-1, 1.0),
        "language_temperature": Choice(0.1, 0.2, 0.5),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.contrast = InfoNCE(self.config.language_temperature)
        self.mask_token = nn.Parameter(torch.zeros(1, self.base.config.dim))
        places = torch.cat([self.side(of)[0].place for of in (USER, ITEM)])
        self.described = np.flatnonzero(places.numpy() >= 0)  # users, and items numbered after them

    def projector(self, of: str, text_dim: int) -> nn.Sequential:
        """From embeddings to text vectors (Eq. 6)."""
        dim = self.base.config.dim
        return projector(dim, (text_dim + dim) // 2, text_dim, self.rng(f"projector/{of}"))

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """The losses of the base on masked ID embeddings, and ``language`` of what is masked (Eqs. 5-7)."""
        masked = self.draw(batch.key)
        nodes = torch.cat(self.base.id_embeddings)
        nodes = nodes.index_copy(0, masked, self.mask_token.expand(len(masked), -1))
        users, items = nodes.split([self.n_users, self.n_items])
        with self.base.replaced_id_embeddings(users, items):
            step = self.base.step(batch)
        restored = self.config.language_weight * self.restoration(masked, step)
        return {**self.with_projection(step.losses), "language": restored}

    def draw(self, key: Tensor) -> Tensor:
        """The nodes ``(M,) int64`` that a step masks, users and, numbered after them, items (Eq. 5)."""
        n = max(1, int(self.config.mask * len(self.described)))
        drawn = numpy_rng(int(key), "mask").choice(self.described, n, replace=False)
        return torch.from_numpy(drawn).to(key.device)

    def restoration(self, masked: Tensor, step: Step) -> Tensor:
        """What is restored from the embedding of a masked node is to be nearer to its own text vector than
        those of the other masked nodes are. Users and items are in one pool if their text vectors are of one
        size.
        """
        of_users = masked < self.n_users
        ids = {USER: masked[of_users], ITEM: masked[~of_users] - self.n_users}
        rows = {USER: embedding(ids[USER], step.users), ITEM: embedding(ids[ITEM], step.items)}
        targets = dict[str, Tensor]()
        for of in (USER, ITEM):
            texts, _ = self.side(of)
            targets[of] = embedding(texts.place[ids[of]], texts.values)
        if BOTH in self.projectors:
            rows = {BOTH: torch.cat([rows[USER], rows[ITEM]])}
            targets = {BOTH: torch.cat([targets[USER], targets[ITEM]])}
        total = step.users.new_zeros(())
        for of, pool in targets.items():
            if len(pool):
                own = distributed.local_slice(len(pool))
                place = torch.arange(len(pool), device=pool.device)[own]
                loss = self.contrast(self.projectors[of](rows[of][own]), pool, place)
                total = total + len(pool) / len(masked) * loss
        return total


def divided(project: nn.Module, rows: Tensor) -> Tensor:
    """The projection ``(n, d)`` of rows ``(n, d')`` that every process has, each of which projects a part."""
    projected: Tensor = project(rows[distributed.local_slice(len(rows))])
    return distributed.all_gather_pool(projected)[0]


def text_vectors(
    items: Mapping[str, FeatureTable],
    profiles: FeatureTable | None,
    train: Interactions,
    config: MultimodalConfig,
) -> tuple[Texts, Texts]:
    """Text vectors of users and of items.

    Args:
        items: feature tables, concatenated; an item has a vector if it has one of them, with zeros for those
            it lacks.
        profiles: vectors of users; None: the means of their train items'.
        train: the interactions.
        config: says how missing vectors are filled.

    Raises:
        FeatureError: no item has a vector, or no user has a profile.
    """
    parts = [filled(table, config.fill, train) for table in items.values()]
    values = np.concatenate([vectors for vectors, _ in parts], 1)
    present = np.any([has for _, has in parts], 0)
    if not present.any():
        raise FeatureError(f"no item has a vector in any of {list(items)}, so there is nothing to align with")
    if profiles is None:
        means, has_items = user_means(train, torch.from_numpy(values), present)
        users = Texts(means.numpy(), has_items.numpy())
    elif profiles.present.any():
        users = Texts(profiles.numpy(np.float32), np.array(profiles.present))
    else:
        raise FeatureError(f"{PROFILE!r}: no user has a vector; leave it out to use the means of their items")
    return users, Texts(values, present)

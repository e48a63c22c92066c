"""LLMRec: LightGCN with side information and preferences written by a language model.

Wei et al., "LLMRec: Large Language Models with Graph Augmentation for Recommendation", WSDM 2024,
https://arxiv.org/abs/2311.00423. User profiles, item attributes, image and text each have a channel that is
propagated twice over the user-item graph; the language model's preferences are additional triplets; the
easiest triplets are pruned from the loss. No language model is called here: its answers are features.

``Eq. n`` refers to the numbered equations in docs/models/llmrec.md.

Channels are propagated once, not every step. With features X, who has them p, and a projection W, b,

    R (X Wᵀ + p bᵀ) = (R X) Wᵀ + (R p) bᵀ

so R X and C R X are constants, only the rows of a batch need projecting, and the sum of squares over all rows
is tr(V G Vᵀ) with V = [W, b] and G the Gram matrix of [R X, R p]. With few distinct rows E, as of countries,
X = S E and R X Wᵀ = (R S)(E Wᵀ) is cheaper still. ``mask`` and ``dropout`` change the projected features in
every step, so they are projected first and then propagated; the tests check that both ways agree.

Differences from the authors' code (``reference_compat`` brings the first four back):
- the regularizer is half the squared norms; the code divides by them;
- masked features are masked for one step; the code overwrites them, more of them in every step;
- restoration trains its decoder and the profiles' projection; the code's optimizer updates neither;
- LeakyReLU of slope .01; the code's has slope 1;
- rows of users without interactions and of items without features are zero; negatives are items that occur in
  train; gradients are clipped if the training options say so, after they are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, logsigmoid, normalize

from graphrec.core import distributed
from graphrec.core.errors import FeatureError
from graphrec.core.random import derive_seed
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.features import ATTRIBUTE_PREFIX, PREFERENCES, PROFILE, FeatureTable
from graphrec.graphs.graph import Graph
from graphrec.models.base import Features, ModelConfig
from graphrec.models.batches import EpochContext
from graphrec.models.layers import ItemFeatures, distinct_rows, linear, row_dropout
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Space

Sides = dict[str, tuple[Tensor, Tensor]]
"""Channels by name: users, items."""


class Batch(NamedTuple):
    """Triplets, those of the language model last.

    Attributes:
        users: ``(B,) int64``.
        positives: items ``(B,) int64``.
        negatives: likewise.
        n: number of sampled triplets ``() int64``; the rest are preferences.
        masked_users: whose profile is masked ``(M,) int64``.
        masked_items: whose attributes are masked ``(M',) int64``.
        key: of this step's dropout masks ``() int64``.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    n: Tensor
    masked_users: Tensor
    masked_items: Tensor
    key: Tensor


class LLMRec(EmbeddingRanker):
    """LightGCN plus channels of side information, trained on the hardest triplets."""

    class Config(ModelConfig):
        """Options of LLMRec; the defaults are the authors' for Netflix."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_layers: int = Field(2, ge=1)
        """Layers of the ID embeddings, the last one through a softmax."""
        content_weight: float = Field(0.02, ge=0)
        """Weight of image and text in embeddings (omega m)."""
        profile_weight: float = Field(2.8, ge=0)
        """Weight of profiles in embeddings (omega u)."""
        attribute_weight: float = Field(0.005, ge=0)
        """Weight of each attribute in embeddings (omega i)."""
        augmented: float = Field(0.1, ge=0, le=1)
        """Preferences added to a batch, as a share of it (omega 3)."""
        prune: float = Field(0.71, ge=0, lt=1)
        """Share of a batch's triplets that is left out of each BPR loss (omega 4)."""
        prune_keep: Literal["hard", "easy"] = "hard"
        """Triplets to keep: those with the largest loss, as in the authors' code, or with the smallest."""
        attribute_loss: float = Field(0.012, ge=0)
        """Weight of BPR between profiles and each attribute (omega a)."""
        content_loss: float = Field(1e-4, ge=0)
        """Weight of BPR within image and text."""
        feature_reg: float = Field(1e-5, ge=0)
        """Weight of the squared channels of image and text, over items."""
        reg_weight: float = Field(1e-5, ge=0)
        """Weight of half the squared embeddings of the batch."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Dropout rate of projected features."""
        mask: float = Field(0.0, ge=0, lt=1)
        """Share of profiles and of items' attributes that is masked each step."""
        restore_weight: float = Field(0.0, ge=0)
        """Weight of restoring what is masked."""
        restore_loss: Literal["sce", "mse"] = "sce"
        """Loss of restoring: (1 - cosine) to a power, or squared difference of vectors of length 1."""
        restore_power: float = Field(2.0, gt=0)
        """The power."""
        restore_learning_rate: float = Field(2e-4, gt=0)
        """Learning rate of the decoders."""
        reference_compat: bool = False
        """Does what the authors' code does, not what the paper describes."""

    name = "llmrec"
    data_parallel = "batches"
    modalities = True
    train_defaults: ClassVar[dict[str, Any]] = {"learning_rate": 1e-4, "weight_decay": 0.01}
    search_space: ClassVar[Space] = {
        "profile_weight": Choice(0.0, 0.1, 0.4, 1.0, 2.8),
        "prune": Choice(0.0, 0.4, 0.71),
        "augmented": Choice(0.0, 0.1, 0.4),
        "train.learning_rate": Choice(1e-4, 3e-4, 1e-3, 3e-3),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, config)
        tables = {f: table for f, table in features.items() if f != PREFERENCES}
        self.attributes = sorted(f for f in tables if f.startswith(ATTRIBUTE_PREFIX))
        self.content = sorted(set(tables) - {PROFILE, *self.attributes})
        self.to_users, self.to_items = one_sided_graphs(train)
        self.whole = bool(config.mask or config.dropout)
        self.channels, self.projections = nn.ModuleDict(), nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for f, table in tables.items():
            self.channels[f] = Channel(
                table,
                self.to_users,
                self.to_items,
                of_users=f == PROFILE,
                keep_features=self.whole,
                overwritable=config.reference_compat,
            )
            if self.shared(f) not in self.projections:
                self.projections[self.shared(f)] = linear(table.dim, config.dim, self.rng(self.shared(f)))
                if config.mask and config.restore_weight and f not in self.content:
                    decoder = linear(config.dim, table.dim, self.rng(f"decoder/{self.shared(f)}"))
                    self.decoders[self.shared(f)] = decoder

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; takes image and text, ``profile`` (of users),
        ``attribute_...`` (all of one width) and ``preferences``, whichever are there.
        """
        tables = {field: table.check(data) for field, table in sorted((features or {}).items())}
        if not set(tables) - {PREFERENCES}:
            raise FeatureError(
                "LLMRec needs image, text, profiles or attributes and got none; run: graphrec features build "
                "DATASET, or graphrec llm profiles DATASET"
            )
        widths = {f: table.dim for f, table in tables.items() if f.startswith(ATTRIBUTE_PREFIX)}
        if len(set(widths.values())) > 1:
            raise FeatureError(
                f"attributes share one projection and are of widths {widths}; build them alike"
            )
        model = cls(data.train, tables, config or cls.Config())
        # Preferences are optional here, although augmented is not 0 by default.
        return model.with_sampler(data, tables) if PREFERENCES in tables else model

    @classmethod
    def optional_fields(cls, config: ModelConfig) -> tuple[str, ...]:
        """Profiles, attributes and preferences."""
        return PROFILE, f"{ATTRIBUTE_PREFIX}*", PREFERENCES

    def shared(self, f: str) -> str:
        """Name of a channel's projection; attributes share one."""
        return "attributes" if f in self.attributes else f

    def weight(self, f: str) -> Tensor:
        """Projection and bias of a channel, side by side ``(d, d_f + 1)``."""
        layer = cast(nn.Linear, self.projections[self.shared(f)])
        return torch.cat([layer.weight, layer.bias[:, None]], 1)

    @property
    def named(self) -> Mapping[str, Channel]:
        """Channels by name."""
        return cast(Mapping[str, Channel], self.channels)

    # -- embeddings ------------------------------------------------------------------------------------------

    def ids(self) -> tuple[Tensor, Tensor]:
        """ID embeddings after propagation ``(n_users, d), (n_items, d)`` (Eqs. 5, 6)."""
        users, items = [self.user_embedding.weight], [self.item_embedding.weight]
        for layer in range(1, self.config.n_layers + 1):
            last = layer == self.config.n_layers
            u = self.to_users @ items[-1]
            users.append(u.softmax(1) if last else u)
            i = self.to_items @ users[-1]
            items.append(i.softmax(1) if last else i)
        return sum(users[1:], users[0]) / len(users), sum(items[1:], items[0]) / len(items)

    def sides(self, users: Tensor, items: Tensor, whole: Sides | None) -> Sides:
        """Channels of some users ``(B, d)`` and some items (Eqs. 1-4), out of ``whole`` if given."""
        if whole is not None:
            return {
                f: (nn.functional.embedding(users, all_users), nn.functional.embedding(items, all_items))
                for f, (all_users, all_items) in whole.items()
            }
        distinct_users, u = users.unique(return_inverse=True)
        distinct_items, i = items.unique(return_inverse=True)
        sides = {}
        for f, channel in self.named.items():
            weight = channel.through(self.weight(f))
            sides[f] = (
                nn.functional.embedding(u, channel.users.projected(weight, distinct_users)),
                nn.functional.embedding(i, channel.items.projected(weight, distinct_items)),
            )
        return sides

    def all_sides(self, batch: Batch | None) -> Sides:
        """Channels of all users and items; for a batch, with its masks and dropout."""
        if batch is None and not (self.whole and self.config.reference_compat):
            weights = {f: channel.through(self.weight(f)).T for f, channel in self.named.items()}
            return {
                f: (channel.users.values @ weights[f], channel.items.values @ weights[f])
                for f, channel in self.named.items()
            }
        return {f: self.projected_first(f, batch) for f in self.channels}

    def projected_first(self, f: str, batch: Batch | None) -> tuple[Tensor, Tensor]:
        """A channel that is projected first and then propagated, with masked and dropped-out features."""
        channel, weight, masked = self.named[f], self.weight(f), self.masked(f, batch)
        if self.config.reference_compat:
            with torch.no_grad():
                channel.damaged[masked] = channel.damaged.mean(0)
            x = channel.damaged @ weight.T
        else:
            x = channel.own @ weight.T  # (n_users or n_items, d)
            x = x.index_copy(0, masked, (channel.mean @ weight.T).expand(len(masked), -1))
        if batch is not None and self.config.dropout:
            rows = torch.arange(len(x), device=x.device)
            x = row_dropout(x, rows, self.config.dropout, batch.key + derive_seed(0, f))
            x = x / (1 - self.config.dropout)
        return smoothed(x, self.to_users, self.to_items, f == PROFILE)

    def masked(self, f: str, batch: Batch | None) -> Tensor:
        """Rows of a channel that are masked in this step ``(M,)``."""
        if batch is None or f in self.content:
            return torch.empty(0, dtype=torch.int64, device=self.user_embedding.weight.device)
        return batch.masked_users if f == PROFILE else batch.masked_items

    def fused(self, ids: tuple[Tensor, Tensor], sides: Sides) -> list[Tensor]:
        """ID embeddings plus the weighted channels, scaled to length 1 (Eq. 7)."""
        config = self.config
        weights = {PROFILE: config.profile_weight} | dict.fromkeys(self.attributes, config.attribute_weight)
        embeddings = list(ids)
        for f, side in sides.items():
            weight = weights.get(f, config.content_weight)
            embeddings = [x + weight * normalize(y) for x, y in zip(embeddings, side, strict=True)]
        return embeddings

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings ``(n_users, d), (n_items, d)``."""
        users, items = self.fused(self.ids(), self.all_sides(None))
        return users, items

    # -- loss ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``bpr`` on embeddings, ``bpr_<field>`` on channels of content, ``bpr_attributes`` between profiles
        and attributes, ``features``, ``reg`` and ``restore`` (Eqs. 8-12).
        """
        config, n = self.config, len(batch.users)
        whole = self.all_sides(batch) if self.whole else None
        index = torch.cat([batch.positives, batch.negatives])
        sides, (users, items) = self.sides(batch.users, index, whole), self.ids()
        u, i = self.fused(
            (nn.functional.embedding(batch.users, users), nn.functional.embedding(index, items)), sides
        )  # (B, d), (2B, d)
        terms = {"bpr": self.pruned((u * (i[:n] - i[n:])).sum(1))}
        if config.content_loss:
            for f in self.content:
                x, y = sides[f]
                terms[f"bpr_{f}"] = config.content_loss * self.pruned((x * (y[:n] - y[n:])).sum(1))
        if config.attribute_loss and PROFILE in sides and self.attributes:
            x = sides[PROFILE][0]
            attributes = (sides[f][1] for f in self.attributes)
            losses = torch.stack([self.pruned((x * (y[:n] - y[n:])).sum(1)) for y in attributes])
            terms["bpr_attributes"] = config.attribute_loss * losses.sum()
        if config.feature_reg and self.content:
            squares = torch.stack([self.named[f].squares(self.weight(f)) for f in self.content]).sum()
            terms["features"] = config.feature_reg * distributed.replicated(squares) / 2 / self.n_items
        if config.reg_weight:
            norms = distributed.all_reduce_sum(
                torch.stack([part.square().sum() for part in (u, i[:n], i[n:])])
            )
            penalties = 1 / (2 * norms + 1e-8) if config.reference_compat else norms / 2
            terms["reg"] = config.reg_weight * penalties.sum() / batch.n
        if self.decoders:
            assert whole is not None
            terms["restore"] = config.restore_weight * distributed.replicated(self.restored(batch, whole))
        return terms

    def pruned(self, difference: Tensor) -> Tensor:
        """BPR over the triplets that are not pruned (Eq. 8)."""
        log = distributed.all_gather(logsigmoid(difference + 1e-8))
        n_kept = max(1, int((1 - self.config.prune) * len(log)))
        return -log.topk(n_kept, largest=self.config.prune_keep == "easy", sorted=False).values.mean()

    def restored(self, batch: Batch, whole: Sides) -> Tensor:
        """Distance of decoded from masked features, summed over profiles and each attribute (Eq. 12)."""
        losses = []
        for f in [f for f in whole if f not in self.content]:
            index = self.masked(f, batch)
            x = nn.functional.embedding(index, whole[f][0 if f == PROFILE else 1])  # (M, d)
            if self.config.reference_compat and f == PROFILE:
                x = x.detach()
            slope = 1.0 if self.config.reference_compat else 0.01
            decoded = normalize(leaky_relu(self.decoders[self.shared(f)](x), slope))  # (M, d_f)
            target = normalize(nn.functional.embedding(index, self.named[f].own)[:, :-1])
            if self.config.restore_loss == "mse":
                losses.append((decoded - target).square().mean())
            else:
                losses.append((1 - (decoded * target).sum(1)).pow(self.config.restore_power).mean())
        return torch.stack(losses).sum()

    def optimizer(self, config: Any) -> torch.optim.Optimizer:
        """AdamW; decoders have their own learning rate, which is 0 in the authors' code."""
        decoders = list(self.decoders.parameters())
        main = [p for name, p in self.named_parameters() if not name.startswith("decoders.")]
        groups: list[dict[str, Any]] = [{"params": main}]
        if decoders:
            rate = 0.0 if self.config.reference_compat else self.config.restore_learning_rate
            groups.append({"params": decoders, "lr": rate})
        return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay, fused=True)

    # -- batches ---------------------------------------------------------------------------------------------

    def batches(self, plan: EpochContext) -> Iterator[Batch]:
        """Batches of distinct users, each with one of their items and a negative, and preferences of some."""
        mask_rng = plan.rng("mask")
        dropout_rng = plan.rng("dropout")
        for batch, n_sampled in self.sampler.user_triplets(plan):
            masked = [
                mask_rng.choice(size, int(self.config.mask * size), replace=False)
                for size in (self.n_users, self.n_items)
            ]
            key = dropout_rng.integers(2**63, dtype=np.int64)
            arrays = (np.asarray(n_sampled), *masked, np.asarray(key))
            yield Batch(*batch, *(torch.from_numpy(a) for a in arrays))


class Channel(nn.Module):
    """One table of side information, propagated to each user and each item.

    Args:
        table: features of items, or of users.
        to_users: items to users.
        to_items: users to items.
        of_users: whether they are features of users.
        keep_features: also keep the features themselves, to project them before propagation.
        overwritable: keep a copy of them that masking may overwrite, as a part of the state.
    """

    own: Tensor
    mean: Tensor
    damaged: Tensor
    gram: Tensor
    distinct: Tensor | None

    def __init__(
        self,
        table: FeatureTable,
        to_users: Graph,
        to_items: Graph,
        of_users: bool,
        keep_features: bool,
        overwritable: bool,
    ) -> None:
        super().__init__()
        present = torch.from_numpy(np.array(table.present))[:, None]
        own = torch.cat([torch.from_numpy(table.numpy()) * present, present.float()], 1)  # (n, d_f + 1)
        distinct = distinct_rows(own, own.shape[1] // 2)
        self.register_buffer("distinct", distinct[0] if distinct else None, persistent=False)  # (K, d_f + 1)
        rows = nn.functional.one_hot(distinct[1]).float() if distinct else own
        users, items = smoothed(rows, to_users, to_items, of_users)
        self.users, self.items = (ItemFeatures(FeatureTable(side.numpy())) for side in (users, items))
        self.register_buffer("gram", users.T @ users + items.T @ items, persistent=False)
        if keep_features:
            self.register_buffer("own", own, persistent=False)
            self.register_buffer("mean", own[present[:, 0]].mean(0), persistent=False)
            if overwritable:
                self.register_buffer("damaged", own.clone())

    def through(self, weight: Tensor) -> Tensor:
        """A projection ``(d, d_f + 1)`` as one of the propagated rows: features, or one-hot distinct rows."""
        return weight if self.distinct is None else weight @ self.distinct.T

    def squares(self, weight: Tensor) -> Tensor:
        """The sum of squares of the channel, over all users and items."""
        weight = self.through(weight)
        return (weight @ self.gram * weight).sum()


def smoothed(x: Tensor, to_users: Graph, to_items: Graph, of_users: bool) -> tuple[Tensor, Tensor]:
    """Features propagated to users and to items, one and two hops from their nodes (Eqs. 1-4)."""
    if of_users:
        items = to_items @ x
        return to_users @ items, items
    users = to_users @ x
    return users, to_items @ users


def one_sided_graphs(train: Interactions) -> tuple[Graph, Graph]:
    """``R = D_u^-1/2 A`` from items to users, and ``C = D_i^-1/2 Aᵀ`` back: only targets are normalized."""
    user_scale, item_scale = ((degree + 1e-8) ** -0.5 for degree in (train.user_degree, train.item_degree))
    users, items = train.users, train.items
    n_users, n_items = train.n_users, train.n_items
    return (
        Graph.from_edges(items, users, user_scale[users], n_source=n_items, n_target=n_users),
        Graph.from_edges(users, items, item_scale[items], n_source=n_users, n_target=n_items),
    )

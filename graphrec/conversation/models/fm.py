"""FM: the factorization machine that scores items and attributes in a conversation.

Lei et al., "Interactive Path Reasoning on Graph for Conversational Recommendation", KDD 2020,
https://arxiv.org/abs/2007.00194; the scorer is that of Lei et al., "Estimation-Action-Reflection", WSDM 2020,
https://arxiv.org/abs/2002.09102. It learns from train interactions, each with a prefix: the attributes that
the user had accepted by some turn of a simulated conversation about the item
(:mod:`graphrec.conversation.prefixes`).

``Eq. n`` refers to the numbered equations in docs/models/fm.md.

Differences from the authors' code:
- samples are drawn anew in every epoch, from the train split alone. The shipped ones repeat after 50 epochs
  (LastFM) or after one (LastFM*), and have train items of the user among the second negatives; the shipped
  validation samples have test pairs among them;
- a prefix is drawn again where none of its pool is new to the user; the code goes on for ever, here the last
  one is kept after 16 draws and the sample has no second negative. So it is with items that none of their
  prefixes leaves together with another; their prefix is empty;
- of several attributes of equal entropy the one of lowest index is asked, not the first of a set;
- no global bias: it cancels in all that is learned from, and scores in conversations leave it out;
- no padding rows, and no column of biases that nothing reads;
- fewer interactions than a batch are one batch. Else the incomplete last batch is left out, as in the code.

A dataset without attributes is matrix factorization with the first negative alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, logsigmoid

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import SPOKEN, ConversationConfig
from graphrec.conversation.samples import Samples
from graphrec.conversation.scoring import ScoringTask
from graphrec.conversation.vectors import DialogueVectors
from graphrec.data.attributes import HAS
from graphrec.data.dataset import Dataset
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.batches import EpochContext
from graphrec.models.row_adam import skip_index_checks
from graphrec.models.search_space import Choice, Space


class ItemBatch(NamedTuple):
    """Interactions, each with a prefix and two negatives."""

    users: Tensor
    """``(B,) int64``."""
    items: Tensor
    """The positive, a negative, and a negative with all attributes of the prefix ``(B, 3) int64``."""
    there: Tensor
    """1 where there is such a negative, else 0, and any item stands in its place ``(B, 2) float32``."""
    said: Tensor
    """The prefixes, one after the other ``(n,) int64``."""
    offsets: Tensor
    """Where each begins ``(B,) int64``."""
    kept: Tensor
    """Dimensions of the interactions that dropout leaves ``(B, 3, d) bool``."""


class AttributeBatch(NamedTuple):
    """The same interactions, each with what the positive has beside its prefix."""

    users: Tensor
    """``(B,) int64``."""
    attributes: Tensor
    """Of each sample the prefix, the positive's other attributes, as many it does not have ``(n,) int64``."""
    sign: Tensor
    """1, and -1 for those it does not have ``(n,) float32``."""
    offsets: Tensor
    """Where each prefix begins and ends ``(2 B,) int64``."""


class FM(Ranker):
    """One vector per user, item and attribute; those that go together have a large product."""

    class Config(ModelConfig):
        """Options of FM."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Share of the dimensions of an interaction that is left out while training."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the squared norms."""
        attribute_learning_rate: float = Field(1e-4, gt=0)
        """Learning rate of the attribute loss, whatever ``train.learning_rate`` is, which is that of the item
        loss; ``train.schedule`` and ``train.warmup`` scale both."""

    name = "fm"
    train_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.02, "batch_size": 64}
    select = "auc"
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(5e-4, 1e-3, 2e-3, 5e-3),
        "attribute_learning_rate": Choice(1e-4, 1e-3, 5e-3),
        "train.learning_rate": Choice(0.02, 0.05, 0.1),
    }
    config: Config

    def __init__(self, samples: Samples, config: Config) -> None:
        super().__init__()
        self.config, self.samples = config, samples
        self.n_users, self.n_items = samples.train.n_users, samples.train.n_items
        self.user_embedding = self._table(self.n_users, "users")  # (n_users, d)
        self.item_embedding = self._table(self.n_items, "items")  # (n_items, d)
        self.attribute_embedding: nn.Embedding | None = None  # (n_attributes, d)
        if samples.n_attributes:
            self.attribute_embedding = self._table(samples.n_attributes, "attributes")
        self.alias: Tensor | None = None  # of the attribute table, see optimizer()
        self.sparse = False  # gradients of the tables

    def _table(self, n: int, purpose: str) -> nn.Embedding:
        weight = torch.empty(n, self.config.dim).normal_(0, 0.01, generator=self.rng(purpose))
        return nn.Embedding(n, self.config.dim, _weight=weight)

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; features are not used, attributes if there are any."""
        config = config or cls.Config()
        return cls(Samples.from_dataset(data, config.seed), config)

    def task(self, data: Dataset) -> ScoringTask:
        """Areas under the ROC curve in the middle of conversations."""
        return ScoringTask(data)

    def conversational_agent(self, data: Dataset) -> ConversationalRecommender | None:
        """An agent that recommends when it is sure enough; None for a dataset without attributes."""
        if HAS not in data.relations:
            return None
        setting = Setting(Catalog.from_dataset(data), self.vectors(), ConversationConfig(**SPOKEN))
        return ConversationalRecommender.from_policy("recommend-when-sure:30", setting, data)

    def optimizer(self, config: Any) -> torch.optim.Optimizer:
        """Adagrad, with two states and two learning rates for the attribute table: one for each loss.

        On a CPU gradients are sparse, so that a step moves the rows of its batch alone, unless an option
        needs dense ones (``weight_decay``, ``clip_norm``; the latter leaves the attribute loss alone).
        """
        on_cpu = self.user_embedding.weight.device.type == "cpu"
        self.sparse = on_cpu and not config.weight_decay and config.clip_norm is None
        groups: list[dict[str, Any]] = [{"params": list(self.parameters())}]
        if self.attribute_embedding is not None:
            # The same memory as another leaf: a step passes by leaves without a gradient, so each kind of
            # batch moves a state of its own.
            self.alias = self.attribute_embedding.weight.detach().requires_grad_()
            scale = self.config.attribute_learning_rate / config.learning_rate
            groups.append({"params": [self.alias], "lr_scale": scale})
        if self.sparse:
            skip_index_checks()
        kind = {"foreach": False} if self.sparse else {"fused": True}
        return torch.optim.Adagrad(groups, config.learning_rate, weight_decay=config.weight_decay, **kind)

    def batches(self, plan: EpochContext) -> Iterator[ItemBatch | AttributeBatch]:
        """Train interactions in whole batches, an item batch and an attribute batch of each in turns."""
        drawn = self.samples.draw(plan)
        rng, n = plan.rng("fm/dropout"), min(len(drawn.users), plan.batch_size)
        kept, threshold = (n, 3, self.config.dim), round(self.config.dropout * 2**16)
        users, items, said, said_at, attributes, sign, at = (torch.from_numpy(v) for v in drawn)
        there, items = (items[:, 1:] >= 0).float(), items.clamp(min=0)
        said_starts, starts = drawn.said_at[::n].tolist(), drawn.at[:: 2 * n].tolist()
        for number in range(len(drawn.users) // n):
            rows = slice(number * n, number * n + n)
            begin, end = said_starts[number], said_starts[number + 1]
            mask = torch.from_numpy(rng.integers(0, 2**16, kept, dtype=np.uint16) >= threshold)
            yield ItemBatch(
                users[rows], items[rows], there[rows], said[begin:end], said_at[rows] - begin, mask
            )
            if self.attribute_embedding is not None:
                begin, end = starts[number], starts[number + 1]
                offsets = at[2 * rows.start : 2 * rows.stop] - begin
                yield AttributeBatch(users[rows], attributes[begin:end], sign[begin:end], offsets)

    def loss(self, batch: ItemBatch | AttributeBatch) -> dict[str, Tensor]:
        """``item`` and ``reg`` (Eqs. 2 and 3), or ``attribute`` (Eq. 4), whichever the batch is for."""
        return self._item_loss(batch) if isinstance(batch, ItemBatch) else self._attribute_loss(batch)

    def _item_loss(self, batch: ItemBatch) -> dict[str, Tensor]:
        u = embedding(batch.users, self.user_embedding.weight, sparse=self.sparse)[:, None]  # (B, 1, d)
        v = embedding(batch.items, self.item_embedding.weight, sparse=self.sparse)  # (B, 3, d)
        norms = 2 * u.square().sum() + v[:, 0].square().sum()
        norms = norms + (v[:, 1].square().sum(1) * batch.there[:, 0]).sum()
        interaction = u * v
        if self.attribute_embedding is not None:
            table = self.attribute_embedding.weight
            p = embedding_bag(batch.said, table, batch.offsets, mode="sum", sparse=self.sparse)[:, None]
            interaction = interaction + (u + v) * p  # (B, 3, d)
            norms = norms + 2 * embedding(batch.said, table, sparse=self.sparse).square().sum()
        y = (interaction * batch.kept).sum(2) / (1 - self.config.dropout)  # (B, 3), Eq. 1
        difference = y[:, :1] - y[:, 1:]
        return {
            "item": -(logsigmoid(difference) * batch.there).sum(),
            "reg": self.config.reg_weight * norms,
        }

    def _attribute_loss(self, batch: AttributeBatch) -> dict[str, Tensor]:
        assert self.attribute_embedding is not None
        table = self.attribute_embedding.weight
        if self.alias is not None and self.alias.data_ptr() == table.data_ptr():
            table = self.alias
        sums = embedding_bag(
            batch.attributes,
            table,
            batch.offsets,
            mode="sum",
            per_sample_weights=batch.sign,
            sparse=self.sparse,
        )
        u = self.user_embedding.weight.detach()[batch.users]  # (B, d)
        said, difference = sums[::2], sums[1::2]  # (B, d)
        return {"attribute": -logsigmoid(((said + u) * difference).sum(1)).sum()}

    def embed(self) -> tuple[Tensor, Tensor]:
        """The tables of users and items; their products rank as long as nothing is said."""
        return self.user_embedding.weight, self.item_embedding.weight

    def vectors(self) -> DialogueVectors:
        """All three tables as they are now."""
        tables = (self.user_embedding, self.item_embedding, self.attribute_embedding)
        none = np.zeros((0, self.config.dim), dtype=np.float32)
        found = (none if t is None else t.weight.detach().cpu().numpy().copy() for t in tables)
        return DialogueVectors(*found)

"""FM: the factorization machine that scores items and attributes in a conversation.

Lei et al., "Interactive Path Reasoning on Graph for Conversational Recommendation", KDD 2020,
https://arxiv.org/abs/2007.00194; the scorer is that of Lei et al., "Estimation-Action-Reflection", WSDM 2020,
https://arxiv.org/abs/2002.09102. It learns from train interactions, each with a prefix: the attributes that
the user had accepted by some turn of a simulated conversation about the item
(:mod:`graphrec.conversation.prefixes`).

``Eq. n`` refers to the numbered equations in docs/models/fm.md.

Differences from the authors' code:
- samples are drawn anew in every epoch, from the train split alone. The published samples repeat after 50
  epochs (LastFM) or after one (LastFM*), and their second negatives contain train items of the user; the
  published validation samples contain test pairs;
- a prefix is drawn again where its pool holds only train items of the user; the code never stops drawing,
  this implementation keeps the last prefix after 16 draws and the sample has no second negative. Items whose
  prefixes all leave no other candidate have an empty prefix and no second negative either;
- of several attributes of equal entropy, the one of lowest index is asked, not the first of a set;
- no global bias: it cancels in the losses, and scores in conversations leave it out;
- no padding rows, and no column of biases that nothing reads;
- fewer interactions than a batch are one batch. Otherwise the incomplete last batch is left out, as in the
  code.

On a dataset without attributes the model is matrix factorization with the first negative alone.
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
from graphrec.conversation.config import INTERACTIVE_RULES, ConversationConfig
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
    negative_mask: Tensor
    """1 where the negative exists, else 0, with any item in its place ``(B, 2) float32``."""
    prefix_attributes: Tensor
    """Attributes of the prefixes, one prefix after the other ``(n,) int64``."""
    prefix_offsets: Tensor
    """Where each prefix begins ``(B,) int64``."""
    dropout_mask: Tensor
    """Dimensions of the interactions that dropout keeps ``(B, 3, d) bool``."""


class AttributeBatch(NamedTuple):
    """The same interactions, each with the positive's attributes outside its prefix."""

    users: Tensor
    """``(B,) int64``."""
    attributes: Tensor
    """For each sample its prefix, the positive's other attributes, and as many that the positive does not
    have ``(n,) int64``."""
    signs: Tensor
    """1, and -1 for attributes that the positive does not have ``(n,) float32``."""
    offsets: Tensor
    """Where each prefix begins and ends ``(2 B,) int64``."""


class FM(Ranker):
    """One vector per user, item and attribute; inner products are their affinity."""

    class Config(ModelConfig):
        """Options of FM."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Share of the dimensions of an interaction that is dropped during training."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the squared norms."""
        attribute_learning_rate: float = Field(1e-4, gt=0)
        """Learning rate of the attribute loss; that of the item loss is ``train.learning_rate``.
        ``train.schedule`` and ``train.warmup`` scale both."""

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
        self.config = config
        self.samples = samples
        self.n_users = samples.train.n_users
        self.n_items = samples.train.n_items
        self.user_embedding = self._table(self.n_users, "users")  # (n_users, d)
        self.item_embedding = self._table(self.n_items, "items")  # (n_items, d)
        self.attribute_embedding: nn.Embedding | None = None  # (n_attributes, d)
        if samples.n_attributes:
            self.attribute_embedding = self._table(samples.n_attributes, "attributes")
        self.alias: Tensor | None = None  # the attribute table as another leaf, see optimizer()
        self.sparse = False  # whether the tables have sparse gradients

    def _table(self, n: int, purpose: str) -> nn.Embedding:
        weight = torch.empty(n, self.config.dim).normal_(0, 0.01, generator=self.rng(purpose))
        return nn.Embedding(n, self.config.dim, _weight=weight)

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; uses attributes if there are any, and no features."""
        config = config or cls.Config()
        return cls(Samples.from_dataset(data, config.seed), config)

    def task(self, data: Dataset) -> ScoringTask:
        """Areas under the ROC curve in simulated conversations."""
        return ScoringTask(data)

    def conversational_agent(self, data: Dataset) -> ConversationalRecommender | None:
        """An agent that recommends once its slate is likely enough; None for a dataset without attributes."""
        if HAS not in data.relations:
            return None
        setting = Setting(Catalog.from_dataset(data), self.vectors(), ConversationConfig(**INTERACTIVE_RULES))
        return ConversationalRecommender.from_policy("recommend-when-sure:30", setting, data)

    def optimizer(self, config: Any) -> torch.optim.Optimizer:
        """Adagrad, with two states and two learning rates for the attribute table: one for each loss.

        On a CPU gradients are sparse, so that a step moves only the rows of its batch, unless an option needs
        dense gradients (``weight_decay``, ``clip_norm``; the latter does not affect the attribute loss).
        """
        on_cpu = self.user_embedding.weight.device.type == "cpu"
        self.sparse = on_cpu and not config.weight_decay and config.clip_norm is None
        groups: list[dict[str, Any]] = [{"params": list(self.parameters())}]
        if self.attribute_embedding is not None:
            # Another leaf over the same memory: a step skips leaves without a gradient, so each kind of batch
            # has its own optimizer state.
            self.alias = self.attribute_embedding.weight.detach().requires_grad_()
            groups.append({"params": [self.alias], "lr": self.config.attribute_learning_rate})
        if self.sparse:
            skip_index_checks()
        kind = {"foreach": False} if self.sparse else {"fused": True}
        return torch.optim.Adagrad(groups, config.learning_rate, weight_decay=config.weight_decay, **kind)

    def batches(self, plan: EpochContext) -> Iterator[ItemBatch | AttributeBatch]:
        """Train interactions in full batches, each as an item batch and then as an attribute batch."""
        drawn = self.samples.draw(plan)
        rng = plan.rng("fm/dropout")
        n = min(len(drawn.users), plan.batch_size)
        mask_shape = (n, 3, self.config.dim)
        threshold = round(self.config.dropout * 2**16)
        users, items, prefix_attributes, prefix_offsets, attributes, signs, attribute_offsets = (
            torch.from_numpy(array) for array in drawn
        )
        negative_mask = (items[:, 1:] >= 0).float()
        items = items.clamp(min=0)
        prefix_starts = drawn.prefix_offsets[::n].tolist()
        attribute_starts = drawn.attribute_offsets[:: 2 * n].tolist()
        for number in range(len(drawn.users) // n):
            rows = slice(number * n, number * n + n)
            begin, end = prefix_starts[number : number + 2]
            dropout_mask = torch.from_numpy(rng.integers(0, 2**16, mask_shape, dtype=np.uint16) >= threshold)
            yield ItemBatch(
                users[rows],
                items[rows],
                negative_mask[rows],
                prefix_attributes[begin:end],
                prefix_offsets[rows] - begin,
                dropout_mask,
            )
            if self.attribute_embedding is not None:
                begin, end = attribute_starts[number : number + 2]
                offsets = attribute_offsets[2 * rows.start : 2 * rows.stop] - begin
                yield AttributeBatch(users[rows], attributes[begin:end], signs[begin:end], offsets)

    def loss(self, batch: ItemBatch | AttributeBatch) -> dict[str, Tensor]:
        """``item`` and ``reg`` (Eqs. 2 and 3), or ``attribute`` (Eq. 4), whichever the batch is for."""
        return self._item_loss(batch) if isinstance(batch, ItemBatch) else self._attribute_loss(batch)

    def _item_loss(self, batch: ItemBatch) -> dict[str, Tensor]:
        u = embedding(batch.users, self.user_embedding.weight, sparse=self.sparse)[:, None]  # (B, 1, d)
        v = embedding(batch.items, self.item_embedding.weight, sparse=self.sparse)  # (B, 3, d)
        norms = 2 * u.square().sum() + v[:, 0].square().sum()
        norms = norms + (v[:, 1].square().sum(1) * batch.negative_mask[:, 0]).sum()
        interaction = u * v
        if self.attribute_embedding is not None:
            table = self.attribute_embedding.weight
            p = embedding_bag(
                batch.prefix_attributes, table, batch.prefix_offsets, mode="sum", sparse=self.sparse
            )[:, None]
            interaction = interaction + (u + v) * p  # (B, 3, d)
            norms = norms + 2 * embedding(batch.prefix_attributes, table, sparse=self.sparse).square().sum()
        y = (interaction * batch.dropout_mask).sum(2) / (1 - self.config.dropout)  # (B, 3), Eq. 1
        difference = y[:, :1] - y[:, 1:]
        return {
            "item": -(logsigmoid(difference) * batch.negative_mask).sum(),
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
            per_sample_weights=batch.signs,
            sparse=self.sparse,
        )
        u = self.user_embedding.weight.detach()[batch.users]  # (B, d)
        prefix = sums[::2]  # (B, d)
        difference = sums[1::2]  # (B, d)
        return {"attribute": -logsigmoid(((prefix + u) * difference).sum(1)).sum()}

    def embed(self) -> tuple[Tensor, Tensor]:
        """The tables of users and items; their products rank items before the first answer."""
        return self.user_embedding.weight, self.item_embedding.weight

    def vectors(self) -> DialogueVectors:
        """Copies of all three tables."""
        tables = (self.user_embedding, self.item_embedding, self.attribute_embedding)
        empty = np.zeros((0, self.config.dim), dtype=np.float32)
        return DialogueVectors(
            *(empty if table is None else table.weight.detach().cpu().numpy().copy() for table in tables)
        )

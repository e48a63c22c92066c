"""What multimodal models share: their options and feature tables, items that lack some content, and items
without train interactions.

An item without content in a modality is masked: in that modality it has no neighbors, is nobody's neighbor
and takes part in no loss. Where ``Config.fill`` is not ``"zero"``, its vector is estimated first. Then it
takes part in losses and scores and has neighbors of its own, but it still is nobody's neighbor: an estimate
is no evidence about other items. The row of a missing item is never read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.features import ATTRIBUTE_PREFIX, FeatureTable
from graphrec.features.fitted import read_fitted
from graphrec.features.table import TRAIN_FINGERPRINT
from graphrec.graphs.graph import Graph, mix, normalize_weights
from graphrec.graphs.knn import LAST_NEIGHBORS, content_graph, knn, nearest_edges
from graphrec.graphs.nearest import unit_length
from graphrec.graphs.sparse import interaction_matrix, to_scipy
from graphrec.models.base import ContentProjection, ContentRule, Features, ModelConfig, Ranker
from graphrec.models.batches import PreferencesConfig

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Fill = Literal["zero", "mean", "neighbors"]
BLOCK = 1024  # missing items that are filled at a time


class MultimodalConfig(ModelConfig):
    """Options every multimodal model has."""

    renamed_values: ClassVar = {
        "fill": {"neighbours": "neighbors"},
        "cold_items": {"neighbours": "neighbors"},
    }

    fill: Fill = "zero"
    """What stands for the content an item lacks in a modality: nothing (it is masked), the mean of all items
    that have some, or the mean of those it shares train users with, weighted by how many."""
    attributes: bool = False
    """Attributes that a language model wrote (``graphrec llm``) are modalities, too."""


class WeightedConfig(ModelConfig):
    """Options of multimodal models that weight modalities."""

    image_weight: float = Field(0.5, ge=0, le=1)
    """Weight of the image; the other modalities share the rest equally. Without effect if there is a single
    modality or no image."""
    modality_weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Weight of every modality by name, scaled to sum to one, instead of ``image_weight``."""

    def weights_of(self, modalities: Collection[str]) -> dict[str, float]:
        """Weight per modality, one in all; in alphabetical order.

        Raises:
            ConfigError: ``modality_weights`` names other modalities than there are, or all are zero.
        """
        names, given = sorted(modalities), self.modality_weights
        if given is not None:
            total = sum(given.values())
            if sorted(given) != names or total <= 0:
                raise ConfigError(
                    f"modality_weights {given}; expected a weight for each of {names}, and one above 0"
                )
            return {m: given[m] / total for m in names}
        if "image" not in names or len(names) == 1:
            return dict.fromkeys(names, 1 / len(names))
        share = (1 - self.image_weight) / (len(names) - 1)
        return {m: self.image_weight if m == "image" else share for m in names}


class StreamedConfig(PreferencesConfig, MultimodalConfig):
    """Options of models whose steps take features of the batch's items."""

    feature_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which features are kept and projected while training; half of it halves their memory and
    pays where the processor computes with bfloat16. Graphs, embeddings and scores stay float32."""
    features_on_disk: bool = False
    """Leave features in the feature store and read what each step needs, the next step's while this one
    computes: for tables larger than memory. What is learned is the same to rounding."""

    @model_validator(mode="after")
    def _read_as_they_are(self) -> Self:
        if self.features_on_disk and self.fill != "zero":
            raise ValueError(f"features_on_disk reads features as they are; fill={self.fill!r} changes them")
        return self


class CombinedConfig(MultimodalConfig):
    """Options of models that make one content vector of all modalities of an item."""

    combine: Literal["concatenate", "average"] = "concatenate"
    """How an item's vectors become one: side by side, or their mean over the modalities that it has, which
    must be of one width and should be of one extractor."""
    normalize_features: bool = True
    """Scale every vector to length one first. Vectors of different extractors then count alike, and so do
    items in a mean; lengths say little about content. False takes vectors as they are."""


class FeatureLossConfig(StreamedConfig):
    """Options of models whose loss holds projected features."""

    train_features: bool = False
    """Train the features as well, as the authors' code does."""

    @model_validator(mode="after")
    def _trained_in_full(self) -> Self:
        if self.train_features and self.feature_dtype != "float32":
            raise ValueError("train_features needs feature_dtype float32: bfloat16 loses small updates")
        if self.train_features and self.features_on_disk:
            raise ValueError("train_features needs features in memory; leave out features_on_disk")
        return self


class MultimodalRanker(Ranker):
    """A ranker made of the train interactions, the feature tables of items by modality, and options."""

    modalities = True
    supports_cold_items = True

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; needs one feature table at least, of any modality."""
        config = config or cls.Config()
        model = cls(data.train, tables_of(cls.__name__, data, features, config.attributes), config)
        return model.with_sampler(data, features)

    @classmethod
    @contextmanager
    def reuse(cls) -> Iterator[None]:
        """Keeps the neighbors by content."""
        with super().reuse(), LAST_NEIGHBORS.kept():
            yield


def tables_of(
    owner: str, data: Dataset, features: Features | None, attributes: bool = False
) -> dict[str, FeatureTable]:
    """The feature tables of items a model gets, by modality in alphabetical order, checked against the
    dataset.

    Args:
        owner: the model's name, for messages.
        data: the dataset the model is built for.
        features: tables by field; those of users are left out.
        attributes: take written attributes too.

    Raises:
        FeatureError: there are none, or one is for other items.
    """
    items = {
        field: table for field, table in (features or {}).items()
        if table.entity == "item" and (attributes or not field.startswith(ATTRIBUTE_PREFIX))
    }  # fmt: skip
    if not items:
        raise FeatureError(
            f"{owner} needs features of some modality and got none; run: graphrec features build DATASET"
        )
    return {modality: items[modality].check(data) for modality in sorted(items)}


def filled(table: FeatureTable, how: Fill, train: Interactions | None) -> tuple[np.ndarray, np.ndarray]:
    """Vectors ``(n_items, d) float32`` and which of them may be used ``(n_items,) bool``.

    The means are those of Malitesta et al., "Do We Really Need to Drop Items with Missing Modalities in
    Multimodal Recommendation?", CIKM 2024, https://arxiv.org/abs/2408.11767; neighbors are weighted by the
    number of shared users. An item that shares no user with any that has the modality gets the mean of all.

    Args:
        table: features with their ``present`` mask.
        how: see :class:`MultimodalConfig`; with ``"zero"`` missing rows are zero and may not be used.
        train: the interactions; only ``"neighbors"`` needs them.

    Raises:
        FeatureError: no item has the feature, so there is nothing to fill with; or ``"neighbors"`` without
            ``train``.
    """
    present = np.array(table.present)
    values = table.numpy(np.float32)
    values[~present] = 0
    if how == "zero" or present.all():
        return values, present
    if not present.any():
        field = table.meta.get("field", "features")
        raise FeatureError(f"{field!r}: no item has this feature, so none can be filled; use fill=zero")
    missing = np.flatnonzero(~present)
    vectors = values[present]  # (n_present, d)
    mean = _mean(vectors)
    if how == "mean":
        values[missing] = mean
        return values, np.ones_like(present)
    if train is None:
        raise FeatureError("fill='neighbors' needs the train interactions")
    by_item = interaction_matrix(train).T.tocsr()
    donors = by_item[np.flatnonzero(present)].T.tocsr()  # (n_users, n_present)
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        shared = by_item[block] @ donors  # (B, n_present), number of shared users
        total = np.asarray(shared.sum(1), dtype=np.float32)  # (B, 1)
        values[block] = np.where(total > 0, (shared @ vectors) / np.maximum(total, 1), mean)
    return values, np.ones_like(present)


def means_of(tables: Mapping[str, FeatureTable], how: Fill) -> dict[str, np.ndarray]:
    """What stands for a modality that a new item lacks, as nobody has it yet: the mean of all ``(d_m,)``, as
    in :func:`filled`; empty with ``"zero"``.
    """
    if how == "zero":
        return {}
    return {m: _mean(t.numpy(np.float32)[t.present]) for m, t in tables.items() if t.present.any()}


def combined(tables: Mapping[str, FeatureTable], config: CombinedConfig, train: Interactions) -> Tensor:
    """One content vector of each item ``(n_items, d)``; zero where an item has no content at all.

    Raises:
        FeatureError: vectors of different widths are to be averaged.
    """
    scaled = _scaled(tables, config)
    parts = [filled(table, config.fill, train) for table in scaled.values()]
    if config.combine == "concatenate":
        return torch.from_numpy(np.concatenate([values for values, _ in parts], 1))
    widths = {m: table.dim for m, table in tables.items()}
    if len(set(widths.values())) > 1:
        raise FeatureError(
            f"modalities of widths {widths} cannot be averaged; use combine=concatenate, or leave one out"
        )
    has_vector = np.sum([usable for _, usable in parts], 0)[:, None]  # (n_items, 1)
    mean = np.sum([values for values, _ in parts], 0) / np.maximum(has_vector, 1).astype(np.float32)
    return torch.from_numpy(mean)


def combined_rule(
    tables: Mapping[str, FeatureTable], config: CombinedConfig, weight: Tensor | None
) -> ContentProjection:
    """The rule by which a new item gets the direction of ``W x``, with ``x`` as :func:`combined` makes it.

    Args:
        tables: features by modality.
        config: how they are combined.
        weight: ``W (d', d)``; None is the identity.
    """
    widths = [table.dim for table in tables.values()]
    by_column = config.combine == "concatenate"
    columns = (
        torch.eye(sum(widths) if by_column else widths[0]) if weight is None else weight.detach().cpu().T
    )
    parts = columns.split(widths) if by_column else [columns] * len(widths)
    weights = {m: part.contiguous().numpy() for m, part in zip(tables, parts, strict=True)}
    # How many modalities an average is over changes its length alone.
    fill = means_of(_scaled(tables, config), config.fill) if config.fill != "zero" else {}
    return ContentProjection(weights, fill, config.normalize_features, normalize=True)


def user_means(
    train: Interactions, items: Tensor, present: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """The mean vector of each user's train items ``(n_users, d)``, zero without any, and which users have
    some ``(n_users,) bool``.

    Args:
        train: the interactions.
        items: vectors ``(n_items, d)``.
        present: items that count ``(n_items,) bool``; None: all.
    """
    counted = train if present is None else train.where(present[train.items])
    index = torch.from_numpy(counted.items.astype(np.int64))
    offsets = torch.from_numpy(counted.indptr.astype(np.int64))
    means = nn.functional.embedding_bag(index, items, offsets, mode="mean", include_last_offset=True)
    return means, torch.from_numpy(counted.user_degree > 0)


def check_same_extractor(field: str, one: FeatureTable, other: FeatureTable) -> None:
    """Refuses two tables whose vectors cannot be compared, as far as their descriptions say: they are of
    different widths, of different extractors, or of one that learned from two different corpora. Nothing is
    known of imported vectors but their widths.

    Args:
        field: what they are of, for messages.
        one: features.
        other: features, of the same or other items or users.

    Raises:
        FeatureError: they cannot be compared.
    """
    if one.dim != other.dim:
        raise FeatureError(
            f"{field!r}: vectors of widths {one.dim} and {other.dim}; expected one extractor's"
        )
    facts = [{"fitted_on": None, **dict(t.meta.get("extractor") or {})} for t in (one, other)]
    if any(f.get("name") in (None, "imported", "array") for f in facts):
        return
    shared = (facts[0].keys() & facts[1].keys()) - {"versions", "values_sha256", TRAIN_FINGERPRINT}
    different = sorted(key for key in shared if facts[0][key] != facts[1][key])
    fitted = [
        {} if t.folder is None else read_fitted(t.folder, t.meta.get("content")) or {} for t in (one, other)
    ]
    if fitted[0].keys() != fitted[1].keys() or any(
        not np.array_equal(array, fitted[1][part]) for part, array in fitted[0].items()
    ):
        different.append("what it learned from the corpus")
    if different:
        raise FeatureError(
            f"{field!r}: the extractors differ in {', '.join(different)}, so their vectors cannot be "
            "compared; use one that learns nothing from the corpus, such as a language model, for both"
        )


def _scaled(tables: Mapping[str, FeatureTable], config: CombinedConfig) -> dict[str, FeatureTable]:
    """The tables, or those of vectors of length one."""
    if not config.normalize_features:
        return dict(tables)
    found = {}
    for modality, table in tables.items():
        values = table.numpy(np.float32)
        values[~table.present] = 0
        unit = unit_length(torch.from_numpy(values)).numpy()
        unit.setflags(write=False)
        found[modality] = FeatureTable(unit, table.present, table.meta)
    return found


def _mean(vectors: np.ndarray) -> np.ndarray:
    """The mean ``(d,) float32`` of vectors ``(n, d)``."""
    mean: np.ndarray = vectors.mean(0, dtype=np.float64).astype(np.float32)
    return mean


def item_graph(
    table: FeatureTable,
    k: int,
    *,
    weight: Literal["binary", "cosine"] = "binary",
    cache: Path | None = None,
    fill: Fill = "zero",
    train: Interactions | None = None,
) -> Graph:
    """The kNN graph of :func:`graphrec.graphs.knn.knn`; filled items get a row with themselves and the
    ``k - 1`` nearest items that have the feature, and no column.

    Args:
        table: features of one modality.
        k: neighbors per item, the item included.
        weight: 1 for every neighbor, or the cosine similarity.
        cache: see :func:`graphrec.graphs.knn.knn`.
        fill: how missing vectors are estimated.
        train: the interactions; only ``fill="neighbors"`` needs them.
    """
    graph = knn(table, k, weight=weight, cache=cache)
    if fill == "zero" or bool(table.present.all()):
        return graph
    values, _ = filled(table, fill, train)
    present, missing = np.flatnonzero(table.present), np.flatnonzero(~table.present)
    source, target, weights = [missing], [missing], [np.ones(len(missing), dtype=np.float32)]
    if k > 1:
        edges = nearest_edges(torch.from_numpy(values[missing]), torch.from_numpy(values[present]), k - 1)
        source.append(present[edges.row])
        target.append(missing[edges.query])
        weights.append(edges.share * (edges.cosine if weight == "cosine" else 1))
    positive = np.concatenate(weights) > 0
    return Graph.from_edges(
        np.concatenate([graph.col.numpy(), np.concatenate(source)[positive]]),
        np.concatenate([graph.target.numpy(), np.concatenate(target)[positive]]),
        np.concatenate([graph.weight.numpy(), np.concatenate(weights)[positive]]),
        n_source=graph.n_source,
        n_target=graph.n_target,
    )


def mixed_item_graph(
    tables: Mapping[str, FeatureTable],
    weights: Mapping[str, float],
    k: int,
    *,
    cache: Path | None = None,
    fill: Fill = "zero",
    train: Interactions | None = None,
) -> Graph:
    """``S = sum_m w_m D_m^-1/2 S_m D_m^-1/2`` over binary kNN graphs (Zhou and Shen, "A Tale of Two Graphs:
    Freezing and Denoising Graph Structures for Multimodal Recommendation", ACM MM 2023,
    https://arxiv.org/abs/2211.06924).

    Args:
        tables: features by modality.
        weights: ``w`` by modality.
        k: neighbors per item and modality, the item included.
        cache: see :func:`item_graph`, as the others.
        fill: how missing vectors are estimated.
        train: the interactions; only ``fill="neighbors"`` needs them.
    """
    graphs = {m: item_graph(tables[m], k, cache=cache, fill=fill, train=train) for m in weights}
    return mix([(weights[m], normalize_weights(graph, "symmetric")) for m, graph in graphs.items()])


class ColdItems(nn.Module):
    """Gives items without train interactions an embedding from their content neighbors, as
    :meth:`graphrec.Recommender.add_items` gives it to items that are new altogether: the direction of the
    neighbors' weighted mean, the weighted mean of their lengths. The mean itself would be shorter than each
    of them, and a cold item then score below warm ones for no reason of its own
    (``python -m experiments.cold_items``).

    Args:
        train: which items have interactions.
        features: tables by modality.
        rule: weights and number of neighbors.
        enabled: False leaves every embedding as it is.
    """

    warm: Tensor

    def __init__(
        self, train: Interactions, features: Mapping[str, FeatureTable], rule: ContentRule, enabled: bool
    ) -> None:
        super().__init__()
        cold = train.item_degree == 0
        self.graph: Graph | None = None
        if enabled and cold.any():
            self.graph = content_graph(features, rule.weights, rule.k, targets=cold, sources=~cold)
        self.register_buffer("warm", torch.from_numpy(~cold)[:, None], persistent=False)  # (n_items, 1)

    def forward(self, items: Tensor) -> Tensor:
        """Item embeddings ``(n_items, d)`` with those of cold items replaced."""
        if self.graph is None:
            return items
        return torch.where(self.warm, items, self._placed(self.graph.to(items.device), items))

    def of(self, cold: Tensor, items: Tensor) -> Tensor:
        """Embeddings ``(n, d)`` of cold items ``(n,)`` alone; ``items (n_items, d)``. Where a table is too
        big for a second one.
        """
        assert self.graph is not None
        return self._placed(self.graph.rows(cold), items)

    def of_sparse(self, cold: Tensor, items: csr_matrix, lengths: np.ndarray) -> Tensor:
        """The same where the table of embeddings is sparse ``(n_items, d)``; ``lengths (n_items,)`` are its
        rows'.
        """
        assert self.graph is not None
        graph = self.graph.rows(cold)
        mean = torch.from_numpy((to_scipy(graph) @ items).toarray())
        return self._with_length(mean, graph @ torch.from_numpy(lengths)[:, None])

    @classmethod
    def _placed(cls, graph: Graph, items: Tensor) -> Tensor:
        return cls._with_length(graph @ items, graph @ items.norm(dim=1, keepdim=True))

    @staticmethod
    def _with_length(mean: Tensor, length: Tensor) -> Tensor:
        """``(n, d)`` scaled to ``(n, 1)``."""
        placed: Tensor = torch.nn.functional.normalize(mean, dim=1) * length
        return placed

"""Vectors of users and items, dense or sparse: taken from a model, stacked, scaled, kept in a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

import numpy as np
import torch
from torch import Tensor

from graphrec.core.errors import ConfigError, DataError, TrainingError
from graphrec.data import Dataset, Histories, Interactions, Query
from graphrec.graphs import sparse
from graphrec.graphs.graph import Graph
from graphrec.models.base import Ranker
from graphrec.serving.array_bundle import Bundle
from graphrec.serving.exact import Keys, Rows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Vectors = Union[np.ndarray, "csr_matrix"]
"""``(n, d) float32``."""
ENCODED = 256
"""Histories that are encoded at once."""
PARTS = ("data", "indices", "indptr")


def taken(embeddings: Tensor | Graph) -> Vectors:
    """A copy of a model's embeddings ``(n, d)``: those of some models are their parameters."""
    if isinstance(embeddings, Graph):
        return sparse.rows_of(embeddings).copy()
    return np.array(embeddings.detach().float().cpu().numpy())


def embeddings(model: Ranker, data: Dataset, seen: Interactions) -> tuple[Vectors, Vectors]:
    """A model's embeddings of users and items, checked against the dataset; see ``Recommender.from_model``.

    Raises:
        ConfigError: the model is no ranker.
        DataError: model or ``seen`` count other users or items than the dataset.
        TrainingError: an embedding is not finite.
    """
    if not isinstance(model, Ranker):
        raise ConfigError(
            f"{type(model).__name__} is no Ranker; a recommender needs embed() of users and items"
        )
    for what, counted in (("model", model), ("seen", seen)):
        if (counted.n_users, counted.n_items) != (data.n_users, data.n_items):
            raise DataError(
                f"the {what} counts {counted.n_users:,} users x {counted.n_items:,} items, {data.name} "
                f"has {data.n_users:,} x {data.n_items:,}; give the dataset the model was built for"
            )
    training = model.training
    model.eval()
    with torch.no_grad():
        tables = [taken(table) for table in _embedded(model, seen)]
    model.train(training)
    for vocabulary, table in zip((data.users, data.items), tables, strict=True):
        bad = broken_rows(table)
        if len(bad):
            raise TrainingError(
                f"the embedding of {vocabulary.kind} {vocabulary[int(bad[0])]!r} is not finite, as are "
                f"{len(bad):,} in all; train again with a lower learning rate"
            )
    return tables[0], tables[1]


def _embedded(model: Ranker, seen: Interactions) -> tuple[Tensor, Tensor] | tuple[Graph, Graph]:
    """Embeddings of users and items; an encoder's users are encoded from ``seen``, a generator has none."""
    if model.capability == "generator":
        return torch.empty(model.n_users, 0), torch.empty(model.n_items, 0)
    if model.capability != "encoder":
        return model.embed()
    histories = Histories.from_interactions(seen)
    blocks = np.array_split(np.arange(model.n_users), range(ENCODED, model.n_users, ENCODED))
    parts = [model.encoder(Query(users, histories.take(users))) for users in blocks]
    return torch.cat(parts), model.item_embeddings()


def broken_rows(vectors: Vectors) -> np.ndarray:
    """Rows that hold something not finite."""
    if isinstance(vectors, np.ndarray):
        return np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    row = np.repeat(np.arange(vectors.shape[0]), np.diff(vectors.indptr))
    return np.unique(row[~np.isfinite(vectors.data)])


def stacked(vectors: Vectors, more: Vectors) -> Vectors:
    """The rows of both, all dense or all sparse."""
    if isinstance(vectors, np.ndarray):
        return np.concatenate([vectors, more])
    from scipy.sparse import vstack

    return vstack([vectors, more], format="csr")


def unit(vectors: Vectors) -> Vectors:
    """The rows scaled to length one."""
    if isinstance(vectors, np.ndarray):
        scaled: np.ndarray = torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1).numpy()
        return scaled
    return sparse.unit_rows(vectors)


def queries(vectors: Vectors, rows: np.ndarray) -> Rows:
    """Some rows, as :func:`~graphrec.serving.exact.retrieve` takes them."""
    return torch.from_numpy(np.array(vectors[rows])) if isinstance(vectors, np.ndarray) else vectors[rows]


def keys(vectors: Vectors) -> Keys:
    """All rows, as :func:`~graphrec.serving.exact.retrieve` takes them."""
    return torch.from_numpy(vectors) if isinstance(vectors, np.ndarray) else vectors.tocsc()


def arrays(part: str, vectors: Vectors) -> dict[str, np.ndarray]:
    """What a bundle keeps of them."""
    if isinstance(vectors, np.ndarray):
        return {part: vectors}
    return {f"{part}_{name}": getattr(vectors, name) for name in PARTS}


def read(saved: Bundle, part: str, width: int | None, mmap: bool = False) -> Vectors:
    """What :func:`arrays` gave, from a bundle; ``width`` is that of sparse vectors, None for dense ones."""
    if width is None:
        return saved.array(part, mmap)
    from scipy.sparse import csr_matrix

    data, indices, indptr = (saved.array(f"{part}_{name}") for name in PARTS)
    return csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, width))

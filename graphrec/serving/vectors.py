"""Vectors of users and items, dense or sparse: from a model, scaled, searched, saved in a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

import numpy as np
import torch
from torch import Tensor

from graphrec.core.errors import ConfigError, DataError, TrainingError
from graphrec.data import Dataset, Histories, Interactions, Query
from graphrec.graphs import sparse
from graphrec.graphs.graph import Graph
from graphrec.graphs.nearest import unit_length
from graphrec.models.base import Ranker
from graphrec.serving.array_bundle import Bundle
from graphrec.serving.exact import Keys, Rows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Vectors = Union[np.ndarray, "csr_matrix"]
"""``(n, d) float32``."""
ENCODED = 256
"""Histories that are encoded at once."""
LENGTHS = 2**16
"""Rows whose lengths are computed at once."""
SPARSE_PARTS = ("data", "indices", "indptr")


def _copy_embeddings(embeddings: Tensor | Graph) -> Vectors:
    """A copy of a model's embeddings ``(n, d)``, which in some models are the parameters themselves."""
    if isinstance(embeddings, Graph):
        return sparse.to_scipy(embeddings).copy()
    return np.array(embeddings.detach().float().cpu().numpy())


def model_vectors(model: Ranker, data: Dataset, seen: Interactions) -> tuple[Vectors, Vectors]:
    """A model's embeddings of users and items, checked against the dataset; see ``Recommender.from_model``.

    Raises:
        ConfigError: the model is not a ranker.
        DataError: the model or ``seen`` has other numbers of users or items than the dataset.
        TrainingError: an embedding is not finite.
    """
    if not isinstance(model, Ranker):
        raise ConfigError(
            f"{type(model).__name__} is not a Ranker; a recommender needs embed() of users and items"
        )
    for name, part in (("model", model), ("seen", seen)):
        if (part.n_users, part.n_items) != (data.n_users, data.n_items):
            raise DataError(
                f"{name} has {part.n_users:,} users x {part.n_items:,} items, but {data.name} has "
                f"{data.n_users:,} x {data.n_items:,}; give the dataset the model was built for"
            )
    training = model.training
    model.eval()
    with torch.no_grad():
        tables = [_copy_embeddings(table) for table in _embed(model, seen)]
    model.train(training)
    for vocabulary, table in zip((data.users, data.items), tables, strict=True):
        bad = nonfinite_rows(table)
        if len(bad):
            raise TrainingError(
                f"the embedding of {vocabulary.kind} {vocabulary[int(bad[0])]!r} is not finite (one of "
                f"{len(bad):,}); train again with a lower learning rate"
            )
    return tables[0], tables[1]


def _embed(model: Ranker, seen: Interactions) -> tuple[Tensor, Tensor] | tuple[Graph, Graph]:
    """Embeddings of users and items. An encoder encodes users from ``seen``; a generator's are empty."""
    if model.capability == "generator":
        return torch.empty(model.n_users, 0), torch.empty(model.n_items, 0)
    if model.capability != "encoder":
        return model.embed()
    histories = Histories.from_interactions(seen)
    blocks = np.array_split(np.arange(model.n_users), range(ENCODED, model.n_users, ENCODED))
    parts = [model.encoder(Query(users, histories.take(users))) for users in blocks]
    return torch.cat(parts), model.item_embeddings()


def nonfinite_rows(vectors: Vectors) -> np.ndarray:
    """Indices of the rows that hold NaN or infinity."""
    if isinstance(vectors, np.ndarray):
        return np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    row = np.repeat(np.arange(vectors.shape[0]), np.diff(vectors.indptr))
    return np.unique(row[~np.isfinite(vectors.data)])


def row_lengths(vectors: Vectors) -> np.ndarray:
    """The Euclidean lengths of the rows ``(n,) float64``; dense ones are read in blocks."""
    if not isinstance(vectors, np.ndarray):
        wide = vectors.astype(np.float64)
        return np.asarray(np.sqrt(wide.multiply(wide).sum(1))).ravel()
    blocks = np.array_split(vectors, range(LENGTHS, len(vectors), LENGTHS))
    return np.concatenate([np.linalg.norm(block.astype(np.float64), axis=1) for block in blocks])


def stack(first: Vectors, second: Vectors) -> Vectors:
    """The rows of both, all dense or all sparse."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    from scipy.sparse import vstack

    return vstack([first, second], format="csr")


def normalize_rows(vectors: Vectors) -> Vectors:
    """The rows scaled to length one."""
    if isinstance(vectors, np.ndarray):
        return np.asarray(unit_length(torch.from_numpy(vectors)).numpy())
    return sparse.unit_rows(vectors)


def as_queries(vectors: Vectors) -> Rows:
    """Rows in the form in which :func:`~graphrec.serving.exact.retrieve` takes queries."""
    return torch.from_numpy(vectors) if isinstance(vectors, np.ndarray) else vectors


def as_keys(vectors: Vectors) -> Keys:
    """Rows in the form in which :func:`~graphrec.serving.exact.retrieve` takes keys."""
    return torch.from_numpy(vectors) if isinstance(vectors, np.ndarray) else vectors.tocsc()


def to_arrays(part: str, vectors: Vectors) -> dict[str, np.ndarray]:
    """The arrays of a bundle that hold the vectors."""
    if isinstance(vectors, np.ndarray):
        return {part: vectors}
    return {f"{part}_{name}": getattr(vectors, name) for name in SPARSE_PARTS}


def read_vectors(saved: Bundle, part: str, width: int | None) -> Vectors:
    """Reads vectors saved by :func:`to_arrays`: sparse ones of length ``width``, or mapped dense ones."""
    if width is None:
        return saved.array(part, mmap=True)
    from scipy.sparse import csr_matrix

    data, indices, indptr = (saved.array(f"{part}_{name}") for name in SPARSE_PARTS)
    return csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, width))

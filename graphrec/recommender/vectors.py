"""Vectors of users and items, dense or sparse: taken from a model, stacked, scaled, kept in a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

import numpy as np
import torch
from torch import Tensor

from graphrec import sparse
from graphrec.graph import Graph
from graphrec.recommender.bundle import Bundle
from graphrec.recommender.retrieval import Keys, Rows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Vectors = Union[np.ndarray, "csr_matrix"]
"""``(n, d) float32``."""
PARTS = ("data", "indices", "indptr")


def taken(embeddings: Tensor | Graph) -> Vectors:
    """A copy of a model's embeddings ``(n, d)``: those of some models are their parameters."""
    if isinstance(embeddings, Graph):
        return sparse.rows_of(embeddings).copy()
    return np.array(embeddings.detach().float().cpu().numpy())


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
    """Some rows, as :func:`~graphrec.recommender.retrieval.retrieve` takes them."""
    return torch.from_numpy(np.array(vectors[rows])) if isinstance(vectors, np.ndarray) else vectors[rows]


def keys(vectors: Vectors) -> Keys:
    """All rows, as :func:`~graphrec.recommender.retrieval.retrieve` takes them."""
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

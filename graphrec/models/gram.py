"""The inverse of an item Gram matrix with a penalty, ``(X^T X + Lambda)^-1``, computed in its own memory.

A dense matrix over ``n`` items takes ``4 n^2`` bytes and nothing else of that size is allocated: 60,000 items
take 14.4 GB. Cholesky and inverse are ``n^3`` floating-point operations.
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy.linalg import lapack
from scipy.sparse import csr_matrix

from graphrec.core.config import option
from graphrec.core.errors import ConfigError, TrainingError
from graphrec.core.random import numpy_rng
from graphrec.core.reuse import Reused
from graphrec.data.interactions import Interactions
from graphrec.graphs.sparse import interaction_matrix
from graphrec.models.item_weights import KeptWeightsConfig

BLOCK = 1024  # rows that are filled, mirrored or multiplied at a time
MOST_RESIDUAL = 1e-3
"""Greatest relative residual of the inverse; float32 gives 1e-6 to 1e-4 on real data."""
GIB = 2**30


class _Gram(NamedTuple):
    """What an inverse is computed from."""

    train: Interactions
    diagonal: np.ndarray
    dtype: np.dtype


LAST_INVERSE: Reused[_Gram, np.ndarray] = Reused("last inverse")
"""Where it is kept, :func:`inverse_gram` copies the last inverse if data, penalty and precision are the same.
That takes the memory of one more matrix; none is kept where ``memory`` has no room for two."""


class RegressionConfig(KeptWeightsConfig):
    """Options of ridge regressions over items."""

    reg_weight: float = Field(100.0, gt=0)
    """Penalty on every weight: lambda. In units of interactions."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of each history that is left out in training, in expectation and in closed form: adds
    ``p / (1 - p)`` times an item's interactions to the penalty of its weights."""
    solver: Literal["inverse", "columns"] = "inverse"
    """``inverse`` computes the whole matrix over items at once. ``columns`` solves it column by column with
    conjugate gradients and keeps ``kept`` weights of each, for catalogs whose matrix does not fit."""
    kept: int | None = Field(None, ge=1)
    """Weights per item that a recommender keeps, those of the largest size. Evaluation takes all with
    ``solver=inverse``, and these with ``solver=columns``. None keeps 500, and more where all items together
    then have no more than 8 million."""
    tolerance: float = Field(1e-4, gt=0, lt=1)
    """With ``solver=columns``, the residual of a column over its right side at which it is done."""
    max_iterations: int = option(500, ge=1, affects_result=False)
    """With ``solver=columns``, iterations of a column after which the training ends with an error."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the inverse or the iterations. float64 takes twice the memory and time."""
    memory: float = option(16.0, gt=0, affects_result=False)
    """GiB that the matrix over items, or the kept weights and a block of columns, may take."""


def penalty(train: Interactions, config: RegressionConfig) -> np.ndarray:
    """The penalty of the weights of each item ``(n_items,) float64``: ``lambda + p / (1 - p) d_i``."""
    share = config.dropout / (1 - config.dropout)
    return np.asarray(config.reg_weight + share * train.item_degree, dtype=np.float64)


def inverse_gram(train: Interactions, diagonal: np.ndarray, config: RegressionConfig) -> np.ndarray:
    """``(X^T X + diag)^-1 (n_items, n_items)``, symmetric.

    Args:
        train: the interactions ``X``.
        diagonal: positive ``(n_items,)``.
        config: gives precision and memory.

    Raises:
        ConfigError: the matrix would take more memory than allowed or than there is.
        TrainingError: the matrix is not positive definite in this precision, or its inverse is off.
    """
    n = train.n_items
    dtype = np.dtype(config.precision)
    check_memory(
        n * n * dtype.itemsize,
        f"a matrix over {n:,} items takes {n:,} x {n:,} x {dtype.itemsize} bytes =",
        config,
        "set solver=columns, which keeps the largest weights of each item, or leave out items with few "
        "interactions",
    )
    last = LAST_INVERSE.find(
        lambda g: g.train is train and g.dtype == dtype and np.array_equal(g.diagonal, diagonal)
    )
    if last is not None:
        return last.copy()
    LAST_INVERSE.clear()
    x = interaction_matrix(train, config.precision)
    columns = x.T.tocsr()
    matrix = np.empty((n, n), dtype=dtype)
    for start in range(0, n, BLOCK):
        (columns[start : start + BLOCK] @ x).toarray(out=matrix[start : start + BLOCK])
    matrix.ravel()[:: n + 1] += diagonal.astype(dtype)
    prefix = "s" if dtype == np.float32 else "d"
    # LAPACK reads columns first; the matrix is symmetric, so that its transpose is a view that LAPACK takes.
    factor, info = getattr(lapack, f"{prefix}potrf")(matrix.T, lower=1, clean=0, overwrite_a=1)
    if info == 0:
        inverse, info = getattr(lapack, f"{prefix}potri")(factor, lower=1, overwrite_c=1)
    if info != 0:
        raise TrainingError(
            f"X^T X + diag over {n:,} items is not positive definite in {config.precision} (LAPACK: {info}); "
            "raise reg_weight, or set precision=float64"
        )
    result: np.ndarray = inverse.T  # its upper triangle is filled
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        square = result[rows, rows]
        square[:] = np.triu(square) + np.triu(square, 1).T
        result[start + BLOCK :, rows] = result[rows, start + BLOCK :].T
    _check_inverse(x, diagonal, result)
    if LAST_INVERSE.active and 2 * result.nbytes <= config.memory * GIB:
        LAST_INVERSE.add(_Gram(train, diagonal, dtype), result.copy())
    return result


def check_memory(needed: int, what: str, config: RegressionConfig, otherwise: str) -> None:
    """Raises a ConfigError where ``needed`` bytes are more than ``memory`` allows or than are installed.

    Args:
        needed: bytes.
        what: the beginning of the message, which ends in the amount.
        config: gives ``memory``.
        otherwise: what to do instead of raising ``memory``.
    """
    limit = memory_limit(config.memory)
    if needed / GIB > limit:
        raise ConfigError(
            f"{what} {needed / GIB:.1f} GiB; memory={config.memory:g} GiB and what is installed allow "
            f"{limit:.1f} GiB: raise memory, {otherwise}"
        )


def memory_limit(allowed: float) -> float:
    """What a matrix may take: the allowed GiB, or all of the machine's memory if that is less."""
    return min(allowed, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB)


def _check_inverse(x: csr_matrix, diagonal: np.ndarray, inverse: np.ndarray) -> None:
    """Refuses an inverse that a random vector does not come back from."""
    v = numpy_rng(0, "gram/residual").standard_normal(len(inverse)).astype(inverse.dtype)
    w = inverse @ v
    back = x.T @ (x @ w) + diagonal * w
    residual = float(np.linalg.norm(back - v) / np.linalg.norm(v))
    if not residual < MOST_RESIDUAL:
        raise TrainingError(
            f"the inverse over {len(inverse):,} items is off by {residual:.1e}; expected less than "
            f"{MOST_RESIDUAL:.0e}: raise reg_weight, or set precision=float64"
        )

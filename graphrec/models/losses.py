"""Loss functions that two or more models share; all return scalars."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from graphrec.core import distributed


def bpr(difference: Tensor, valid: Tensor | None = None) -> Tensor:
    """Bayesian personalized ranking: ``-mean log sigmoid(s+ - s-)`` (https://arxiv.org/abs/1205.2618).

    Args:
        difference: score of the positive minus score of the negative item ``(B,)``.
        valid: pairs to count ``(B,) bool``; default all. Without any the loss is 0.
    """
    if valid is None:
        return -distributed.global_mean(logsigmoid(difference))
    counted = distributed.all_reduce_sum(valid.sum()).clamp(min=1)
    return -distributed.all_reduce_sum((logsigmoid(difference) * valid).sum()) / counted


def embedding_norms(*embeddings: Tensor) -> Tensor:
    """The sum of the Frobenius norms of several ``(B, d)`` batches, divided by B: the toolboxes'
    regularizer.
    """
    return torch.stack([distributed.global_norm(e) for e in embeddings]).sum() / distributed.global_rows(
        embeddings[0]
    )


def half_squares(*embeddings: Tensor) -> Tensor:
    """Half the sum of squares of several ``(B, d)`` batches, divided by B."""
    squares = distributed.all_reduce_sum(torch.stack([e.square().sum() for e in embeddings]).sum())
    return 0.5 * squares / distributed.global_rows(embeddings[0])

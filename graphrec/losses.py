"""Loss functions that two or more models share; all return scalars."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bpr(difference: Tensor, valid: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking: ``-mean log sigmoid(s+ - s-)`` (https://arxiv.org/abs/1205.2618).

    Args:
        difference: score of the positive minus score of the negative item ``(B,)``.
        valid: pairs to count ``(B,) bool``; default all. Without any the loss is 0.
    """
    if valid is None:
        return -logsigmoid(difference).mean()
    return -(logsigmoid(difference) * valid).sum() / valid.sum().clamp(min=1)


def embedding_norms(*embeddings: Tensor) -> Tensor:
    """The sum of the Frobenius norms of several ``(B, d)`` batches, divided by B: the toolboxes'
    regulariser.
    """
    return torch.stack([e.norm() for e in embeddings]).sum() / embeddings[0].shape[0]

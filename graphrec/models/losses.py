"""Loss functions: one named object each, with its equation and source; all return scalars.

A loss object holds its options and is called with scores or embeddings. With several processes each of them
passes its rows of the batch and gets the value of the whole batch (:mod:`graphrec.core.distributed`).

In the equations ``s+`` and ``s-`` are the scores of a user's positive and negative item.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cosine_similarity, embedding, logsigmoid, normalize

from graphrec.core import distributed

FUSED = 2**20  # similarities from which value and gradient are computed together
SIMILARITIES = 2**22  # similarities of queries and a pool that are in memory at a time


def score_difference(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """``s+ - s-`` of inner products: what :class:`BPR` and :class:`Margin` take.

    Args:
        users: embeddings ``(B, d)``.
        positives: embeddings ``(B, d)``.
        negatives: embeddings ``(B, d)``, or ``(B, n, d)`` of n negatives each.

    Returns:
        ``(B,)`` or ``(B, n)``.
    """
    if negatives.dim() == 3:
        users = users[:, None]
        positives = positives[:, None]
    return (users * (positives - negatives)).sum(-1)


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """The mean of ``(B,)`` or ``(B, n)`` over all processes, of the rows ``valid (B,) bool`` alone."""
    if valid is None:
        return distributed.global_mean(x)
    counted = distributed.all_reduce_sum(valid.sum()).clamp(min=1)
    if x.dim() == 2:
        x = x.mean(1)
    return distributed.all_reduce_sum((x * valid).sum()) / counted


@dataclass(frozen=True)
class BPR:
    """Bayesian personalized ranking: ``-mean log sigmoid(s+ - s-)``.

    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
    https://arxiv.org/abs/1205.2618. Of n negatives it is the mean.

    Attributes:
        base: of the logarithm.
    """

    base: float = math.e

    def __call__(self, difference: Tensor, valid: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            difference: ``s+ - s-``, ``(B,)`` or ``(B, n)``.
            valid: rows to count ``(B,) bool``; default: all. If there are none the loss is 0.
        """
        loss = -_mean(logsigmoid(difference), valid)
        return loss if self.base == math.e else loss / math.log(self.base)


bpr = BPR()
bpr2 = BPR(2.0)
"""In bits: the binary logarithm of DualGNN and the models after it."""


@dataclass(frozen=True)
class Margin:
    """Hinge on the difference of scores: ``mean max(0, margin - (s+ - s-))``.

    Weston et al., "WSABIE: Scaling Up to Large Vocabulary Image Annotation", IJCAI 2011,
    https://research.google/pubs/wsabie-scaling-up-to-large-vocabulary-image-annotation/, without its rank
    weights. Of n negatives it is the mean.

    Attributes:
        margin: difference from which on a pair costs nothing.
    """

    margin: float = 1.0

    def __call__(self, difference: Tensor, valid: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            difference: ``s+ - s-``, ``(B,)`` or ``(B, n)``.
            valid: rows to count ``(B,) bool``; default: all. If there are none the loss is 0.
        """
        return _mean((self.margin - difference).relu(), valid)


@dataclass(frozen=True)
class SampledSoftmax:
    """Softmax over the positive and sampled negatives:
    ``-mean log (exp(s+ / t) / (exp(s+ / t) + sum_j exp(s-_j / t)))``.

    Wu et al., "On the Effectiveness of Sampled Softmax Loss for Item Recommendation", TOIS 2024,
    https://arxiv.org/abs/2201.02327.

    Attributes:
        temperature: ``t``.
    """

    temperature: float = 1.0

    def __call__(
        self,
        positives: Tensor,
        negatives: Tensor,
        log_probability: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            positives: scores ``s+ (B,)``.
            negatives: scores ``s- (B, n)``, of at least one negative.
            log_probability: the log probabilities with which positives ``(B,)`` and negatives ``(B, n)`` are
                drawn; subtracted from the scores, which corrects for a sampler that is not uniform (Bengio
                and Senecal, 2008, https://doi.org/10.1109/TNN.2007.912312).
        """
        logits = torch.cat([positives[:, None], negatives], 1) / self.temperature  # (B, 1 + n)
        if log_probability is not None:
            positive_log, negative_log = log_probability
            logits = logits - torch.cat([positive_log[:, None], negative_log], 1)
        return distributed.global_mean(logits.logsumexp(1) - logits[:, 0])


@dataclass(frozen=True)
class InfoNCE:
    """Contrast of each query's positive with a pool: ``mean (log sum_j exp(q . k_j / t) - q . k+ / t)``.

    van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
    https://arxiv.org/abs/1807.03748. If queries times pool is large, blocks of queries are processed in turn
    and their gradient is computed along with the value, so that memory is that of one block.

    Attributes:
        temperature: ``t``.
        cosine: scale queries and pool to length one first.
        eps: lengths are ``sqrt(eps + |x|^2)``, as in SSLRec with 1e-8; 0 is exact.
        limit: ``q . k+ / t`` counts from ``-limit`` to ``limit`` in the second term; beyond, that term is
            constant and passes no gradient, as in LightGCL. None: there is no limit.
    """

    temperature: float = 0.2
    cosine: bool = True
    eps: float = 0.0
    limit: float | None = None

    def __call__(self, queries: Tensor, pool: Tensor, positives: Tensor, ids: Tensor | None = None) -> Tensor:
        """The loss; 0 without queries. With several processes each has its own queries and the same pool.

        Args:
            queries: ``(B, d)``.
            pool: ``(N, d)``, the positives among them.
            positives: row of each query's positive in the pool ``(B,) int64``.
            ids: what each row of the pool stands for ``(N,) int64``. Other rows with the id of a query's
                positive are left out of the query's sum: they are no negatives.
        """
        if self.cosine:
            queries = self._scaled(queries)
            pool = self._scaled(pool)
        queries = queries / self.temperature
        loss = _over_pool(queries, pool, positives, ids)
        if self.limit is not None:
            logits = (queries * embedding(positives, pool)).sum(1)
            loss = loss + distributed.global_mean(logits - logits.clamp(-self.limit, self.limit))
        return loss

    def _scaled(self, x: Tensor) -> Tensor:
        if not self.eps:
            return normalize(x, dim=1)
        return x * (x.square().sum(1, keepdim=True) + self.eps).rsqrt()

    def in_batch(self, queries: Tensor, keys: Tensor, ids: Tensor | None = None) -> Tensor:
        """The loss with the keys of the whole batch as the pool, those of other processes included.

        Args:
            queries: ``(B, d)``.
            keys: the positive of each query ``(B, d)``.
            ids: what each key stands for ``(B,) int64``, such as an item that may occur twice in a batch.
        """
        pool, first = distributed.all_gather_pool(keys)
        if ids is not None:
            ids, _ = distributed.all_gather_pool(ids)
        return self(queries, pool, first + torch.arange(len(queries), device=queries.device), ids)


def log_sum_exp(queries: Tensor, pool: Tensor) -> Tensor:
    """``mean log sum_j exp(q . k_j)``: what is left of :class:`InfoNCE` without positives, cosines and a
    temperature. Blocks of queries and several processes are as there.

    Args:
        queries: ``(B, d)``.
        pool: ``(N, d)``.
    """
    return _over_pool(queries, pool, None, None)


def _over_pool(queries: Tensor, pool: Tensor, positives: Tensor | None, ids: Tensor | None) -> Tensor:
    """``log sum exp``, minus the positive logit if there are positives: the mean over all processes."""
    if queries.shape[0] * pool.shape[0] > FUSED:
        with _one_type(queries, pool) as (queries, pool):
            total: Tensor = _FusedInfoNCE.apply(queries, pool, positives, ids)
    else:
        logits = _logits(queries, pool, positives, ids)
        values = logits.logsumexp(1)
        if positives is not None:
            values = values - logits.gather(1, positives[:, None]).squeeze(1)
        total = values.sum()
    return distributed.all_reduce_sum(total) / torch.as_tensor(distributed.global_rows(queries)).clamp(min=1)


@contextmanager
def _one_type(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """The tensors in float32 at least, and no autocast: it does not reach products in place, which need one
    type.
    """
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _logits(queries: Tensor, pool: Tensor, positives: Tensor | None, ids: Tensor | None) -> Tensor:
    """Inner products ``(B, N)``; -inf where a row of the pool is no negative."""
    logits = queries @ pool.T
    if positives is not None and ids is not None:
        duplicate = ids == ids[positives][:, None]  # (B, N)
        duplicate[torch.arange(len(positives), device=duplicate.device), positives] = False
        logits = logits.masked_fill(duplicate, -math.inf)
    return logits


class _FusedInfoNCE(torch.autograd.Function):
    """The sum over queries; each block's softmax is turned into gradients before the next block."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, pool: Tensor, positives: Tensor | None, ids: Tensor | None
    ) -> Tensor:
        total = queries.new_zeros(())
        to_queries = torch.empty_like(queries)
        to_pool = torch.zeros_like(pool)
        size = max(1, SIMILARITIES // len(pool))
        for start in range(0, len(queries), size):
            block = slice(start, start + size)
            places = None if positives is None else positives[block]
            logits = _logits(queries[block], pool, places, ids)
            own = 0.0 if places is None else logits.gather(1, places[:, None])
            # One exponential for value and gradient.
            largest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()  # (b, N)
            sums = exponentials.sum(1, keepdim=True)
            total += (sums.log() + largest - own).sum()
            to_queries[block] = exponentials @ pool / sums
            to_pool.addmm_(exponentials.T, queries[block] / sums)
            if places is not None:
                to_queries[block] -= pool[places]
                to_pool.index_add_(0, places, queries[block], alpha=-1)
        ctx.save_for_backward(to_queries, to_pool)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_queries, to_pool = ctx.saved_tensors
        return gradient * to_queries, gradient * to_pool, None, None


@dataclass(frozen=True)
class CosineContrastive:
    """``weight * (1 - cos(prediction, target))`` in the mean, without negatives.

    Zhou et al., "Bootstrap Latent Representations for Multi-Modal Recommendation", WWW 2023,
    https://arxiv.org/abs/2207.05969, after Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020,
    https://arxiv.org/abs/2006.07733. The caller decides whether a target carries a gradient.

    Attributes:
        weight: factor of the loss.
    """

    weight: float = 1.0

    def __call__(self, predictions: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        """The loss as a weighted mean over rows.

        Args:
            predictions: ``(B, d)``.
            targets: ``(B, d)``.
            counts: how often each row counts ``(B,) float``. If the sum is 0 the loss is 0.
        """
        share = self.weight * counts / distributed.all_reduce_sum(counts.sum()).clamp(min=1)
        cosine = cosine_similarity(predictions, targets)
        return distributed.all_reduce_sum((share * (1 - cosine)).sum())

    def symmetric(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
        """``weight * (2 - mean cos - mean cos)`` of two pairs of predictions and targets, all ``(B, d)``."""
        means = [distributed.global_mean(cosine_similarity(*pair)) for pair in (one, other)]
        return self.weight * (2 - means[0] - means[1])


@dataclass(frozen=True)
class AlignmentUniformity:
    """Positive pairs close to each other, all embeddings spread over the sphere:
    ``mean |u - i|^2 + gamma / 2 * (uniformity(u) + uniformity(i))`` of embeddings of length one, where
    ``uniformity(x) = log mean exp(-2 |x_a - x_b|^2)`` over pairs ``a != b`` of the batch.

    Wang et al., "Towards Representation Alignment and Uniformity in Collaborative Filtering" (DirectAU), KDD
    2022, https://arxiv.org/abs/2206.12811, Eqs. 6-9.

    Attributes:
        gamma: weight of uniformity.
    """

    gamma: float = 1.0

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        """The loss.

        Args:
            users: ``(B, d)``; at least two rows in the whole batch.
            items: the positive of each user ``(B, d)``.
        """
        users = normalize(users, dim=1)
        items = normalize(items, dim=1)
        alignment = distributed.global_mean((users - items).square().sum(1))
        return alignment + self.gamma / 2 * (self.uniformity(users) + self.uniformity(items))

    def uniformity(self, x: Tensor) -> Tensor:
        """``log mean exp(-2 |x_a - x_b|^2)`` over pairs of different rows of ``(B, d)``, of length one."""
        pool, first = distributed.all_gather_pool(x)
        with _one_type(x, pool) as (x, pool):
            total: Tensor = _GaussianPairs.apply(x, pool, first)
        n_pairs = len(pool) * (len(pool) - 1)
        return (distributed.all_reduce_sum(total) / n_pairs).log()


class _GaussianPairs(torch.autograd.Function):
    """``sum exp(-2 |x_a - p_b|^2)`` over rows of length one, without the pairs of a row with itself, which is
    row ``first + a`` of the pool. Blocks of rows are processed in turn, value and gradient together.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Tensor, first: int) -> Tensor:
        total = x.new_zeros(())
        to_x = torch.empty_like(x)
        to_pool = torch.zeros_like(pool)
        size = max(1, SIMILARITIES // len(pool))
        for start in range(0, len(x), size):
            block = slice(start, start + size)
            rows = x[block]
            kernel = (rows @ pool.T).sub_(1).mul_(4).exp_()  # |a - b|^2 = 2 - 2 a.b
            own = torch.arange(len(rows), device=x.device)
            kernel[own, first + start + own] = 0
            total += kernel.sum()
            to_x[block] = 4 * (kernel @ pool)
            to_pool.addmm_(kernel.T, rows, alpha=4)
        ctx.save_for_backward(to_x, to_pool)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        to_x, to_pool = ctx.saved_tensors
        return gradient * to_x, gradient * to_pool, None


def embedding_norms(*embeddings: Tensor) -> Tensor:
    """The sum of the Frobenius norms of several batches ``(B, ..., d)``, divided by B: the regularizer of
    MMRec (https://github.com/enoche/MMRec), the toolbox behind the published Amazon tables.
    """
    norms = torch.stack([distributed.global_norm(e) for e in embeddings])
    return norms.sum() / distributed.global_rows(embeddings[0])


def half_squares(*embeddings: Tensor) -> Tensor:
    """Half the sum of squares of several batches ``(B, ..., d)``, divided by B."""
    squares = distributed.all_reduce_sum(torch.stack([e.square().sum() for e in embeddings]).sum())
    return 0.5 * squares / distributed.global_rows(embeddings[0])


def mean_squares(*embeddings: Tensor) -> Tensor:
    """The sum over several batches ``(B, d)`` of the mean of all squared entries: the regularizer of MMGCN
    (Wei et al., ACM MM 2019, https://doi.org/10.1145/3343031.3351034) and the models after it.
    """
    return torch.stack([distributed.global_mean(e.square()) for e in embeddings]).sum()

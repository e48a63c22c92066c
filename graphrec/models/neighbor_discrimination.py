"""A loss that tells items from others by the neighbors they have in several views, and in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from graphrec.core import distributed
from graphrec.core.topk import topk
from graphrec.models.losses import SIMILARITIES

EPS = 1e-9  # added to shares before their logarithm is taken, as in the authors' code
SMALLEST = 1e-20  # what a sum of exponentials counts at least, where there are no other items


@dataclass(frozen=True)
class NeighborDiscrimination:
    """``mean (-log (sum_P e / sum e) - log (sum_S e / sum_{not P} e))`` in each view, with
    ``e_ij = exp(cos(h_i, h_j) / t)``: items are to be near to the neighbors ``P`` that the views have in
    common, and of the others to the neighbors ``S`` that are special to the view.

    ``P`` are the items with the largest sum of ``q`` over all views and the view itself once more, ``S``
    those with the largest ``q`` in the view that are not in ``P``; ``q`` is the softmax of an item's cosines
    with all items. Xv et al., "Improving Multi-modal Recommender Systems by Denoising and Aligning
    Multi-modal Content and User Feedback" (DA-MRS), KDD 2024, https://arxiv.org/abs/2406.12501.

    Blocks of items are processed in turn, value and gradient together, so that memory is that of one block.

    Attributes:
        n_positives: items in ``P``, and in ``S``.
        temperature: ``t``.
    """

    n_positives: int = 10
    temperature: float = 0.2

    def __call__(self, views: Sequence[Tensor], known: Tensor, items: Tensor) -> list[Tensor]:
        """The loss in each view. With several processes each has its own items and the same views.

        Args:
            views: vectors of all items in each view ``(n, d)``.
            known: which views each item has ``(n, V) bool``. In the others it is no neighbor, and there is no
                loss of it.
            items: whose neighbors are learned from ``(B,) int64``.

        Returns:
            ``V`` scalars; 0 where no item has the view.
        """
        unit = [normalize(view.float(), dim=1) for view in views]
        totals = _Blocks.apply(self, known, items, *unit)
        counts = distributed.all_reduce_sum(known[items].sum(0)).clamp(min=1)
        return [distributed.all_reduce_sum(total) / n for total, n in zip(totals, counts, strict=True)]

    def neighbors(
        self, cosines: Sequence[Tensor], known: Tensor, items: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """``P`` and ``S`` of each view ``(B, n_positives)``, or fewer where there are fewer items.

        Args:
            cosines: of the items with all items in each view ``(B, n)``.
            known: see :meth:`__call__`.
            items: ``(B,) int64``.
        """
        shares = []
        for cosine, has in zip(cosines, known.unbind(1), strict=True):
            share = cosine.masked_fill(~has, torch.finfo(cosine.dtype).min).softmax(1)
            shares.append(torch.where(has[items, None] & has, share, 0))
        total = torch.stack(shares).sum(0) if len(shares) > 1 else shares[0]
        k = min(self.n_positives, total.shape[1])
        common = [topk(total + share, k)[1] for share in shares]
        special = [
            topk(share.scatter(1, taken, -1), min(k, total.shape[1] - k) or 1)[1]
            for share, taken in zip(shares, common, strict=True)
        ]
        return common, special

    def of_item(self, cosines: Tensor, known: Tensor, common: Tensor, special: Tensor) -> Tensor:
        """The loss of each item in one view ``(B,)``.

        Args:
            cosines: with all items ``(B, n)``.
            known: items that have the view ``(n,) bool``.
            common: ``P (B, k) int64``.
            special: ``S (B, k) int64``.
        """
        e = torch.where(known, ((cosines - 1) / self.temperature).exp(), 0)  # shares are the same, and finite
        others = e.scatter(1, common, 0)
        of_common = e.gather(1, common).sum(1) / e.sum(1)
        of_special = others.gather(1, special).sum(1) / others.sum(1).clamp(min=SMALLEST)
        return -(of_common + EPS).log() - (of_special + EPS).log()


class _Blocks(torch.autograd.Function):
    """The sums over items of the loss in each view. Neighbors are chosen without a gradient, so the loss of a
    view has one to this view alone.
    """

    @staticmethod
    def forward(
        ctx: Any, loss: NeighborDiscrimination, known: Tensor, items: Tensor, *unit: Tensor
    ) -> tuple[Tensor, ...]:
        totals = [x.new_zeros(()) for x in unit]
        gradients = [torch.zeros_like(x) for x in unit]
        with torch.autocast(unit[0].device.type, enabled=False):
            for rows in items.split(max(1, SIMILARITIES // len(known))):
                cosines = [x[rows] @ x.T for x in unit]
                chosen = loss.neighbors(cosines, known, rows)
                for view, (x, cosine, common, special) in enumerate(zip(unit, cosines, *chosen, strict=True)):
                    has = known[:, view]
                    with torch.enable_grad():
                        cosine = cosine.detach().requires_grad_()
                        values = loss.of_item(cosine, has, common, special)
                        total = torch.where(has[rows], values, 0).sum()
                    (gradient,) = torch.autograd.grad(total, cosine)
                    totals[view] += total.detach()
                    gradients[view].addmm_(gradient.T, x[rows])
                    gradients[view].index_add_(0, rows, gradient @ x)
        ctx.save_for_backward(*gradients)
        return tuple(totals)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(g * x for g, x in zip(upstream, ctx.saved_tensors, strict=True))

"""Validation of the scorer: does it tell what the user is looking for from what else fits what was said?"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from graphrec.conversation.prefixes import CELLS, distinct, distinct_pairs, matrix, satisfying, simulate
from graphrec.conversation.vectors import DialogueVectors
from graphrec.core.errors import DataError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset

CANDIDATES = 300
PAIRS = 20_000


class Scorer(Protocol):
    """What has vectors for conversations."""

    def vectors(self) -> DialogueVectors:
        """Vectors of users, items and attributes."""
        ...


class ScoringTask:
    """Areas under the ROC curve in the middle of simulated conversations; what a Trainer validates by.

    Each pair of user and item gets one prefix (see :mod:`graphrec.conversation.prefixes`), the same in every
    epoch and for every model. With ``a = u + sum of the accepted attributes``, ``a.v`` scores items and
    ``a.q`` attributes:

    - ``auc/items``: how many of the other items with all accepted attributes score below the item;
    - ``auc/attributes``: how many of the attributes the item does not have score below those it has and the
      user has not named yet;
    - ``auc``: the mean of both.

    Equal scores count half. Both are means over pairs, without those that have nothing to compare; where that
    is all of them, as if every item had one attribute, the metric is left out.
    Candidates may be train items of the user, as in a conversation.

    Args:
        data: the dataset; its validation split is used and no other.
        seed: of prefixes and candidates.
        pairs: so many pairs at most, drawn once from the split.
        candidates: so many other items at most, drawn once.

    Raises:
        DataError: no validation pairs, or no attributes.
    """

    def __init__(
        self, data: Dataset, *, seed: int = 0, pairs: int = PAIRS, candidates: int = CANDIDATES
    ) -> None:
        edges, n_attributes = distinct_pairs(data)
        if not len(data.valid):
            raise DataError(
                f"{data.name}: the valid split is empty, so there is nothing to validate on; choose a split "
                "that holds some out"
            )
        if not edges.shape[1]:
            raise DataError(
                f"{data.name}: no item has an attribute, so there is nothing to talk about; validate by "
                "ranking"
            )
        chosen = np.arange(len(data.valid))
        if len(chosen) > pairs:
            chosen = np.sort(numpy_rng(seed, "scoring/pairs").choice(chosen, pairs, replace=False))
        self.users = data.valid.users[chosen].astype(np.int64)
        self.items = data.valid.items[chosen].astype(np.int64)
        self.has = matrix(edges, data.n_items, n_attributes)
        prefixes = simulate(edges, data.n_items, n_attributes, numpy_rng(seed, "scoring/prefixes"))
        rows = prefixes.draw(self.items, numpy_rng(seed, "scoring/prefix"))
        self.said_at, said = prefixes.said(rows)
        self.said = said.astype(np.int64)
        self.others = self._candidates(candidates, seed)
        degree = np.diff(self.has.indptr)[self.items]
        unsaid = (degree > np.diff(self.said_at)) & (degree < n_attributes)
        if not (unsaid.any() or (self.others >= 0).any()):
            raise DataError(
                f"{data.name}: no two items of the valid split share an attribute or have two, so there is "
                "nothing to compare; validate by ranking"
            )

    def _candidates(self, k: int, seed: int) -> np.ndarray:
        """Other items with all accepted attributes, filled up with -1 ``(n, k) int64``."""
        rng, found = numpy_rng(seed, "scoring/candidates"), np.full((len(self.users), k), -1, dtype=np.int64)
        step = max(1, CELLS // self.has.shape[0])
        for start in range(0, len(found), step):
            rows = np.arange(start, min(start + step, len(found)))
            rows = rows[np.diff(self.said_at)[rows] > 0]  # nothing was said: nothing to choose among
            own = self.items[rows]
            offsets = np.concatenate([[0], np.cumsum(np.diff(self.said_at)[rows])])
            said = self.said[self.said_at[start] : self.said_at[min(start + step, len(found))]]
            fit = satisfying(offsets, said, self.has)
            drawn = distinct(np.diff(fit.indptr) - 1, k, rng)
            keys = np.repeat(np.arange(len(rows)), np.diff(fit.indptr)) * fit.shape[1] + fit.indices
            place = np.searchsorted(keys, np.arange(len(rows)) * fit.shape[1] + own)
            at = fit.indptr[:-1, None] + drawn
            at += at >= place[:, None]
            found[rows] = np.where(drawn >= 0, fit.indices[np.where(drawn >= 0, at, 0)], -1)
        return found

    def __call__(self, model: Scorer) -> dict[str, float]:
        """The three areas."""
        vectors = model.vectors()
        items, attributes = [], []
        width = max(self.others.shape[1] * vectors.items.shape[1], 4 * self.has.shape[1])
        step = max(1, CELLS // width)
        for start in range(0, len(self.users), step):
            rows = slice(start, start + step)
            a = vectors.users[self.users[rows]].copy()  # (b, d)
            low, high = self.said_at[rows][0], self.said_at[min(start + step, len(self.users))]
            sample = np.repeat(np.arange(len(a)), np.diff(self.said_at)[rows])
            np.add.at(a, sample, vectors.attributes[self.said[low:high]])
            items.append(self._item_areas(rows, a, vectors.items))
            said = self.said[low:high]
            attributes.append(self._attribute_areas(rows, a, vectors.attributes, sample, said))
        areas = {"auc/items": np.concatenate(items), "auc/attributes": np.concatenate(attributes)}
        means = {k: float(np.nanmean(v)) for k, v in areas.items() if not np.isnan(v).all()}
        return {"auc": sum(means.values()) / len(means), **means}

    def _item_areas(self, rows: slice, a: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Share of the other items below the pair's own ``(b,)``, NaN without others."""
        others = self.others[rows]
        # The item stands among the others: equal vectors then have equal scores, to the bit.
        compared = vectors[np.column_stack([self.items[rows], np.maximum(others, 0)])]  # (b, 1 + k, d)
        scores = (compared @ a[:, :, None])[:, :, 0]
        return _share_below(scores[:, 1:], scores[:, :1], others >= 0)

    def _attribute_areas(
        self, rows: slice, a: np.ndarray, vectors: np.ndarray, sample: np.ndarray, said: np.ndarray
    ) -> np.ndarray:
        """Share of the attributes the item does not have below those not yet said, NaN without any."""
        scores = a @ vectors.T  # (b, n_attributes)
        own = self.has[self.items[rows]].toarray() > 0
        unsaid = own.copy()
        unsaid[sample, said] = False
        row, attribute = np.nonzero(unsaid)
        area = _share_below(scores[row], scores[row, attribute][:, None], ~own[row])
        count = np.bincount(row, minlength=len(a))
        total = np.bincount(row, area, minlength=len(a))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _share_below(scores: np.ndarray, own: np.ndarray, compared: np.ndarray) -> np.ndarray:
    """Share of the compared scores ``(b, k)`` below ``own (b, 1)``, equal ones by half; NaN without any."""
    n = compared.sum(1)
    below = ((scores < own) & compared).sum(1) + 0.5 * ((scores == own) & compared).sum(1)
    return np.where(n > 0, below / np.maximum(n, 1), np.nan)

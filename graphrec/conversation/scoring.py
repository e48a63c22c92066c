"""Validation of the scorer: does it rank the target above other items, given the accepted attributes?"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphrec.conversation.prefixes import (
    MAX_CELLS,
    item_attribute_matrix,
    item_attribute_pairs,
    items_with_all,
    sample_distinct,
    simulate_prefixes,
)
from graphrec.conversation.vectors import DialogueVectors
from graphrec.core.errors import DataError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset

N_CANDIDATES = 300
N_PAIRS = 20_000


class ScoringTask:
    """Areas under the ROC curve in simulated conversations; the validation task of a Trainer.

    Each pair of user and item gets one prefix (see :mod:`graphrec.conversation.prefixes`), the same in every
    epoch and for every model. With ``a = u + sum of the accepted attributes``, ``a.v`` scores items and
    ``a.q`` attributes:

    - ``auc/items``: share of the other items with all accepted attributes that score below the item;
    - ``auc/attributes``: share of the attributes that the item does not have that score below those it has
      and the user has not accepted yet;
    - ``auc``: the mean of both.

    Equal scores count half. Both are means over the pairs that have something to compare; if no pair has, as
    when every item has one attribute, the metric is left out.
    Candidates may be train items of the user, as in a conversation.

    Args:
        data: the dataset; only its validation split is used.
        seed: of prefixes and candidates.
        pairs: maximum number of pairs, drawn once from the split.
        candidates: maximum number of other items per pair, drawn once.

    Raises:
        DataError: no validation pairs, or no attributes.
    """

    def __init__(
        self, data: Dataset, *, seed: int = 0, pairs: int = N_PAIRS, candidates: int = N_CANDIDATES
    ) -> None:
        edges, n_attributes = item_attribute_pairs(data)
        if not len(data.valid):
            raise DataError(
                f"{data.name}: the valid split is empty, so there is nothing to validate on; train without "
                "validation (--select none), or move some train interactions to the valid part"
            )
        if not edges.shape[1]:
            raise DataError(
                f"{data.name}: no item has an attribute, so there is nothing to talk about; name the columns "
                "of the items file that hold attributes (--set data.attributes=genre,color; a saved dataset "
                "is converted again: graphrec data convert table ... --set attributes=genre,color), or train "
                "without conversations: --select recall@20"
            )
        chosen = np.arange(len(data.valid))
        if len(chosen) > pairs:
            chosen = np.sort(numpy_rng(seed, "scoring/pairs").choice(chosen, pairs, replace=False))
        self.users = data.valid.users[chosen].astype(np.int64)
        self.items = data.valid.items[chosen].astype(np.int64)
        self.has = item_attribute_matrix(edges, data.n_items, n_attributes)
        rng = numpy_rng(seed, "scoring/prefixes")
        prefixes = simulate_prefixes(edges, data.n_items, n_attributes, rng)
        rows = prefixes.draw(self.items, numpy_rng(seed, "scoring/prefix"))
        self.prefix_offsets, prefix_attributes = prefixes.prefix_attributes(rows)
        self.prefix_attributes = prefix_attributes.astype(np.int64)
        self.candidates = self._draw_candidates(candidates, seed)
        degree = np.diff(self.has.indptr)[self.items]
        has_unaccepted = (degree > np.diff(self.prefix_offsets)) & (degree < n_attributes)
        if not (has_unaccepted.any() or (self.candidates >= 0).any()):
            raise DataError(
                f"{data.name}: no two items of the valid split share an attribute or have two, so there is "
                "nothing to compare; validate by ranking"
            )

    def _draw_candidates(self, k: int, seed: int) -> np.ndarray:
        """Other items with all accepted attributes, padded with -1 ``(n, k) int64``."""
        rng = numpy_rng(seed, "scoring/candidates")
        candidates = np.full((len(self.users), k), -1, dtype=np.int64)
        step = max(1, MAX_CELLS // self.has.shape[0])
        for start in range(0, len(candidates), step):
            stop = min(start + step, len(candidates))
            rows = np.arange(start, stop)
            rows = rows[np.diff(self.prefix_offsets)[rows] > 0]  # an empty prefix selects no candidates
            offsets = np.concatenate([[0], np.cumsum(np.diff(self.prefix_offsets)[rows])])
            accepted = self.prefix_attributes[self.prefix_offsets[start] : self.prefix_offsets[stop]]
            matches = items_with_all(offsets, accepted, self.has)
            drawn = sample_distinct(np.diff(matches.indptr) - 1, k, rng)
            row = np.repeat(np.arange(len(rows)), np.diff(matches.indptr))
            keys = row * matches.shape[1] + matches.indices
            item_position = np.searchsorted(keys, np.arange(len(rows)) * matches.shape[1] + self.items[rows])
            position = matches.indptr[:-1, None] + drawn
            position += position >= item_position[:, None]
            chosen = matches.indices[np.where(drawn >= 0, position, 0)]
            candidates[rows] = np.where(drawn >= 0, chosen, -1)
        return candidates

    def __call__(self, model: Any) -> dict[str, float]:
        """The three areas of a model whose ``vectors()`` are for conversations."""
        vectors: DialogueVectors = model.vectors()
        item_areas = []
        attribute_areas = []
        width = max(self.candidates.shape[1] * vectors.items.shape[1], 4 * self.has.shape[1])
        step = max(1, MAX_CELLS // width)
        for start in range(0, len(self.users), step):
            rows = slice(start, min(start + step, len(self.users)))
            a = vectors.users[self.users[rows]].copy()  # (b, d)
            accepted = self.prefix_attributes[
                self.prefix_offsets[rows.start] : self.prefix_offsets[rows.stop]
            ]
            sample = np.repeat(np.arange(len(a)), np.diff(self.prefix_offsets)[rows])
            np.add.at(a, sample, vectors.attributes[accepted])
            item_areas.append(self._item_areas(rows, a, vectors.items))
            attribute_areas.append(self._attribute_areas(rows, a, vectors.attributes, sample, accepted))
        areas = {
            "auc/items": np.concatenate(item_areas),
            "auc/attributes": np.concatenate(attribute_areas),
        }
        means = {k: float(np.nanmean(v)) for k, v in areas.items() if not np.isnan(v).all()}
        return {"auc": sum(means.values()) / len(means), **means}

    def _item_areas(self, rows: slice, a: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Share of the candidates that score below the pair's item ``(b,)``, NaN without candidates."""
        candidates = self.candidates[rows]
        # One product for the item and its candidates: equal vectors then have equal scores, bit for bit.
        compared = vectors[np.column_stack([self.items[rows], np.maximum(candidates, 0)])]  # (b, 1 + k, d)
        scores = (compared @ a[:, :, None])[:, :, 0]
        return _share_below(scores[:, 1:], scores[:, :1], candidates >= 0)

    def _attribute_areas(
        self, rows: slice, a: np.ndarray, vectors: np.ndarray, sample: np.ndarray, accepted: np.ndarray
    ) -> np.ndarray:
        """Share of the attributes the item does not have that score below those not yet accepted ``(b,)``,
        NaN without any.
        """
        scores = a @ vectors.T  # (b, n_attributes)
        has = self.has[self.items[rows]].toarray() > 0
        not_accepted = has.copy()
        not_accepted[sample, accepted] = False
        row, attribute = np.nonzero(not_accepted)
        area = _share_below(scores[row], scores[row, attribute][:, None], ~has[row])
        count = np.bincount(row, minlength=len(a))
        total = np.bincount(row, area, minlength=len(a))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _share_below(scores: np.ndarray, reference: np.ndarray, compared: np.ndarray) -> np.ndarray:
    """Share of the compared scores ``(b, k)`` below ``reference (b, 1)``, equal ones by half; NaN without
    any.
    """
    n = compared.sum(1)
    below = ((scores < reference) & compared).sum(1) + 0.5 * ((scores == reference) & compared).sum(1)
    return np.where(n > 0, below / np.maximum(n, 1), np.nan)

"""Ranking metrics and their statistics, as pure functions; conventions stand where the literature disagrees.

The accuracy metrics take ``hits (n, K) bool`` (is the item at this rank of this list relevant; False past the
end), ``n_relevant (n,)`` and a cut-off ``k <= K``, and give one float64 a user. The other metrics take
``lists (n, k) int``, padded with -1, as :func:`top_k` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.random import numpy_rng

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 64 << 20  # bounds what intra_list_diversity holds at once


def top_k(scores: torch.Tensor, k: int, users: np.ndarray | None = None) -> torch.Tensor:
    """The ``k`` best items of every row, best first, ties by lowest item id: ``(B, k) int64``.

    Items scored -inf are never returned; -1 pads what is missing.

    Args:
        scores: ``(B, n)``.
        k: length of the lists, at least 1; it may exceed ``n``.
        users: what to call the rows in messages ``(B,)``.

    Raises:
        DataError: a score is NaN.
    """
    import torch

    from graphrec.core.topk import topk

    n = scores.shape[1]
    result = torch.full((len(scores), k), -1, dtype=torch.int64, device=scores.device)
    if not n or not len(scores):
        return result
    values, ids = topk(scores, min(k, n))
    invalid = values[:, 0].isnan()  # NaN sorts above everything
    if invalid.any():
        row = int(invalid.nonzero()[0])
        who = row if users is None else int(users[row])
        raise DataError(
            f"the model scores user {who} with NaN; expected finite scores: did training diverge?"
        )
    result[:, : ids.shape[1]] = ids.masked_fill(values == -torch.inf, -1)
    return result


def recall(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Share of the user's relevant items that the first ``k`` hold: hits / n_relevant.

    The denominator is not cut at ``k``, so a user with more than ``k`` relevant items cannot reach 1.
    """
    return np.asarray(_top(hits, n_relevant, k).sum(1) / n_relevant)


def precision(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Share of the ``k`` places that hold a relevant item: hits / k, however short the list is."""
    return np.asarray(_top(hits, n_relevant, k).sum(1) / k)


def ndcg(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Discounted cumulative gain over the best possible one: gain 1, discount 1 / log2(1 + rank from 1).

    The ideal list holds ``min(k, n_relevant)`` relevant items, so 1 is always within reach.
    Source: Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    gain = (_top(hits, n_relevant, k) * discount).sum(1)
    return np.asarray(gain / np.cumsum(discount)[np.minimum(n_relevant, k) - 1])


def ndcg_retrieved(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """NDCG against the best order of what was found among all ``K``, not of what there is to find; 0 where
    nothing was found. It is larger than NDCG for whoever has relevant items that were not found.

    That is how some code computes NDCG, such as LLMRec's and MMSSL's with lists of 50 (``K`` is the largest
    cut-off asked for); for comparison with numbers printed by it, https://github.com/HKUDS/LLMRec.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    gain = (_top(hits, n_relevant, k) * discount).sum(1)
    found = np.minimum(hits.sum(1), k)
    return np.asarray(np.where(found > 0, gain / np.cumsum(discount)[np.maximum(found, 1) - 1], 0.0))


def average_precision(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Precision at each hit, summed, over ``min(k, n_relevant)``: ``"map"``, 1 for a perfect list."""
    return np.asarray(_precision_at_hits(hits, n_relevant, k) / np.minimum(n_relevant, k))


def average_precision_all(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Precision at each hit, summed, over ``n_relevant``: ``"map_all"``, which is trec_eval's ``map_cut``."""
    return np.asarray(_precision_at_hits(hits, n_relevant, k) / n_relevant)


def reciprocal_rank(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """1 / rank of the first relevant item within ``k``, and 0 where there is none."""
    top = _top(hits, n_relevant, k)
    return np.asarray(np.where(top.any(1), 1 / (top.argmax(1) + 1.0), 0.0))


def hit(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """1 where the first ``k`` hold at least one relevant item, otherwise 0."""
    return np.asarray(_top(hits, n_relevant, k).any(1), dtype=np.float64)


ACCURACY: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "recall": recall,
    "ndcg": ndcg,
    "ndcg_retrieved": ndcg_retrieved,
    "precision": precision,
    "map": average_precision,
    "map_all": average_precision_all,
    "mrr": reciprocal_rank,
    "hit": hit,
}
"""Accuracy metrics by name; all lie in 0..1 and higher is better."""


def parse_metric(name: str) -> tuple[str, int]:
    """``"recall@20"`` -> ``("recall", 20)``.

    Raises:
        ConfigError: no such metric, or no cut-off of at least 1; names the closest metric.
    """
    base, _, cut = str(name).partition("@")
    if base not in ACCURACY:
        raise ConfigError(f"metric {name!r} is not one of {list(ACCURACY)}.{nearest(base, ACCURACY)}")
    if not (cut.isascii() and cut.isdigit() and int(cut) >= 1 and str(int(cut)) == cut):
        raise ConfigError(
            f"metric {name!r} has no cut-off; expected a whole number from 1, as in '{base}@20'"
        )
    return base, int(cut)


def metric_names(metrics: Iterable[str], k: int | Sequence[int]) -> tuple[str, ...]:
    """Full names, without repeats: ``"recall"`` stands for one at every ``k``, ``"recall@5"`` for itself.

    Args:
        metrics: names with or without a cut-off.
        k: one cut-off or several, each at least 1.

    Raises:
        ConfigError: an unknown metric, a cut-off that is not a whole number from 1, or nothing to compute.
    """
    cuts = sorted({int(c) for c in _cuts(k)})
    if isinstance(metrics, str):
        metrics = (metrics,)
    full = [n for m in metrics for n in ([m] if "@" in m else [f"{m}@{c}" for c in cuts])]
    for name in full:
        parse_metric(name)
    if not full:
        raise ConfigError(f"metrics {metrics!r} with k={k!r} name nothing; expected some of {list(ACCURACY)}")
    return tuple(dict.fromkeys(full))


def accuracy(hits: np.ndarray, n_relevant: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Several metrics at once: full name -> ``(n,) float64``, in blocks of users so that memory stays small.

    Args:
        hits: ``(n, K) bool``.
        n_relevant: ``(n,)``, each at least 1.
        names: such as ``"recall@20"``; no cut-off above ``K``.
    """
    wanted = {name: parse_metric(name) for name in names}
    blocks = [slice(b, b + 65_536) for b in range(0, len(hits), 65_536)] or [slice(0, 0)]
    return {
        name: np.concatenate([ACCURACY[base](hits[b], n_relevant[b], cut) for b in blocks])
        for name, (base, cut) in wanted.items()
    }


def exposure(lists: np.ndarray, n_items: int) -> np.ndarray:
    """How many lists hold each item, ``(n_items,) int64``."""
    return np.bincount(lists[lists >= 0], minlength=n_items)


def coverage(counts: np.ndarray) -> float:
    """Share of the items in at least one list.

    Args:
        counts: exposure of the items that could have been recommended ``(n,)``.
    """
    return float(np.mean(counts > 0)) if len(counts) else float("nan")


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of exposure: 0 when all items are shown alike, (n - 1) / n when only one is.

    Args:
        counts: exposure of the items that could have been recommended ``(n,)``; NaN when nothing was.
    """
    ordered, n = np.sort(np.asarray(counts, dtype=np.float64)), len(counts)
    if not n or not ordered[-1]:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def novelty(lists: np.ndarray, degree: np.ndarray, n_users: int) -> np.ndarray:
    """Mean of -log2 p(item) over each list ``(n,)``, in bits; p is the share of users with the item in train.

    An item that nobody has counts as if one user had it, which bounds the value by log2(n_users). NaN for an
    empty list. Source: Vargas and Castells 2011, https://doi.org/10.1145/2043932.2043955.

    Args:
        lists: ``(n, k)``, -1 pads.
        degree: train interactions per item ``(n_items,)``.
        n_users: users in train.
    """
    return _list_mean(-np.log2(np.maximum(degree, 1) / n_users), lists)


def popularity(lists: np.ndarray, degree: np.ndarray) -> np.ndarray:
    """Mean train interactions of the items of each list ``(n,)``; NaN for an empty list.

    Args:
        lists: ``(n, k)``, -1 pads.
        degree: train interactions per item ``(n_items,)``.
    """
    return _list_mean(np.asarray(degree, dtype=np.float64), lists)


def popularity_lift(recommended: np.ndarray, history: np.ndarray) -> float:
    """How much more popular the lists are than what their users chose: mean(recommended) / mean(history) - 1.

    Users without a list or without a history are left out (NaN in either). 0: no bias; 1: twice as popular.
    Source: Abdollahpouri et al. 2020, https://doi.org/10.1145/3383313.3418487.

    Args:
        recommended: mean popularity of each user's list ``(n,)``.
        history: mean popularity of each user's train items ``(n,)``.
    """
    both = np.isfinite(recommended) & np.isfinite(history)
    return float(recommended[both].mean() / history[both].mean() - 1) if both.any() else float("nan")


def intra_list_diversity(lists: np.ndarray, vectors: Any, present: np.ndarray | None = None) -> np.ndarray:
    """1 - mean cosine over the pairs of each list ``(n,)``; 0 for a list of look-alikes.

    Items without a vector (absent, zero or not finite) are left out; NaN where fewer than two remain.
    Source: Ziegler et al. 2005, https://doi.org/10.1145/1060745.1060754.

    Args:
        lists: ``(n, k)``, -1 pads.
        vectors: features ``(n_items, d)``, an array or a memmap.
        present: which items have one ``(n_items,) bool``; default: all.
    """
    result = np.full(len(lists), np.nan)
    step = max(1, CHUNK_BYTES // (8 * max(1, lists.shape[1]) * max(1, vectors.shape[1])))
    for start in range(0, len(lists), step):
        part = lists[start : start + step]
        unit = np.asarray(vectors[np.maximum(part, 0)], dtype=np.float64)  # (b, k, d)
        length = np.linalg.norm(unit, axis=2)
        used = (part >= 0) & np.isfinite(length) & (length > 0)
        if present is not None:
            used &= np.asarray(present)[np.maximum(part, 0)]
        unit = np.where(used[..., None], unit / np.where(used, length, 1)[..., None], 0)
        m = used.sum(1)
        pairs = np.where(m > 1, m * (m - 1.0), np.nan)
        # |sum of unit vectors|^2 = m + sum over ordered pairs of their cosines: no (k, k) matrix is needed
        result[start : start + step] = 1 - ((unit.sum(1) ** 2).sum(1) - m) / pairs
    return result


def bootstrap_means(values: np.ndarray, n: int = 2000, seed: int = 0) -> np.ndarray:
    """Means of ``n`` resamples with replacement ``(n,)``.

    Args:
        values: one value a user ``(n_users,)``, at least one.
        n: resamples.
        seed: of the resampling.
    """
    size = len(values)
    if not size:
        raise DataError("no users to resample; expected at least one evaluated user")
    rng = numpy_rng(seed, "report/bootstrap")
    distinct, counts = np.unique(values, return_counts=True)
    # Drawing how often each value occurs has the same distribution and is far quicker for few values.
    few = len(distinct) * 16 <= size
    step = max(1, CHUNK_BYTES // 16 // (len(distinct) if few else size))
    parts = []
    for start in range(0, n, step):
        draws = min(step, n - start)
        if few:
            parts.append(rng.multinomial(size, counts / size, size=draws) @ distinct / size)
        else:
            parts.append(values[rng.integers(0, size, (draws, size))].mean(1))
    return np.concatenate(parts)


def permutation_p(difference: np.ndarray, seed: int = 0, n: int = 10_000) -> float:
    """Two-sided p of a mean difference of 0 under random signs; (1 + as extreme) / (1 + n), so never 0."""
    size = np.abs(difference[difference != 0])  # a zero does not move with its sign
    if not len(size):
        return 1.0
    rng = numpy_rng(seed, "report/permutation")
    limit = abs(difference.sum()) - 1e-12 * size.sum()  # sums in another order may differ in the last bit
    width, extreme, step = -(-len(size) // 8), 0, max(1, CHUNK_BYTES // 16 // len(size))
    for start in range(0, n, step):
        raw = rng.integers(0, 256, (min(step, n - start), width), dtype=np.uint8)
        signs = np.unpackbits(raw, axis=1, count=len(size)).astype(np.float64)
        extreme += int(np.count_nonzero(np.abs(2 * (signs @ size) - size.sum()) >= limit))
    return (1 + extreme) / (1 + n)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction for several tests ``(n,)``, in the order given.

    Source: Holm 1979, https://www.jstor.org/stable/4615733.

    Raises:
        DataError: a value outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise DataError(f"p-values {p.tolist()}; expected numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    result = np.empty_like(p)
    result[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return result


def _top(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    if hits.ndim != 2 or n_relevant.shape != hits.shape[:1]:
        raise DataError(f"hits {hits.shape} with n_relevant {n_relevant.shape}; expected (n, K) and (n,)")
    if not 1 <= k <= hits.shape[1]:
        raise DataError(f"cut-off {k} on lists of {hits.shape[1]}; expected 1 <= k <= {hits.shape[1]}")
    if len(n_relevant) and n_relevant.min() < 1:
        row = int(n_relevant.argmin())
        raise DataError(f"user at row {row} has {n_relevant[row]} relevant items; leave out users with none")
    return hits[:, :k]


def _precision_at_hits(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    top = _top(hits, n_relevant, k)
    return np.asarray((top * top.cumsum(1) / np.arange(1, k + 1)).sum(1))


def _list_mean(values: np.ndarray, lists: np.ndarray) -> np.ndarray:
    used = lists >= 0
    total = np.where(used, values[np.maximum(lists, 0)], 0).sum(1)
    return np.asarray(np.where(used.any(1), total / np.maximum(used.sum(1), 1), np.nan))


def _cuts(k: int | Sequence[int]) -> list[int]:
    values = list(k) if isinstance(k, Iterable) else [k]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ConfigError(f"k={k!r} holds {value!r}; expected whole numbers from 1, such as (10, 20)")
    return values

"""Ranking metrics in one registry, and the statistics of their values.

A metric is a function under :func:`metric`, which registers it with its name, its meaning and its direction.
Evaluation, reports, comparisons and pages read :data:`METRICS`, so a new metric is that function alone::

    @metric("first_half", "the share of hits in the upper half of the list")
    def first_half(hits, n_relevant, k): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.random import numpy_rng

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 64 << 20
"""Bytes that diversity, resampling and permutations hold at once."""
USER_BLOCK = 65_536
"""Users whose metrics are computed at once."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: as in ``"recall@20"``, without the cut-off.
        meaning: what it measures, as a phrase; ``k`` is the cut-off.
        function: for ``per="user"`` a function of ``hits (n, K) bool`` (whether the item at this rank of this
            list is relevant; False past the end), ``n_relevant (n,)`` and a cut-off ``k <= K`` that returns
            ``(n,) float64``; for ``per="lists"`` a function of :class:`RecommendedLists` that returns a
            number, or one by feature name.
        per: ``"user"``: one value a user; ``"lists"``: one value for the lists of all users together.
        higher_is_better: None where neither direction is better by itself.
        default: whether it is computed where no metric is named.
    """

    name: str
    meaning: str
    function: Callable[..., Any]
    per: Literal["user", "lists"] = "user"
    higher_is_better: bool | None = True
    default: bool = True

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")


METRICS: dict[str, Metric] = {}
"""Registered metrics by name."""


def metric(
    name: str,
    meaning: str,
    *,
    per: Literal["user", "lists"] = "user",
    higher_is_better: bool | None = True,
    default: bool = True,
) -> Callable[[Function], Function]:
    """Decorator that registers a function as a metric; the arguments are those of :class:`Metric`.

    A function that is defined again, as by a notebook's cell, replaces the former one.

    Raises:
        ConfigError: another function has the name, or it holds ``@`` or ``/``, which separate cut-off and
            feature.
    """

    def register(function: Function) -> Function:
        former = METRICS[name].function if name in METRICS else function
        same = (former.__module__, former.__qualname__) == (function.__module__, function.__qualname__)
        if not same or not name or set(name) & set("@/"):
            raise ConfigError(
                f"metric name {name!r}; expected one without @ and /, and none of {list(METRICS)}"
            )
        METRICS[name] = Metric(name, meaning, function, per, higher_is_better, default)
        return function

    return register


def find_metric(name: str) -> Metric | None:
    """The metric of a full name such as ``"recall@20"`` or ``"diversity/image@10"``; None if unknown."""
    return METRICS.get(name.partition("@")[0].partition("/")[0])


def direction(name: str) -> int:
    """Factor under which higher values of a full name are better: -1 where lower ones are, otherwise 1."""
    known = find_metric(name)
    return -1 if known is not None and known.higher_is_better is False else 1


def user_metrics() -> list[str]:
    """Names of the metrics with one value a user."""
    return [m.name for m in METRICS.values() if m.per == "user"]


def default_metrics() -> list[str]:
    """Names of the metrics with one value a user that are computed where none is named."""
    return [name for name in user_metrics() if METRICS[name].default]


@dataclass(frozen=True)
class RecommendedLists:
    """What metrics of all lists together are computed from.

    Attributes:
        items: recommended items of each evaluated user ``(n, k) int``, best first, padded with -1.
        candidates: which items could have been recommended ``(n_items,) bool``.
        item_degree: training interactions of each item ``(n_items,)``.
        n_users: users in training.
        history: mean ``item_degree`` of each evaluated user's training items ``(n,)``; NaN without any.
        features: name -> item vectors ``(n_items, d)``, as an array or a feature table (anything with
            ``values`` and ``present``).
    """

    items: np.ndarray
    candidates: np.ndarray
    item_degree: np.ndarray
    n_users: int
    history: np.ndarray
    features: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def exposure(self) -> np.ndarray:
        """How many lists hold each candidate ``(n_candidates,) int64``."""
        counts = np.bincount(self.items[self.items >= 0], minlength=len(self.candidates))
        return np.asarray(counts[self.candidates])

    @cached_property
    def popularity(self) -> np.ndarray:
        """Mean ``item_degree`` of each list ``(n,)``; NaN for an empty list."""
        return self.mean(np.asarray(self.item_degree, dtype=np.float64))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over each list of a value of each item: ``(n_items,)`` -> ``(n,)``; NaN for an empty list."""
        used = self.items >= 0
        total = np.where(used, values[np.maximum(self.items, 0)], 0).sum(1)
        return np.asarray(np.where(used.any(1), total / np.maximum(used.sum(1), 1), np.nan))


def top_k(scores: torch.Tensor, k: int, users: np.ndarray | None = None) -> torch.Tensor:
    """The ``k`` best items of every row, best first, ties by lowest item id: ``(B, k) int64``.

    Items scored -inf are never returned; shorter lists are padded with -1.

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
        user = row if users is None else int(users[row])
        raise DataError(
            f"the model scores user {user} with NaN; expected finite scores: did training diverge?"
        )
    result[:, : ids.shape[1]] = ids.masked_fill(values == -torch.inf, -1)
    return result


@metric("recall", "the share of a user's held-out items that are among the first k of the list")
def recall(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Share of the user's relevant items that the first ``k`` hold: hits / n_relevant.

    The denominator is not cut at ``k``, so a user with more than ``k`` relevant items cannot reach 1.
    """
    return np.asarray(_top(hits, n_relevant, k).sum(1) / n_relevant)


@metric("precision", "the share of the first k places that hold a held-out item")
def precision(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Share of the ``k`` places that hold a relevant item: hits / k, however short the list is."""
    return np.asarray(_top(hits, n_relevant, k).sum(1) / k)


@metric("ndcg", "the share of held-out items found, with more credit for a place nearer to the top")
def ndcg(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Discounted cumulative gain over the best possible one: gain 1, discount 1 / log2(1 + rank from 1).

    The ideal list holds ``min(k, n_relevant)`` relevant items, so 1 is always within reach.
    Source: Järvelin and Kekäläinen 2002, https://doi.org/10.1145/582415.582418.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    gain = (_top(hits, n_relevant, k) * discount).sum(1)
    return np.asarray(gain / np.cumsum(discount)[np.minimum(n_relevant, k) - 1])


@metric("ndcg_retrieved", "NDCG against the best order of the items that were found", default=False)
def ndcg_retrieved(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """NDCG whose ideal list holds the relevant items found among all ``K``, not all there are; 0 where none
    was found. It exceeds NDCG for users with relevant items that were not found.

    Some published code computes NDCG so, such as that of LLMRec and MMSSL with lists of 50 (``K`` is the
    largest cut-off computed); use it only to compare with their numbers, https://github.com/HKUDS/LLMRec.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    gain = (_top(hits, n_relevant, k) * discount).sum(1)
    n_found = np.minimum(hits.sum(1), k)
    return np.asarray(np.where(n_found > 0, gain / np.cumsum(discount)[np.maximum(n_found, 1) - 1], 0.0))


@metric("map", "precision at each found item, averaged: finding early counts more")
def average_precision(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Precision at each hit, summed, over ``min(k, n_relevant)``; 1 for a perfect list."""
    return np.asarray(_precision_at_hits(hits, n_relevant, k) / np.minimum(n_relevant, k))


@metric("map_all", "the sum of precision at each found item over the number of held-out items")
def average_precision_all(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """Precision at each hit, summed, over ``n_relevant``: what trec_eval calls ``map_cut``."""
    return np.asarray(_precision_at_hits(hits, n_relevant, k) / n_relevant)


@metric("mrr", "1 / the place of the first held-out item")
def reciprocal_rank(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """1 / rank of the first relevant item within ``k``, and 0 where there is none."""
    top = _top(hits, n_relevant, k)
    return np.asarray(np.where(top.any(1), 1 / (top.argmax(1) + 1.0), 0.0))


@metric("hit", "whether there is a held-out item among the first k at all")
def hit(hits: np.ndarray, n_relevant: np.ndarray, k: int) -> np.ndarray:
    """1 where the first ``k`` hold at least one relevant item, otherwise 0."""
    return np.asarray(_top(hits, n_relevant, k).any(1), dtype=np.float64)


def parse_metric(name: str) -> tuple[str, int]:
    """Name and cut-off of a metric with one value a user: ``"recall@20"`` -> ``("recall", 20)``.

    Raises:
        ConfigError: no such metric, one of all lists together, or no cut-off of at least 1.
    """
    base, _, cut = str(name).partition("@")
    if base not in METRICS or METRICS[base].per != "user":
        known = user_metrics()
        kind = (
            "is one value for all lists, which beyond=Beyond(train) adds" if base in METRICS else "is unknown"
        )
        raise ConfigError(f"metric {name!r} {kind}; expected one of {known}.{nearest(base, known)}")
    if not (cut.isascii() and cut.isdigit() and int(cut) >= 1 and str(int(cut)) == cut):
        raise ConfigError(
            f"metric {name!r} has no cut-off; expected a whole number from 1, as in '{base}@20'"
        )
    return base, int(cut)


def metric_names(metrics: Iterable[str], k: int | Sequence[int]) -> tuple[str, ...]:
    """Full names, without repeats: ``"recall"`` becomes one name for every ``k``, ``"recall@5"`` stays.

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
        raise ConfigError(f"metrics {metrics!r} with k={k!r} name nothing; expected some of {user_metrics()}")
    return tuple(dict.fromkeys(full))


def accuracy(hits: np.ndarray, n_relevant: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Several metrics at once: full name -> ``(n,) float64``, in blocks of users so that memory stays small.

    Args:
        hits: ``(n, K) bool``.
        n_relevant: ``(n,)``, each at least 1.
        names: such as ``"recall@20"``; no cut-off above ``K``.
    """
    parsed = {name: parse_metric(name) for name in names}
    blocks = [slice(b, b + USER_BLOCK) for b in range(0, len(hits), USER_BLOCK)] or [slice(0, 0)]
    return {
        name: np.concatenate([METRICS[base].function(hits[b], n_relevant[b], cut) for b in blocks])
        for name, (base, cut) in parsed.items()
    }


def beyond_accuracy(lists: RecommendedLists, k: int) -> dict[str, float]:
    """Every metric of all lists together: full name, such as ``"gini@20"`` -> value; NaN where undefined."""
    result: dict[str, float] = {}
    for m in METRICS.values():
        if m.per == "lists":
            value = m.function(lists)
            by_feature = {f"/{f}": v for f, v in value.items()} if isinstance(value, Mapping) else {"": value}
            result |= {f"{m.name}{suffix}@{k}": float(v) for suffix, v in by_feature.items()}
    return result


@metric("coverage", "the share of the items that are recommended to anybody", per="lists")
def coverage(lists: RecommendedLists) -> float:
    """Share of the candidates in at least one list; NaN without candidates."""
    return float(np.mean(lists.exposure > 0)) if len(lists.exposure) else float("nan")


@metric(
    "gini",
    "how unevenly items are shown: 0 all alike, near 1 only a few",
    per="lists",
    higher_is_better=False,
)
def gini(lists: RecommendedLists) -> float:
    """Gini coefficient of exposure over the candidates: 0 when all are shown alike, (n - 1) / n when only one
    is; NaN when none is.
    """
    ordered = np.sort(lists.exposure.astype(np.float64))
    n = len(ordered)
    if not n or not ordered[-1]:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


@metric("novelty", "how rarely users have the recommended items, in bits", per="lists")
def novelty(lists: RecommendedLists) -> float:
    """Mean over users of the mean of -log2 p(item) over each list; p is the share of users with the item in
    training.

    An item that nobody has counts as if one user had it, which bounds the value by log2(n_users). Empty lists
    are left out. Source: Vargas and Castells 2011, https://doi.org/10.1145/2043932.2043955.
    """
    return _mean_of_defined(lists.mean(-np.log2(np.maximum(lists.item_degree, 1) / lists.n_users)))


@metric(
    "popularity",
    "the mean number of training interactions of the recommended items",
    per="lists",
    higher_is_better=None,
)
def popularity(lists: RecommendedLists) -> float:
    """Mean over users of the mean training interactions of each list's items, without empty lists."""
    return _mean_of_defined(lists.popularity)


@metric(
    "popularity_lift",
    "the mean popularity of the lists over that of the users' histories, minus 1",
    per="lists",
    higher_is_better=None,
)
def popularity_lift(lists: RecommendedLists) -> float:
    """How much more popular the lists are than their users' histories: mean(lists) / mean(histories) - 1.

    Users without a list or without a history are left out. 0: no bias; 1: twice as popular.
    Source: Abdollahpouri et al. 2020, https://doi.org/10.1145/3383313.3418487.
    """
    both = np.isfinite(lists.popularity) & np.isfinite(lists.history)
    if not both.any():
        return float("nan")
    return float(lists.popularity[both].mean() / lists.history[both].mean() - 1)


@metric(
    "diversity", "how different the items of a list are: 1 - the mean cosine of their features", per="lists"
)
def diversity(lists: RecommendedLists) -> dict[str, float]:
    """Mean :func:`intra_list_diversity` for each feature."""
    result = {}
    for name, table in lists.features.items():
        values = getattr(table, "values", table)
        if values.ndim != 2 or len(values) != len(lists.candidates):
            raise DataError(
                f"feature {name!r} for diversity has shape {values.shape}; expected "
                f"({len(lists.candidates)}, d)"
            )
        diversities = intra_list_diversity(lists.items, values, getattr(table, "present", None))
        result[name] = _mean_of_defined(diversities)
    return result


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
    few_values = len(distinct) * 16 <= size
    step = max(1, CHUNK_BYTES // 16 // (len(distinct) if few_values else size))
    parts = []
    for start in range(0, n, step):
        draws = min(step, n - start)
        if few_values:
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


def _mean_of_defined(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def _cuts(k: int | Sequence[int]) -> list[int]:
    values = list(k) if isinstance(k, Iterable) else [k]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ConfigError(f"k={k!r} holds {value!r}; expected whole numbers from 1, such as (10, 20)")
    return values

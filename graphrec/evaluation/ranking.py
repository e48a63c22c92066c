"""Full-ranking evaluation: every item a user has not seen is ranked, and the held-out ones are looked up.

Users are scored in fixed tiles of :data:`TILE` users, because a matrix product may round differently with
another number of rows; so results are bit-equal for every ``batch_size``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from graphrec.core.errors import ConfigError, DataError
from graphrec.core.files import digest
from graphrec.core.progress import track
from graphrec.data import Histories, Interactions, Query
from graphrec.evaluation import metrics as m
from graphrec.evaluation.candidates import CandidateGroups
from graphrec.evaluation.report import Report

if TYPE_CHECKING:
    import torch

TILE = 256
"""Users scored in one call of the scorer; the last tile is filled up by repeating its last user."""
READS_HISTORIES = ("encoder", "generator")
"""Capabilities (:mod:`graphrec.models.capabilities`) of models that are evaluated on users' histories."""


class HasScorer(Protocol):
    """What can be evaluated.

    A ranker whose ``capability`` is ``"encoder"`` is given a :class:`~graphrec.data.query.Query` with
    histories instead of users. One whose ``capability`` is ``"generator"`` is asked for lists by
    ``generator.generate(query, k, allowed)`` and needs no scorer.
    """

    @property
    def n_users(self) -> int:
        """Number of users."""
        ...

    @property
    def n_items(self) -> int:
        """Number of items."""
        ...

    def scorer(self) -> Callable[[Any], torch.Tensor]:
        """A function from users ``(B,) int64``, on the CPU, to scores ``(B, n_items)`` on any device.

        Whatever does not depend on the users is computed once, in here.
        """
        ...


@dataclass(frozen=True)
class Beyond:
    """What metrics of all lists together (see :data:`graphrec.evaluation.metrics.METRICS`) are computed from.

    Attributes:
        train: interactions that popularity, novelty and users' histories are counted in.
        features: name -> item vectors ``(n_items, d)`` for diversity, as an array or a feature table
            (anything with ``values`` and ``present``).
    """

    train: Interactions
    features: Mapping[str, Any] = field(default_factory=dict)


def evaluate(
    model: HasScorer,
    split: Interactions,
    *,
    seen: Interactions | None,
    history: Interactions | None = None,
    k: int | Sequence[int] = (10, 20),
    metrics: Iterable[str] | None = None,
    candidates: Any = None,
    candidate_groups: CandidateGroups | None = None,
    item_groups: Mapping[str, np.ndarray] | None = None,
    user_groups: Mapping[str, np.ndarray] | None = None,
    within: bool = False,
    beyond: Beyond | None = None,
    batch_size: int = TILE,
    name: str | None = None,
    progress: bool = True,
) -> Report:
    """Ranks all items for every user with held-out ones, and measures the ranks of the held-out items.

    Args:
        model: a model with a ``scorer``; put into evaluation mode meanwhile where it has one.
        split: held-out pairs. Users without any are left out and counted in ``meta["n_excluded"]``.
        seen: pairs never to recommend, usually ``data.train + data.valid`` when testing; None masks nothing.
        history: what users are known to have by now, for models that encode histories; default: ``seen``.
            Models that look users up do not read it.
        k: cut-offs.
        metrics: names of metrics with one value a user, with or without a cut-off of their own (see
            :data:`graphrec.evaluation.metrics.METRICS`); default: those marked as default there.
        candidates: indices of the items that may be recommended; default: all. Held-out pairs with
            other items are left out and counted in ``meta["n_outside"]``.
        candidate_groups: candidates that differ between users, of those in ``candidates``.
        item_groups: name -> ``(n_items,) bool``. Reported as ``groups["items/<name>"]``: only the group's
            items are relevant, users with none are left out, and lists are still drawn from all items.
        user_groups: name -> ``(n_users,) bool``, reported as ``groups["users/<name>"]``.
        within: also rank each item group by itself, as ``groups["items/<name>/within"]``; this shows how
            well a model orders, say, cold items, whether or not they are ranked above warm ones.
        beyond: adds the metrics of all lists together: coverage, Gini, novelty, popularity and diversity.
        batch_size: number of users scored at once, rounded up to whole tiles; it affects memory only.
        name: the model's name in the report; default: its class.
        progress: show a bar in a terminal when it takes long.

    Raises:
        ConfigError: an unknown metric or cut-off.
        DataError: nothing held out, sizes disagree, ``seen`` or ``history`` holds held-out pairs, a model
            that encodes histories is given none, or a score is NaN.
    """
    names = m.metric_names(m.default_metrics() if metrics is None else metrics, k)
    cuts = sorted({m.parse_metric(n)[1] for n in names})
    reads_histories = getattr(model, "capability", None) in READS_HISTORIES
    history = (seen if history is None else history) if reads_histories else None
    _check_sizes(model, split, seen, beyond.train if beyond else None, history)
    columns = None if candidates is None else _indices(candidates, model.n_items, "candidates")
    allowed = (
        np.ones(model.n_items, dtype=bool) if columns is None else np.isin(np.arange(model.n_items), columns)
    )
    relevant = split if columns is None else split.where(allowed[split.items])
    if candidate_groups is not None:
        candidate_groups.check(model.n_users, model.n_items)
        relevant = relevant.where(candidate_groups.contains(relevant.users, relevant.items))
    if not len(relevant):
        raise DataError(
            f"{split.name}: no held-out pair to evaluate"
            + (f" among {len(split):,} once candidates are applied" if len(split) else "")
            + "; evaluate on a split that holds some"
        )
    for argument, known in (("seen", seen), ("history", history)):
        leaked = 0 if known is None else int(known.contains(split.users, split.items).sum())
        if leaked:
            raise DataError(
                f"{leaked:,} of {len(split):,} pairs of {split.name!r} are also in "
                f"{argument}={known.name!r}; give only what precedes the split"  # type: ignore[union-attr]
            )
    item_masks = {n: _mask(g, model.n_items, f"item group {n!r}") for n, g in (item_groups or {}).items()}
    user_masks = {n: _mask(g, model.n_users, f"user group {n!r}") for n, g in (user_groups or {}).items()}

    users = np.flatnonzero(relevant.user_degree)
    views: dict[str, np.ndarray | None] = {"": columns}
    views |= {f"items/{n}/within": np.flatnonzero(g & allowed) for n, g in item_masks.items() if within}
    lists = _rank(model, users, cuts[-1], seen, views, batch_size, progress, candidate_groups, history)

    def measure(part: Interactions, view: str, label: str, **meta: Any) -> Report:
        rows = part.user_degree[users] > 0
        evaluated = users[rows]
        ranked = lists[view][rows]
        hits = part.contains(evaluated[:, None], ranked) & (ranked >= 0)
        values = m.accuracy(hits, part.user_degree[evaluated], names)
        return Report(evaluated, values, meta={"model": model_name, "group": label, "data": data, **meta})

    parts: list[Any] = [
        split.n_users, split.n_items, split.keys,
        "nothing" if seen is None else seen.keys, "all" if columns is None else columns,
    ]  # fmt: skip
    if candidate_groups is not None:
        parts += [candidate_groups.item_group, candidate_groups.user_groups.keys, candidate_groups.inside]
    data = digest("evaluation", *parts)
    model_name = name or type(model).__name__
    total = measure(relevant, "", "")
    groups: dict[str, Report] = {}
    for group, mask in item_masks.items():
        part = relevant.where(mask[relevant.items])
        for key, view in ((f"items/{group}", ""), (f"items/{group}/within", f"items/{group}/within")):
            if view in lists:
                ranked_among = "the group's items only" if view else "all items"
                groups[key] = measure(part, view, key, ranked_among=ranked_among, n_group=int(mask.sum()))
    for group, mask in user_masks.items():
        groups[f"users/{group}"] = total.where(
            mask[users], group=f"users/{group}", n_group=int(mask.sum()), ranked_among="all items"
        )
    scalars = {} if beyond is None else _beyond(beyond, lists[""], users, cuts, allowed)
    meta = {
        **total.meta,
        "split": split.name,
        "seen": None if seen is None else seen.name,
        **({} if history is None else {"history": history.name}),
        "k": cuts,
        "n_users": len(users),
        "n_excluded": model.n_users - len(users),
        "n_held_out": len(relevant),
        "n_outside": len(split) - len(relevant),
        "n_candidates": int(allowed.sum()),
        "n_items": model.n_items,
        "cold_items": getattr(model, "cold_scores", "as trained"),
    }
    return Report(users, total.metrics, scalars, groups, meta)


class RankingTask:
    """Validation for the trainer: ``task(model)`` gives the mean of each metric.

    Args:
        split: held-out pairs, usually ``data.valid``.
        seen: pairs never to recommend, usually ``data.train``.
        history: see :func:`evaluate`; default: ``seen``.
        k: cut-offs.
        metrics: names with or without a cut-off.
        candidates: indices of the items that may be recommended; default: all.
        candidate_groups: candidates that differ between users.
        batch_size: number of users scored at once.

    Attributes:
        metrics: full names of what it gives, such as ``"recall@20"``.
        higher_is_better: full name -> whether higher values are better.

    Raises:
        ConfigError: an unknown metric or cut-off.
        DataError: ``split`` is empty.
    """

    def __init__(
        self,
        split: Interactions,
        *,
        seen: Interactions | None,
        history: Interactions | None = None,
        k: int | Sequence[int] = (10, 20),
        metrics: Iterable[str] = ("recall", "ndcg"),
        candidates: Any = None,
        candidate_groups: CandidateGroups | None = None,
        batch_size: int = TILE,
    ) -> None:
        self.metrics = m.metric_names(metrics, k)
        self.higher_is_better = {name: m.direction(name) > 0 for name in self.metrics}
        if not len(split):
            raise DataError(
                f"{split.name}: no pair to validate on; train without validation (fit() without a task), or "
                "validate on a split that holds some"
            )
        self._evaluate = partial(
            evaluate, split=split, seen=seen, history=history, k=k, metrics=self.metrics,
            candidates=candidates, candidate_groups=candidate_groups, batch_size=batch_size, progress=False,
        )  # fmt: skip

    def __call__(self, model: HasScorer) -> dict[str, float]:
        """Metric name -> mean over the users with held-out items."""
        return self._evaluate(model).mean()


def ranked(
    model: HasScorer, k: int, seen: Interactions | None = None, history: Interactions | None = None
) -> np.ndarray:
    """The ``k`` best items of every user ``(n_users, k) int32``, best first, -1 where there are fewer.

    Args:
        model: a model with a ``scorer``.
        k: length of the lists.
        seen: interactions that are left out.
        history: see :func:`evaluate`; default: ``seen``.
    """
    history = seen if history is None else history
    lists = _rank(model, np.arange(model.n_users), k, seen, {"": None}, 2 * TILE, False, history=history)
    return lists[""]


def warm_cold(train: Interactions) -> dict[str, np.ndarray]:
    """Item groups ``{"warm": (n_items,) bool, "cold": ...}``: with and without a train interaction."""
    return {"warm": train.item_degree > 0, "cold": train.item_degree == 0}


def activity_groups(
    train: Interactions,
    quantiles: Sequence[float] = (0.25, 0.5, 0.75),
    edges: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """User groups by number of train interactions, named ``"5-9"`` or ``"20+"``; no empty ones.

    Args:
        train: interactions to count.
        quantiles: cuts at these shares of the users, each within 0..1; equal cuts are merged.
        edges: cut at these numbers instead: each is the least of its group.

    Raises:
        ConfigError: a quantile outside 0..1, or an edge below 1.
    """
    if edges is None:
        if not all(0 <= q <= 1 for q in quantiles):
            raise ConfigError(f"quantiles {tuple(quantiles)}; expected numbers from 0 to 1")
        edges = np.quantile(train.user_degree, list(quantiles), method="higher").tolist()
        edges = [e for e in edges if e >= 1]
    if not all(e >= 1 and e == int(e) for e in edges):
        raise ConfigError(f"edges {tuple(edges)}; expected whole numbers from 1")
    cuts = [0, *sorted({int(e) for e in edges})]
    bins = np.digitize(train.user_degree, cuts[1:])
    labels = [f"{a}-{b - 1}" if b - 1 > a else f"{a}" for a, b in pairwise(cuts)]
    labels.append(f"{cuts[-1]}+")
    return {label: bins == i for i, label in enumerate(labels) if (bins == i).any()}


def _rank(
    model: HasScorer,
    users: np.ndarray,
    k: int,
    seen: Interactions | None,
    views: Mapping[str, np.ndarray | None],
    batch_size: int,
    progress: bool,
    candidate_groups: CandidateGroups | None = None,
    history: Interactions | None = None,
) -> dict[str, np.ndarray]:
    """Lists ``(n, k) int32`` per view, a view being the ascending candidates, or None for all items."""
    import torch

    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size}; expected at least 1")
    capability = getattr(model, "capability", None)
    histories: Histories | None = None
    if capability in READS_HISTORIES:
        if history is None:
            raise DataError(
                f"{type(model).__name__} ranks by users' histories and was given none; pass history= or seen="
            )
        histories = Histories.from_interactions(history)
    if capability == "generator":
        return _generate(model, users, k, seen, views, candidate_groups, histories)
    n_items = model.n_items
    batch = -(-batch_size // TILE) * TILE
    lists = {view: np.full((len(users), k), -1, dtype=np.int32) for view in views}
    buffer: torch.Tensor | None = None
    with torch.no_grad(), _evaluation_mode(model):
        score = model.scorer()
        shown = progress and len(users) * n_items > 1e9
        for start in track(range(0, len(users), batch), "evaluating", shown):
            batch_users = users[start : start + batch]
            for first in range(0, len(batch_users), TILE):
                tile = batch_users[first : first + TILE]
                full = np.pad(tile, (0, TILE - len(tile)), mode="edge")
                query = torch.from_numpy(full) if histories is None else Query(full, histories.take(full))
                scores = score(query)
                if scores.shape != (TILE, n_items):
                    shape = tuple(scores.shape)
                    raise DataError(f"the scorer returned {shape}; expected ({TILE}, {n_items})")
                if buffer is None:  # one for all batches: fresh memory would cost more than the product
                    rows = min(batch, -(-len(users) // TILE) * TILE)
                    buffer = torch.empty(rows, n_items, dtype=torch.float32, device=scores.device)
                buffer[first : first + len(tile)].copy_(scores[: len(tile)])
            assert buffer is not None
            part = buffer[: len(batch_users)]
            if seen is not None:
                row, item = seen.items_of_users(batch_users)
                part.view(-1).index_fill_(
                    0, torch.from_numpy(row * n_items + item).to(part.device), -torch.inf
                )
            if candidate_groups is not None:
                excluded = torch.from_numpy(~candidate_groups.mask(batch_users))
                part.masked_fill_(excluded.to(part.device), -torch.inf)
            for view, columns in views.items():
                if columns is None:
                    top = m.top_k(part, k, batch_users)
                else:
                    index = torch.from_numpy(columns).to(part.device)
                    place = m.top_k(part.index_select(1, index), k, batch_users)
                    top = torch.where(place >= 0, index[place], -1) if len(columns) else place
                lists[view][start : start + len(batch_users)] = top.cpu().numpy()
    return lists


def _generate(
    model: Any,
    users: np.ndarray,
    k: int,
    seen: Interactions | None,
    views: Mapping[str, np.ndarray | None],
    candidate_groups: CandidateGroups | None,
    histories: Histories | None,
) -> dict[str, np.ndarray]:
    """As :func:`_rank`, from lists that a model generates within the items each user may be offered."""
    import torch

    assert histories is not None
    lists = {view: np.full((len(users), k), -1, dtype=np.int32) for view in views}
    with torch.no_grad(), _evaluation_mode(model):
        for start in range(0, len(users), TILE):
            tile = users[start : start + TILE]
            query = Query(tile, histories.take(tile))
            candidates = np.ones((len(tile), model.n_items), dtype=bool)
            if seen is not None:
                candidates[seen.items_of_users(tile)] = False
            if candidate_groups is not None:
                candidates &= candidate_groups.mask(tile)
            for view, columns in views.items():
                allowed = candidates
                if columns is not None:
                    allowed = candidates & np.isin(np.arange(model.n_items), columns)
                items = model.generator.generate(query, k, torch.from_numpy(allowed)).items.cpu().numpy()
                if items.shape != (len(tile), k):
                    raise DataError(
                        f"the generator returned lists of shape {items.shape}; expected ({len(tile)}, {k})"
                    )
                wrong = np.argwhere((items >= 0) & ~np.take_along_axis(allowed, np.maximum(items, 0), 1))
                if len(wrong):
                    row, rank = wrong[0]
                    raise DataError(
                        f"the generator recommends item {items[row, rank]} to user {tile[row]}, which is not "
                        "among the items allowed"
                    )
                lists[view][start : start + len(tile)] = items
    return lists


def _beyond(
    beyond: Beyond, lists: np.ndarray, users: np.ndarray, cuts: list[int], allowed: np.ndarray
) -> dict[str, float]:
    train = beyond.train
    degree = train.item_degree
    row, item = train.items_of_users(users)
    total = np.bincount(row, weights=degree[item], minlength=len(users))
    length = train.user_degree[users]
    history = np.where(length > 0, total / np.maximum(length, 1), np.nan)
    result: dict[str, float] = {}
    for k in cuts:
        top = m.RecommendedLists(lists[:, :k], allowed, degree, train.n_users, history, beyond.features)
        result |= m.beyond_accuracy(top, k)
    return result


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode inside; the mode from before is restored afterwards."""
    training = bool(getattr(model, "training", False))
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _check_sizes(model: HasScorer, *parts: Interactions | None) -> None:
    for part in parts:
        if part is not None and (part.n_users, part.n_items) != (model.n_users, model.n_items):
            raise DataError(
                f"{part.name}: counts {part.n_users:,} users x {part.n_items:,} items, the model "
                f"{model.n_users:,} x {model.n_items:,}; evaluate on the dataset the model was built from"
            )


def _indices(values: Any, size: int, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise DataError(
            f"{what}: {array.dtype} of shape {array.shape}; expected indices (n,) (of a mask: np.flatnonzero)"
        )
    array = array.astype(np.int64)
    bad = np.flatnonzero((array < 0) | (array >= size))
    if len(bad):
        raise DataError(f"{what}: {array[bad[0]]} at position {bad[0]}; expected 0 <= index < {size}")
    return np.unique(array)


def _mask(values: Any, size: int, what: str) -> np.ndarray:
    mask = np.asarray(values)
    if mask.dtype != bool or mask.shape != (size,):
        raise DataError(f"{what}: {mask.dtype} of shape {mask.shape}; expected bool ({size},)")
    return mask

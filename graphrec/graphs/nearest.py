"""Nearest rows of a table by inner product, in blocks: exactly, or nearly all of them by clusters.

No matrix of all similarities is ever held: memory is the vectors, scaled to length one, and one block.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphrec.core.random import numpy_rng
from graphrec.core.ray import Cluster
from graphrec.core.topk import topk, update_topk

BLOCK = (1024, 4096)
"""Queries and keys of one product: 16 MiB of similarities, which stay in the processor's cache."""
SQUARE = 2048
"""Rows of a block where each product serves the rows of both sides."""
WIDE = 1024
"""Columns from which a product takes longer than turning its result round."""
SAMPLE = 1000  # items whose true neighbors are looked up to see how many clusters it takes
ROUNDS = 10  # of k-means
TASKS = 64  # of a search on a cluster, at most: enough that workers of different speed end together
WORTHWHILE = 0.3  # share of the clusters above which comparing all pairs, in larger products, takes less time


class Effort(NamedTuple):
    """How hard the approximate search tries: wanted share of the true neighbors, and the clusters' seed."""

    recall: float
    seed: int


def nearest_rows(
    queries: Tensor, keys: Tensor, k: int, block: tuple[int, int] = BLOCK, unit: bool = False
) -> tuple[Tensor, Tensor]:
    """The ``k`` keys most cosine-similar to each query, exactly, in blocks: never ``n_queries x n_keys`` at
    once.

    The size of the blocks can change a similarity in the last bit, as products of another shape are rounded
    otherwise, and with it the order of keys whose similarities differ by no more than that.

    Args:
        queries: ``(Q, d)`` float, rows not zero.
        keys: ``(N, d)`` float, rows not zero.
        k: how many; fewer keys give fewer columns.
        block: rows of queries and of keys per product; bounds the extra memory to their product.
        unit: all rows are of length one already.

    Returns:
        similarities ``(Q, min(k, N))`` descending and key rows of the same shape; ties by lowest row.
    """
    with torch.no_grad():
        if unit:
            return _search(queries, keys, k, block)
        scaled = unit_length(keys)
        return _search(scaled if queries is keys else queries, scaled, k, block, scale=queries is not keys)


# -- exact ---------------------------------------------------------------------------------------------------


def unit_length(vectors: Tensor) -> Tensor:
    """The rows ``(n, d) float32`` scaled to length one."""
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def _search(
    queries: Tensor, keys: Tensor, k: int, block: tuple[int, int], scale: bool = False
) -> tuple[Tensor, Tensor]:
    """The ``k`` keys ``(N, d)`` with the largest inner product of each query ``(Q, d)``, on the CPU.

    Args:
        queries: of length one, or of any length with ``scale``.
        keys: of length one.
        k: how many; fewer keys give fewer columns.
        block: rows of queries and of keys per product.
        scale: bring the queries to length one, block by block.
    """
    k = min(k, len(keys))
    values = torch.empty(len(queries), k)
    rows = torch.empty(len(queries), k, dtype=torch.int64)
    held = keys.new_empty(min(block[0], len(queries)) * min(block[1], len(keys)))
    for start in range(0, len(queries), block[0]):
        query = queries[start : start + block[0]]
        query = unit_length(query) if scale else query  # (b, d)
        best, at = query.new_empty(len(query), 0), rows.new_empty(len(query), 0, device=query.device)
        for offset in range(0, len(keys), block[1]):
            key = keys[offset : offset + block[1]]
            similarity = held[: len(query) * len(key)].view(len(query), len(key))
            torch.mm(query, key.T, out=similarity)
            best, at = update_topk(best, at, similarity, offset, k)
        values[start : start + len(query)], rows[start : start + len(query)] = best.cpu(), at.cpu()
    return values, rows


def all_neighbors(unit: Tensor, k: int, cluster: Cluster | None = None) -> tuple[Tensor, Tensor]:
    """As :func:`_search` of all rows ``(n, d)`` in themselves, in the way that takes less time.

    On a cluster the same products of the same blocks are made, so the result is the same to the bit on
    machines of the same kind.
    """
    if cluster is None:
        wide = unit.shape[1] >= WIDE
        return _search_within(unit, k, SQUARE) if wide else _search(unit, unit, k, BLOCK)
    n, k = len(unit), min(k, len(unit))
    if unit.shape[1] < WIDE:
        values, rows = torch.empty(n, k), torch.empty(n, k, dtype=torch.int64)
        starts = range(0, n, BLOCK[0])
        step = -(-len(starts) // TASKS) * BLOCK[0]
        ranges = [(start, min(start + step, n)) for start in range(0, n, step)]
        for (start, stop), (found, at) in _each(cluster, partial(_of_range, k, BLOCK), (unit,), ranges):
            values[start:stop], rows[start:stop] = found, at
        return values, rows
    blocks = -(-n // SQUARE)
    # The first blocks have the most products, so each task gets some from both ends.
    count = min(TASKS, max(1, blocks // 2))
    owns = [sorted({*range(t, blocks, 2 * count), *range(2 * count - 1 - t, blocks, 2 * count)})
            for t in range(count)]  # fmt: skip
    values, rows = torch.full((n, k), -torch.inf), torch.full((n, k), n)
    for _, (found, at) in _each(cluster, partial(_of_blocks, k, SQUARE), (unit,), owns):
        values, rows = _best_of_both((values, rows), (found, at), k)
    return values, rows


def _of_range(k: int, block: tuple[int, int], unit: Tensor, part: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return _search(unit[part[0] : part[1]], unit, k, block)


def _of_blocks(k: int, block: int, unit: Tensor, owns: list[int]) -> tuple[Tensor, Tensor]:
    return _search_within(unit, k, block, owns)


def _each(
    cluster: Cluster,
    work: Callable[..., tuple[Tensor, Tensor]],
    tensors: tuple[Tensor, ...],
    parts: Sequence[Any],
) -> Iterator[tuple[Any, tuple[Tensor, Tensor]]]:
    """``work(*tensors, part)`` of every part on a cluster, on the device that the tensors are on."""
    task = partial(_on_arrays, work, tensors[0].device.type)
    for part, found in cluster.each(task, tuple(t.cpu().numpy() for t in tensors), parts):
        with _read_only():
            yield part, (torch.from_numpy(found[0]), torch.from_numpy(found[1]))


def _on_arrays(
    work: Callable[..., tuple[Tensor, Tensor]], device: str, arrays: tuple[np.ndarray, ...], part: Any
) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad(), _read_only():
        values, rows = work(*(torch.from_numpy(array).to(device) for array in arrays), part)
    return values.numpy(), rows.numpy()


@contextmanager
def _read_only() -> Iterator[None]:
    """Torch warns of arrays that must not be written; nothing here writes them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        yield


def _best_of_both(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best of two lists of values and rows ``(n, at most k)`` each; among equals the lowest row."""
    rows, order = torch.cat([one[1], other[1]], 1).sort(dim=1)
    values, place = topk(torch.cat([one[0], other[0]], 1).gather(1, order), k)
    return values, rows.gather(1, place)


def _search_within(
    unit: Tensor, k: int, block: int, owns: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """As :func:`_search` of all rows ``(n, d)`` in themselves, with half of the products: the similarities of
    two blocks serve the rows of both.

    Every row meets the blocks in ascending order, as ties need: those before its own when their turn comes,
    the others in its own turn.

    Args:
        unit: of length one.
        k: how many.
        block: rows of a block.
        owns: do only the turns of these blocks, ascending. A row then has the best of what it met there;
            where that is fewer than ``k``, minus infinity and the row ``n`` stand for the rest.
    """
    k, parts = min(k, len(unit)), unit.split(block)
    best = [part.new_empty(len(part), 0) for part in parts]
    at = [part.new_empty(len(part), 0, dtype=torch.int64) for part in parts]
    held = unit.new_empty(2, min(block, len(unit)) ** 2)
    for i in range(len(parts)) if owns is None else owns:
        own = parts[i]
        for j, other in enumerate(parts[i:], start=i):
            similarity = held[0, : len(own) * len(other)].view(len(own), len(other))
            torch.mm(own, other.T, out=similarity)
            best[i], at[i] = update_topk(best[i], at[i], similarity, j * block, k)
            if j > i:
                turned = held[1, : similarity.numel()].view(len(other), len(own))
                turned.copy_(similarity.T)
                best[j], at[j] = update_topk(best[j], at[j], turned, i * block, k)
    if owns is not None:
        best = [torch.nn.functional.pad(b, (0, k - b.shape[1]), value=-torch.inf) for b in best]
        at = [torch.nn.functional.pad(a, (0, k - a.shape[1]), value=len(unit)) for a in at]
    return torch.cat(best).cpu(), torch.cat(at).cpu()


# -- approximate ---------------------------------------------------------------------------------------------


def clustered_neighbors(
    unit: Tensor, k: int, effort: Effort, cluster: Cluster | None = None
) -> tuple[Tensor, Tensor]:
    """As :func:`_search` of all rows ``(n, d)`` in themselves, each among the nearest clusters only.

    All rows of a cluster are compared with the same keys, so the search is one large product a cluster. How
    many clusters are looked into follows from a sample: where the true neighbors of its rows are found. The
    clusters are found here; a Ray cluster does the search in them.
    """
    n = len(unit)
    k = min(k, n)
    centers = _centers(unit, max(1, round(n**0.5)), effort.seed)
    label = _nearest_center(unit, centers)
    near = centers @ centers.T
    near.fill_diagonal_(torch.inf)  # a row's own cluster is always looked into, and first
    order = near.sort(dim=1, descending=True, stable=True).indices  # (c, c)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(len(order), device=order.device).expand_as(order)
    )
    sample = torch.from_numpy(numpy_rng(effort.seed, "knn/sample").choice(n, min(n, SAMPLE), replace=False))
    true = _search(unit[sample], unit, k, BLOCK)[1]
    ranks = rank[label[sample][:, None], label[true]]  # (s, k): clusters to look into for each true neighbor
    probes = _probes(ranks.cpu(), effort.recall, len(order))
    if probes > WORTHWHILE * len(order):
        return all_neighbors(unit, k, cluster)
    sizes = torch.bincount(label, minlength=len(order))
    members = label.argsort(stable=True)  # (n,): the rows of each cluster, one cluster after another
    jobs = [(c, _looked_into(order[c], sizes, probes, k)) for c in sizes.nonzero().squeeze(1).tolist()]
    values, rows = torch.empty(n, k), torch.empty(n, k, dtype=torch.int64)
    parts = members.cpu().split(sizes.tolist())
    if cluster is None:
        own = torch.cat([parts[c] for c, _ in jobs])
        values[own], rows[own] = _of_clusters(k, unit, members, sizes, jobs)
        return values, rows
    shares = [jobs[t::TASKS] for t in range(min(TASKS, len(jobs)))]
    for share, (found, at) in _each(cluster, partial(_of_clusters, k), (unit, members, sizes), shares):
        own = torch.cat([parts[c] for c, _ in share])
        values[own], rows[own] = found, at
    return values, rows


def _looked_into(order: Tensor, sizes: Tensor, probes: int, k: int) -> list[int]:
    """The nearest clusters that a cluster's rows are compared with; twice as many while they hold too few."""
    while int(sizes[order[:probes]].sum()) < k:
        probes *= 2
    return [int(c) for c in order[:probes]]


def _of_clusters(
    k: int, unit: Tensor, members: Tensor, sizes: Tensor, jobs: Sequence[tuple[int, Sequence[int]]]
) -> tuple[Tensor, Tensor]:
    """Each row of some clusters among the rows of the clusters it is compared with, cluster by cluster."""
    parts, values, rows = members.split(sizes.tolist()), [], []
    for own, looked in jobs:
        keys = torch.cat([parts[c] for c in looked]).sort().values
        found, place = _search(unit[parts[own]], unit[keys], k, BLOCK)
        values.append(found)
        rows.append(keys.cpu()[place])
    return torch.cat(values), torch.cat(rows)


def _probes(ranks: Tensor, recall: float, n_clusters: int) -> int:
    """The least number of clusters that hold the wanted share of neighbors, sure by two standard errors.

    Args:
        ranks: of the clusters that hold each true neighbor of a sample of rows ``(s, k)``; 0 is the row's
            own.
        recall: wanted share.
        n_clusters: that is always enough.
    """
    low, high = 1, n_clusters
    while low < high:
        middle = (low + high) // 2
        share = (ranks < middle).double().mean(1)  # (s,)
        error = share.std(unbiased=False) / len(share) ** 0.5
        low, high = (low, middle) if share.mean() - 2 * error >= recall else (middle + 1, high)
    return low


def _centers(unit: Tensor, n_clusters: int, seed: int) -> Tensor:
    """Directions ``(n_clusters, d)`` of length one by k-means with cosines on a sample of the rows."""
    rng = numpy_rng(seed, "knn/clusters")
    sample = np.sort(rng.choice(len(unit), min(len(unit), 128 * n_clusters), replace=False))
    # On the CPU: adding up there has a fixed order, so that the same seed gives the same clusters.
    rows = unit[torch.from_numpy(sample).to(unit.device)].cpu()
    centers = rows[torch.from_numpy(np.sort(rng.choice(len(rows), n_clusters, replace=False)))]
    for _ in range(ROUNDS):
        total = torch.zeros_like(centers).index_add_(0, _nearest_center(rows, centers), rows)
        # A cluster that lost all its rows, or whose rows cancel out, stays where it was.
        length = total.norm(dim=1, keepdim=True)
        centers = torch.where(length > 1e-6, total / length.clamp(min=1e-6), centers)
    return centers.to(unit.device)


def _nearest_center(rows: Tensor, centers: Tensor) -> Tensor:
    """The row of the center ``(c, d)`` with the largest inner product with each row ``(n, d)``: ``(n,)``."""
    label = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    # One buffer for all blocks: between blocks of its own the allocator leaves holes it cannot fill.
    held = rows.new_empty(min(4096, len(rows)), len(centers))
    for start in range(0, len(rows), 4096):
        part = rows[start : start + 4096]
        similarity = torch.mm(part, centers.T, out=held[: len(part)])
        torch.argmax(similarity, 1, out=label[start : start + 4096])
    return label

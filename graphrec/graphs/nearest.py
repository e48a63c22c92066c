"""Nearest rows of a table by inner product, in blocks: exactly, or nearly all of them by clusters.

No matrix of all similarities is ever held: memory is the vectors, scaled to length one, and one block.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphrec.core.random import numpy_rng
from graphrec.core.ray import Cluster
from graphrec.core.topk import topk, update_topk
from graphrec.graphs import ivf

BLOCK = (1024, 4096)
"""Queries and keys of one product: 16 MiB of similarities, which stay in the processor's cache."""
SQUARE = 2048
"""Rows of a block where each product serves the rows of both sides."""
WIDE = 1024
"""Columns from which a product takes longer than turning its result round."""
POINTS = 256  # rows a list that its centroid is trained on: more give fewer lists to search
SAMPLE = 1000  # rows whose true neighbors show how many lists a search needs
ASSIGNED = 2**16  # rows assigned to lists at once
TASKS = 64  # of a search on a cluster, at most: enough that workers of different speed end together
WORTHWHILE = 0.3  # share of the lists above which comparing all pairs, in larger products, takes less time


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
    for part, found in cluster.map_unordered(task, tuple(t.cpu().numpy() for t in tensors), parts):
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


def approximate_neighbors(
    unit: Tensor, k: int, recall: float, seed: int, cluster: Cluster | None = None
) -> tuple[Tensor, Tensor]:
    """As :func:`all_neighbors`, but compares each row only with the rows of the nearest inverted lists.

    FAISS divides the rows among lists (:mod:`graphrec.graphs.ivf`). All rows of a list are compared with the
    same keys, those of the lists whose centroids are nearest to its own, so the search is one large product a
    list; that is faster than a search of one query after another. The number of lists follows from a sample
    of rows with known neighbors. Vectors without clusters need nearly all comparisons; then all are made.

    Args:
        unit: rows of length one ``(n, d)``.
        k: how many neighbors.
        recall: wanted share of the true neighbors, on average.
        seed: of the lists and of the sample.
        cluster: compares the rows of the lists; the division is made here.

    Raises:
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    n = len(unit)
    k = min(k, n)
    n_lists = max(1, round(n**0.5))
    rng = numpy_rng(seed, "knn/clusters")
    training = torch.from_numpy(ivf.draw_sample(n, POINTS * n_lists, rng)).to(unit.device)
    centroids = ivf.train_centroids(unit[training].cpu().numpy(), n_lists, rng)
    blocks = ((start, unit[start : start + ASSIGNED].cpu().numpy()) for start in range(0, n, ASSIGNED))
    lists = torch.from_numpy(ivf.assign_lists(blocks, n, centroids)).long()  # (n,): the list of each row
    means = torch.from_numpy(centroids)
    similarity = 2 * means @ means.T - means.square().sum(1)  # by L2, as rows are assigned
    similarity.fill_diagonal_(torch.inf)  # a row's own list comes first
    order = similarity.sort(dim=1, descending=True, stable=True).indices  # (n_lists, n_lists)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(n_lists).expand_as(order))
    sample = torch.from_numpy(numpy_rng(seed, "knn/sample").choice(n, min(n, SAMPLE), replace=False))
    true = _search(unit[sample.to(unit.device)], unit, k, BLOCK)[1]
    ranks = rank[lists[sample][:, None], lists[true]]  # (s, k)
    probes = ivf.fewest_probes(ranks.numpy(), n_lists, recall)
    if probes > WORTHWHILE * n_lists:
        return all_neighbors(unit, k, cluster)
    sizes = torch.bincount(lists, minlength=n_lists)
    members = lists.argsort(stable=True)  # (n,): the rows of each list, one list after another
    tasks = [(c, _lists_to_search(order[c], sizes, probes, k)) for c in sizes.nonzero().squeeze(1).tolist()]
    values, rows = torch.empty(n, k), torch.empty(n, k, dtype=torch.int64)
    parts = members.split(sizes.tolist())
    found: Iterator[tuple[Any, tuple[Tensor, Tensor]]]
    if cluster is None:
        found = iter([(tasks, _search_lists(k, unit, members, sizes, tasks))])
    else:
        shares = [tasks[t::TASKS] for t in range(min(TASKS, len(tasks)))]
        found = _each(cluster, partial(_search_lists, k), (unit, members, sizes), shares)
    for share, best in found:
        queries = torch.cat([parts[c] for c, _ in share])
        values[queries], rows[queries] = best
    return values, rows


def _lists_to_search(order: Tensor, sizes: Tensor, probes: int, k: int) -> list[int]:
    """The nearest lists that a list's rows are compared with; twice as many while they hold fewer than ``k``
    rows.
    """
    while int(sizes[order[:probes]].sum()) < k:
        probes *= 2
    return [int(c) for c in order[:probes]]


def _search_lists(
    k: int, unit: Tensor, members: Tensor, sizes: Tensor, tasks: Sequence[tuple[int, Sequence[int]]]
) -> tuple[Tensor, Tensor]:
    """The neighbors of each row of some lists among the rows of the lists to search, list by list."""
    parts = members.cpu().split(sizes.tolist())
    values, rows = [], []
    for queries, searched in tasks:
        keys = torch.cat([parts[c] for c in searched]).sort().values
        best, place = _search(unit[parts[queries].to(unit.device)], unit[keys.to(unit.device)], k, BLOCK)
        values.append(best)
        rows.append(keys[place])
    return torch.cat(values), torch.cat(rows)

"""Nearest rows of a table by inner product, computed in blocks: exact, or approximate by inverted lists.

Memory holds the vectors, scaled to length one, and one block of similarities, never all similarities.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
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

SAFE = (1e-12, 1e18)
"""Lengths of rows whose squares stay within the range of float32."""
BLOCK = (1024, 4096)
"""Queries and keys of one product, whose 16 MiB of similarities fit into the processor's cache."""
SQUARE = 2048
"""Rows of a block where each product gives neighbors to the rows of both its blocks."""
WIDE = 1024
"""Columns from which computing a product takes longer than transposing its result."""
POINTS_PER_LIST = 256  # rows per list that centroids are trained on; with more, fewer lists are searched
SAMPLE = 1000  # rows whose true neighbors determine the number of lists to search
ASSIGN_BLOCK = 2**16  # rows assigned to lists at once
TASKS = 64  # most tasks of a search on a cluster; enough that workers of different speed finish together
MAX_SEARCHED_SHARE = 0.3  # share of the lists above which comparing all pairs, in larger products, is faster


def nearest_rows(
    queries: Tensor, keys: Tensor, k: int, block: tuple[int, int] = BLOCK, unit: bool = False
) -> tuple[Tensor, Tensor]:
    """Finds the ``k`` keys with the highest cosine with each query, exactly and in blocks.

    Products of different shapes are rounded differently, so the size of the blocks can change a similarity in
    the last bit, and with it the order of keys whose similarities differ by no more than that.

    Args:
        queries: ``(Q, d)`` float, rows not zero.
        keys: ``(N, d)`` float, rows not zero.
        k: number of keys per query; fewer keys give fewer columns.
        block: rows of queries and of keys per product; bounds the extra memory to their product.
        unit: all rows have length one already.

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
    """The rows ``(n, d) float32`` scaled to length one; rows of zeros stay.

    Rows of one direction get one result, however long they are: where the squares of a row would leave the
    range of float32, the row is first multiplied by a power of two, which rounds nothing.
    """
    vectors = vectors.float()
    length = vectors.norm(dim=1, keepdim=True)  # (n, 1)
    extreme = ((length < SAFE[0]) | (length > SAFE[1])).flatten()  # (n,)
    if extreme.any():
        rows = vectors[extreme]
        exponent = rows.abs().amax(1, keepdim=True).frexp().exponent
        for half in (exponent // 2, exponent - exponent // 2):  # 2^-exponent itself may leave the range
            rows = rows.ldexp(-half)
        vectors = vectors.index_put((extreme,), rows)
    return torch.nn.functional.normalize(vectors, dim=1)


def _search(
    queries: Tensor, keys: Tensor, k: int, block: tuple[int, int], scale: bool = False
) -> tuple[Tensor, Tensor]:
    """:func:`nearest_rows` for keys of length one, and queries of length one unless ``scale``; on the CPU."""
    k = min(k, len(keys))
    values = torch.empty(len(queries), k)
    rows = torch.empty(len(queries), k, dtype=torch.int64)
    buffer = keys.new_empty(min(block[0], len(queries)) * min(block[1], len(keys)))
    for start in range(0, len(queries), block[0]):
        query = queries[start : start + block[0]]
        query = unit_length(query) if scale else query  # (b, d)
        best = query.new_empty(len(query), 0)
        best_rows = rows.new_empty(len(query), 0, device=query.device)
        for offset in range(0, len(keys), block[1]):
            key = keys[offset : offset + block[1]]
            similarity = buffer[: len(query) * len(key)].view(len(query), len(key))
            torch.mm(query, key.T, out=similarity)
            best, best_rows = update_topk(best, best_rows, similarity, offset, k)
        values[start : start + len(query)] = best.cpu()
        rows[start : start + len(query)] = best_rows.cpu()
    return values, rows


def all_neighbors(unit: Tensor, k: int, cluster: Cluster | None = None) -> tuple[Tensor, Tensor]:
    """Finds the ``k`` nearest rows of each row ``(n, d)`` of length one, by the faster of two exact methods.

    A cluster computes the same products of the same blocks, so the result is bit-identical on machines of the
    same kind.
    """
    wide = unit.shape[1] >= WIDE
    if cluster is None:
        return _search_within(k, SQUARE, unit) if wide else _search(unit, unit, k, BLOCK)
    n = len(unit)
    k = min(k, n)
    if not wide:
        values = torch.empty(n, k)
        rows = torch.empty(n, k, dtype=torch.int64)
        step = -(-len(range(0, n, BLOCK[0])) // TASKS) * BLOCK[0]
        ranges = [(start, min(start + step, n)) for start in range(0, n, step)]
        for (start, stop), best in _map_on_cluster(cluster, partial(_of_range, k, BLOCK), (unit,), ranges):
            values[start:stop], rows[start:stop] = best
        return values, rows
    blocks = -(-n // SQUARE)
    # The first blocks have the most products, so each task gets some from both ends.
    count = min(TASKS, max(1, blocks // 2))
    turns = [
        sorted({*range(task, blocks, 2 * count), *range(2 * count - 1 - task, blocks, 2 * count)})
        for task in range(count)
    ]
    merged = torch.full((n, k), -torch.inf), torch.full((n, k), n)
    for _, best in _map_on_cluster(cluster, partial(_search_within, k, SQUARE), (unit,), turns):
        merged = _merge(merged, best, k)
    return merged


def _of_range(k: int, block: tuple[int, int], unit: Tensor, part: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The nearest rows of a range of rows."""
    return _search(unit[part[0] : part[1]], unit, k, block)


def _map_on_cluster(
    cluster: Cluster,
    work: Callable[..., tuple[Tensor, Tensor]],
    tensors: tuple[Tensor, ...],
    parts: Sequence[Any],
) -> Iterator[tuple[Any, tuple[Tensor, Tensor]]]:
    """Yields each part and ``work(*tensors, part)``, computed on a cluster by the tensors' kind of device."""
    task = partial(_on_arrays, work, tensors[0].device.type)
    for part, (values, rows) in cluster.map_unordered(task, tuple(t.cpu().numpy() for t in tensors), parts):
        with _read_only():
            yield part, (torch.from_numpy(values), torch.from_numpy(rows))


def _on_arrays(
    work: Callable[..., tuple[Tensor, Tensor]], device: str, arrays: tuple[np.ndarray, ...], part: Any
) -> tuple[np.ndarray, np.ndarray]:
    """``work`` of tensors, as a task of arrays."""
    with torch.no_grad(), _read_only():
        values, rows = work(*(torch.from_numpy(array).to(device) for array in arrays), part)
    return values.numpy(), rows.numpy()


@contextmanager
def _read_only() -> Iterator[None]:
    """Silences the warning of torch that an array is read-only; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        yield


def _merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best of two lists of values and rows ``(n, at most k)``; equal values by the lowest row."""
    rows, order = torch.cat([first[1], second[1]], 1).sort(dim=1)
    values, place = topk(torch.cat([first[0], second[0]], 1).gather(1, order), k)
    return values, rows.gather(1, place)


def _search_within(
    k: int, block: int, unit: Tensor, turns: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Finds the nearest rows of each row with half the products of :func:`_search`: the similarities of two
    blocks give neighbors to the rows of both.

    Every row is compared with the blocks in ascending order, as ties need: with earlier blocks in the turns
    of these, with its own and later ones in the turn of its own block.

    Args:
        k: number of neighbors.
        block: rows of a block.
        unit: rows of length one ``(n, d)``.
        turns: compute only the turns of these blocks, ascending. A row then has the best of the rows it was
            compared with; where these are fewer than ``k``, the value ``-inf`` and the row ``n`` fill up.
    """
    k = min(k, len(unit))
    parts = unit.split(block)
    best = [part.new_empty(len(part), 0) for part in parts]
    rows = [part.new_empty(len(part), 0, dtype=torch.int64) for part in parts]
    buffers = unit.new_empty(2, min(block, len(unit)) ** 2)
    for i in range(len(parts)) if turns is None else turns:
        for j in range(i, len(parts)):
            shape = len(parts[i]), len(parts[j])
            similarity = buffers[0, : shape[0] * shape[1]].view(shape)
            torch.mm(parts[i], parts[j].T, out=similarity)
            best[i], rows[i] = update_topk(best[i], rows[i], similarity, j * block, k)
            if j > i:
                transposed = buffers[1, : similarity.numel()].view(shape[1], shape[0])
                transposed.copy_(similarity.T)
                best[j], rows[j] = update_topk(best[j], rows[j], transposed, i * block, k)
    if turns is not None:
        best = [torch.nn.functional.pad(b, (0, k - b.shape[1]), value=-torch.inf) for b in best]
        rows = [torch.nn.functional.pad(r, (0, k - r.shape[1]), value=len(unit)) for r in rows]
    return torch.cat(best).cpu(), torch.cat(rows).cpu()


# -- approximate ---------------------------------------------------------------------------------------------


def approximate_neighbors(
    unit: Tensor, k: int, recall: float, seed: int, cluster: Cluster | None = None
) -> tuple[Tensor, Tensor]:
    """Finds nearly all of the ``k`` nearest rows, comparing each row only with those of the nearest lists.

    FAISS divides the rows among lists (:mod:`graphrec.graphs.ivf`). All rows of a list are compared with the
    same keys, the rows of the lists whose centroids are nearest to its own, so the search is one large
    product per list, which is faster than searching one query after another. The number of lists to search
    follows from a sample of rows with known neighbors. Vectors without clusters would need nearly
    all comparisons; then all are made.

    Args:
        unit: rows of length one ``(n, d)``.
        k: number of neighbors.
        recall: share of the true neighbors to find, on average.
        seed: seed of the lists and the sample.
        cluster: cluster that compares the rows; the lists are built in this process.

    Returns:
        As :func:`all_neighbors`.

    Raises:
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    n = len(unit)
    k = min(k, n)
    n_lists = max(1, round(n**0.5))
    rng = numpy_rng(seed, "knn/clusters")
    training = torch.from_numpy(ivf.draw_sample(n, POINTS_PER_LIST * n_lists, rng)).to(unit.device)
    centroids = ivf.train_centroids(unit[training].cpu().numpy(), n_lists, rng)
    starts = range(0, n, ASSIGN_BLOCK)
    blocks = ((start, unit[start : start + ASSIGN_BLOCK].cpu().numpy()) for start in starts)
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
    if probes > MAX_SEARCHED_SHARE * n_lists:
        return all_neighbors(unit, k, cluster)
    sizes = torch.bincount(lists, minlength=n_lists)
    members = lists.argsort(stable=True)  # (n,): the rows of each list, one list after another
    tasks = [(c, _lists_to_search(order[c], sizes, probes, k)) for c in sizes.nonzero().squeeze(1).tolist()]
    values = torch.empty(n, k)
    rows = torch.empty(n, k, dtype=torch.int64)
    parts = members.split(sizes.tolist())
    results: Iterable[tuple[Any, tuple[Tensor, Tensor]]]
    if cluster is None:
        results = [(tasks, _search_lists(k, unit, members, sizes, tasks))]
    else:
        shares = [tasks[t::TASKS] for t in range(min(TASKS, len(tasks)))]
        results = _map_on_cluster(cluster, partial(_search_lists, k), (unit, members, sizes), shares)
    for share, best in results:
        queries = torch.cat([parts[c] for c, _ in share])
        values[queries], rows[queries] = best
    return values, rows


def _lists_to_search(order: Tensor, sizes: Tensor, probes: int, k: int) -> list[int]:
    """The first ``probes`` of the lists in ``order``, twice as many while they hold fewer than ``k`` rows."""
    while int(sizes[order[:probes]].sum()) < k:
        probes *= 2
    return [int(c) for c in order[:probes]]


def _search_lists(
    k: int, unit: Tensor, members: Tensor, sizes: Tensor, tasks: Sequence[tuple[int, Sequence[int]]]
) -> tuple[Tensor, Tensor]:
    """Finds the neighbors of the rows of some lists; a task is a list and the lists to search for it."""
    parts = members.cpu().split(sizes.tolist())
    values = []
    rows = []
    for queries, lists in tasks:
        keys = torch.cat([parts[c] for c in lists]).sort().values
        best, place = _search(unit[parts[queries].to(unit.device)], unit[keys.to(unit.device)], k, BLOCK)
        values.append(best)
        rows.append(keys[place])
    return torch.cat(values), torch.cat(rows)

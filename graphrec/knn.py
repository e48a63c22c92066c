"""Item-item graphs from content: nearest neighbours by cosine, in blocks, cached.

No ``n_items x n_items`` matrix is ever held: memory is the features, scaled to length one, and one block of
similarities. Up to :data:`EXACT_UP_TO` items every pair is compared. Above, items are divided into clusters,
and each is compared with those of the nearest clusters only, of so many that the wanted share of the true
neighbours is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphrec.atomic import digest, read_array, read_json, sha256_file, write_array, write_json
from graphrec.errors import GraphError
from graphrec.graph import Graph
from graphrec.seeds import stream
from graphrec.store import FeatureTable
from graphrec.topk import topk

VERSION = 2  # part of the cache key: raise it when the neighbours of equal features change
CLUSTER_VERSION = 2  # the same for approximate neighbours
EXACT_UP_TO = 200_000
"""Items up to which ``method="auto"`` compares all pairs."""
BLOCK = (1024, 4096)
"""Queries and keys of one product: 16 MiB of similarities, which stay in the processor's cache."""
SQUARE = 2048
"""Rows of a block where each product serves the rows of both sides."""
WIDE = 1024
"""Columns from which a product takes longer than turning its result round."""
SAMPLE = 1000  # items whose true neighbours are looked up to see how many clusters it takes
ROUNDS = 10  # of k-means
WORTHWHILE = 0.3  # share of the clusters above which comparing all pairs, in larger products, takes less time

Method = Literal["auto", "exact", "approximate"]


def nearest_rows(
    queries: Tensor, keys: Tensor, k: int, block: tuple[int, int] = BLOCK
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

    Returns:
        similarities ``(Q, min(k, N))`` descending and key rows of the same shape; ties by lowest row.
    """
    with torch.no_grad():
        unit = _unit(keys)
        return _search(unit if queries is keys else queries, unit, k, block, scale=queries is not keys)


def knn(
    table: FeatureTable,
    k: int,
    *,
    weight: Literal["binary", "cosine"] = "binary",
    cache: str | Path | None = None,
    device: str | torch.device = "cpu",
    method: Method = "auto",
    recall: float = 0.99,
    seed: int = 0,
) -> Graph:
    """The directed item-item graph from each item's ``k`` nearest neighbours by cosine, the item itself among
    them.

    Row ``i`` holds the neighbours of item ``i``. Items without the feature have an empty row and an empty
    column.

    Args:
        table: features ``(n_items, d)`` with their ``present`` mask.
        k: neighbours per item, the item included.
        weight: 1 for every neighbour, or the cosine similarity (negative ones are dropped).
        cache: directory for the neighbours, kept under a key of the features' sha256, k, metric, version and,
            where they are approximate, recall and seed.
        device: where to compute.
        method: ``"exact"`` compares all pairs; ``"approximate"`` finds nearly all neighbours in a fraction of
            the time; ``"auto"`` is exact up to :data:`EXACT_UP_TO` items with the feature.
        recall: least share of the true neighbours that the approximate form finds, on average over items.
            It is measured on a sample, and held with a margin for that. Features without any clusters need
            nearly all comparisons, and then get them: the result is exact.
        seed: of the clusters; the same seed gives the same neighbours on the same machine with the same
            number of threads.

    Raises:
        GraphError: ``k`` is below 1, no item has the feature, or ``method`` or ``recall`` is none.
    """
    if k < 1:
        raise GraphError(f"k = {k}; expected at least 1")
    if method not in ("auto", "exact", "approximate"):
        raise GraphError(f"method {method!r}; expected 'auto', 'exact' or 'approximate'")
    if not 0 < recall <= 1:
        raise GraphError(f"recall = {recall}; expected 0 < recall <= 1")
    present = np.flatnonzero(table.present)
    if not len(present):
        raise GraphError("no item has this feature; a kNN graph needs at least one")
    exact = method == "exact" or (method == "auto" and len(present) <= EXACT_UP_TO)
    effort = None if exact else _Effort(float(recall), int(seed))
    neighbours, similarity = _cached_neighbours(table, present, k, effort, cache, device)
    n = len(table.present)
    source, target = neighbours.ravel(), np.repeat(present, neighbours.shape[1])
    values = similarity.ravel()
    if weight == "cosine":
        kept = values > 0
        source, target, values = source[kept], target[kept], values[kept]
    elif weight == "binary":
        values = np.ones(len(values), dtype=np.float32)
    else:
        raise GraphError(f"weight {weight!r}; expected 'binary' or 'cosine'")
    return Graph.from_edges(source, target, values, n_source=n, n_target=n)


def content_graph(
    tables: Mapping[str, FeatureTable],
    weights: Mapping[str, float],
    k: int,
    *,
    to: np.ndarray,
    of: np.ndarray,
) -> Graph:
    """Edges that give some items the mean of their nearest other items: for cold items, from warm ones.

    Row ``i`` in ``to`` is ``sum_m w_m mean(k nearest in modality m)`` over the modalities item ``i`` has, the
    weights scaled to sum to one. Other rows, and rows of items without any content, are empty.

    Args:
        tables: features by modality, each ``(n_items, d_m)``.
        weights: weight by modality.
        k: neighbours per modality.
        to: items to place ``(n_items,) bool``.
        of: items that may be neighbours ``(n_items,) bool``.
    """
    n = len(to)
    total = np.zeros(n)
    found: list[tuple[np.ndarray, np.ndarray, float]] = []
    for modality, weight in weights.items():
        table = tables[modality]
        queries, keys = np.flatnonzero(table.present & to), np.flatnonzero(table.present & of)
        if weight > 0 and len(queries) and len(keys):
            some, others = (torch.from_numpy(table.rows(r).astype(np.float32)) for r in (queries, keys))
            neighbours = keys[nearest_rows(some, others, k)[1].numpy()]  # (n_queries, k)
            found.append((queries, neighbours, weight))
            total[queries] += weight
    source = np.concatenate([nb.ravel() for _, nb, _ in found]) if found else np.zeros(0, np.int64)
    target = np.concatenate([np.repeat(q, nb.shape[1]) for q, nb, _ in found]) if found else source
    share = [np.repeat(w / total[q] / nb.shape[1], nb.shape[1]) for q, nb, w in found]
    weight_array = np.concatenate(share) if found else np.zeros(0)
    return Graph.from_edges(source, target, weight_array, n_source=n, n_target=n, repeated="sum")


class _Effort(NamedTuple):
    """How hard the approximate search tries: wanted share of the true neighbours, and the clusters' seed."""

    recall: float
    seed: int


def _cached_neighbours(
    table: FeatureTable,
    present: np.ndarray,
    k: int,
    effort: _Effort | None,
    cache: str | Path | None,
    device: str | torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours as item indices ``(n_present, k)`` and cosine similarities, from the cache where it holds
    them; exact without an ``effort``.
    """
    how = () if effort is None else ("clusters", CLUSTER_VERSION, *effort)
    key = digest("knn", VERSION, table.sha256, k, "cosine", *how)[:32]
    folder = Path(cache) / f"knn-{key}" if cache is not None else None
    if folder is not None and _intact(folder):
        return read_array(folder / "neighbours.npy"), read_array(folder / "similarity.npy")
    with torch.no_grad():
        unit = _unit_rows(table, present, device)
        found = _search_all(unit, k) if effort is None else _search_clusters(unit, k, effort)
    similarity, neighbours = found[0].numpy(), present[found[1].numpy()].astype(np.int32)
    if folder is not None:
        hashes = {
            "neighbours.npy": write_array(folder / "neighbours.npy", neighbours),
            "similarity.npy": write_array(folder / "similarity.npy", similarity),
        }
        write_json(folder / "manifest.json", hashes)
    return neighbours, similarity


def _intact(folder: Path) -> bool:
    """Whether both files of cached neighbours are there as they were written."""
    try:
        found = {name: sha256_file(folder / name) for name in ("neighbours.npy", "similarity.npy")}
        return bool(read_json(folder / "manifest.json", GraphError) == found)
    except (GraphError, OSError):
        return False


# -- exact ---------------------------------------------------------------------------------------------------


def _unit(vectors: Tensor) -> Tensor:
    """The rows ``(n, d) float32`` scaled to length one."""
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def _unit_rows(table: FeatureTable, present: np.ndarray, device: str | torch.device) -> Tensor:
    """The vectors of some items ``(n, d) float32`` scaled to length one: read in blocks, so one copy."""
    unit = torch.empty(len(present), table.dim, device=device)
    for start in range(0, len(present), 8192):
        rows = table.rows(present[start : start + 8192])
        unit[start : start + len(rows)] = _unit(torch.from_numpy(rows).to(device))
    return unit


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
        query = _unit(query) if scale else query  # (b, d)
        best, at = query.new_empty(len(query), 0), rows.new_empty(len(query), 0, device=query.device)
        for offset in range(0, len(keys), block[1]):
            key = keys[offset : offset + block[1]]
            similarity = held[: len(query) * len(key)].view(len(query), len(key))
            torch.mm(query, key.T, out=similarity)
            best, at = _better(best, at, similarity, offset, k)
        values[start : start + len(query)], rows[start : start + len(query)] = best.cpu(), at.cpu()
    return values, rows


def _search_all(unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As :func:`_search` of all rows ``(n, d)`` in themselves, in the way that takes less time."""
    if unit.shape[1] >= WIDE:
        return _search_within(unit, k)
    return _search(unit, unit, k, BLOCK)


def _search_within(unit: Tensor, k: int, block: int = SQUARE) -> tuple[Tensor, Tensor]:
    """As :func:`_search` of all rows ``(n, d)`` in themselves, with half of the products: the similarities of
    two blocks serve the rows of both.

    Every row meets the blocks in ascending order, as ties need: those before its own when their turn comes,
    the others in its own turn.
    """
    k, parts = min(k, len(unit)), unit.split(block)
    best = [part.new_empty(len(part), 0) for part in parts]
    at = [part.new_empty(len(part), 0, dtype=torch.int64) for part in parts]
    held = unit.new_empty(2, min(block, len(unit)) ** 2)
    for i, own in enumerate(parts):
        for j, other in enumerate(parts[i:], start=i):
            similarity = held[0, : len(own) * len(other)].view(len(own), len(other))
            torch.mm(own, other.T, out=similarity)
            best[i], at[i] = _better(best[i], at[i], similarity, j * block, k)
            if j > i:
                turned = held[1, : similarity.numel()].view(len(other), len(own))
                turned.copy_(similarity.T)
                best[j], at[j] = _better(best[j], at[j], turned, i * block, k)
    return torch.cat(best).cpu(), torch.cat(at).cpu()


def _better(best: Tensor, at: Tensor, similarity: Tensor, offset: int, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best of those found so far and of one more block; among equals the lowest row.

    Only a value above the worst of ``k`` found so far can enter, as rows of later blocks are higher. Nearly
    all of a block is therefore read once, for the maxima of its groups of columns ``j, j + 512, ...``; only
    groups with a maximum above take part.

    Args:
        best: ``(b, at most k)`` descending.
        at: rows of their keys.
        similarity: of the next block ``(b, n)``.
        offset: its first row.
        k: how many.
    """
    n = similarity.shape[1]
    if best.shape[1] < k:
        both = torch.cat([best, similarity], 1) if best.shape[1] else similarity
        where = torch.cat([at, torch.arange(offset, offset + n, device=at.device).expand(len(at), n)], 1)
        values, place = topk(both, min(k, both.shape[1]))
        return values, where.gather(1, place)
    groups = min(512, n)
    depth, rest = divmod(n, groups)
    grouped = similarity[:, : n - rest].unflatten(1, (depth, groups))
    above = grouped.amax(1) > best[:, -1:]  # (b, groups)
    row, group = above.nonzero().unbind(1)
    counts = above.sum(1)
    most = max(1, int(counts.max()))
    if not len(row) and not rest:
        return best, at
    # Each row's groups side by side, ascending; with depth before group, candidates stand in the order of
    # their rows, as ties need.
    slot = torch.arange(len(row), device=at.device) - (counts.cumsum(0) - counts)[row]
    chosen = at.new_zeros(len(best), most).index_put_((row, slot), group)
    inside = grouped.gather(2, chosen.unsqueeze(1).expand(-1, depth, -1))  # (b, depth, most)
    unused = torch.arange(most, device=at.device) >= counts.unsqueeze(1)
    inside = inside.masked_fill_(unused.unsqueeze(1), -torch.inf).flatten(1)
    values, place = topk(torch.cat([best, inside, similarity[:, n - rest :]], 1), k)
    local = place - k
    column = local.div(most, rounding_mode="floor") * groups + chosen.gather(1, local % most)
    column = torch.where(local < depth * most, column, local - depth * most + n - rest)
    return values, torch.where(local < 0, at.gather(1, place.clamp(max=k - 1)), column + offset)


# -- approximate ---------------------------------------------------------------------------------------------


def _search_clusters(unit: Tensor, k: int, effort: _Effort) -> tuple[Tensor, Tensor]:
    """As :func:`_search` of all rows ``(n, d)`` in themselves, each among the nearest clusters only.

    All rows of a cluster are compared with the same keys, so the search is one large product a cluster. How
    many clusters are looked into follows from a sample: where the true neighbours of its rows are found.
    """
    n = len(unit)
    k = min(k, n)
    centres = _centres(unit, max(1, round(n**0.5)), effort.seed)
    label = _nearest_centre(unit, centres)
    near = centres @ centres.T
    near.fill_diagonal_(torch.inf)  # a row's own cluster is always looked into, and first
    order = near.sort(dim=1, descending=True, stable=True).indices  # (c, c)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(len(order), device=order.device).expand_as(order)
    )
    sample = torch.from_numpy(stream(effort.seed, "knn/sample").choice(n, min(n, SAMPLE), replace=False))
    true = _search(unit[sample], unit, k, BLOCK)[1]
    ranks = rank[label[sample][:, None], label[true]]  # (s, k): clusters to look into for each true neighbour
    probes = _probes(ranks.cpu(), effort.recall, len(order))
    if probes > WORTHWHILE * len(order):
        return _search_all(unit, k)
    sizes = torch.bincount(label, minlength=len(order))
    parts = label.argsort(stable=True).split(sizes.tolist())
    values, rows = torch.empty(n, k), torch.empty(n, k, dtype=torch.int64)
    for cluster, own in enumerate(parts):
        if not len(own):
            continue
        looked = probes
        while int(sizes[order[cluster, :looked]].sum()) < k:
            looked *= 2  # clusters of few rows: look further
        keys = torch.cat([parts[c] for c in order[cluster, :looked].tolist()]).sort().values
        found, place = _search(unit[own], unit[keys], k, BLOCK)
        values[own.cpu()], rows[own.cpu()] = found, keys.cpu()[place]
    return values, rows


def _probes(ranks: Tensor, recall: float, n_clusters: int) -> int:
    """The least number of clusters that hold the wanted share of neighbours, sure by two standard errors.

    Args:
        ranks: of the clusters that hold each true neighbour of a sample of rows ``(s, k)``; 0 is the row's
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


def _centres(unit: Tensor, n_clusters: int, seed: int) -> Tensor:
    """Directions ``(n_clusters, d)`` of length one by k-means with cosines on a sample of the rows."""
    rng = stream(seed, "knn/clusters")
    sample = np.sort(rng.choice(len(unit), min(len(unit), 128 * n_clusters), replace=False))
    # On the CPU: adding up there has a fixed order, so that the same seed gives the same clusters.
    rows = unit[torch.from_numpy(sample).to(unit.device)].cpu()
    centres = rows[torch.from_numpy(np.sort(rng.choice(len(rows), n_clusters, replace=False)))]
    for _ in range(ROUNDS):
        total = torch.zeros_like(centres).index_add_(0, _nearest_centre(rows, centres), rows)
        # A cluster that lost all its rows, or whose rows cancel out, stays where it was.
        length = total.norm(dim=1, keepdim=True)
        centres = torch.where(length > 1e-6, total / length.clamp(min=1e-6), centres)
    return centres.to(unit.device)


def _nearest_centre(rows: Tensor, centres: Tensor) -> Tensor:
    """The row of the centre ``(c, d)`` with the largest inner product with each row ``(n, d)``: ``(n,)``."""
    label = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    # One buffer for all blocks: between blocks of its own the allocator leaves holes it cannot fill.
    held = rows.new_empty(min(4096, len(rows)), len(centres))
    for start in range(0, len(rows), 4096):
        part = rows[start : start + 4096]
        similarity = torch.mm(part, centres.T, out=held[: len(part)])
        torch.argmax(similarity, 1, out=label[start : start + 4096])
    return label

"""Item-item graphs from content: nearest neighbors by cosine, computed in blocks and cached.

Memory holds the features, scaled to length one, and one block of similarities, never an ``n_items x n_items``
matrix. Scaled features of more than :data:`IN_MEMORY` bytes are kept in a file. Up to :data:`EXACT_UP_TO`
items all pairs are compared. Above that, items are divided into clusters and each is compared only with the
items of the nearest clusters, as many as it takes to find the wanted share of the true neighbors.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from graphrec.core.errors import GraphError
from graphrec.core.files import (
    digest,
    explain_os_errors,
    read_array,
    read_json,
    sha256_file,
    write_array,
    write_json,
)
from graphrec.core.ray import Cluster
from graphrec.core.reuse import Reused
from graphrec.features import FeatureTable
from graphrec.graphs.equal_rows import EqualRows, NeighborEdges, neighbor_edges
from graphrec.graphs.graph import Graph
from graphrec.graphs.nearest import all_neighbors, approximate_neighbors, nearest_rows, unit_length

VERSION = 3  # part of the cache key; increase it when the neighbors of equal features change
CLUSTER_VERSION = 4  # the same for approximate neighbors
FILES = ("group.npy", "neighbors.npy", "similarity.npy")
EXACT_UP_TO = 200_000
"""Number of items up to which ``method="auto"`` compares all pairs."""
IN_MEMORY = 2**32
"""Bytes of scaled features up to which they are kept in memory. More go into an unnamed temporary file (in
the cache directory, if there is one), which the system keeps in memory as far as there is room."""
TIED = 1e-6
"""Difference of cosines up to which two rows may be equal; rounding is below it."""
KEPT_BYTES = 2**26
"""Bytes of neighbors up to which they are kept where :data:`LAST_NEIGHBORS` are."""
READ_BYTES = 2**26  # bytes of features read at a time
Method = Literal["auto", "exact", "approximate"]
Neighbors = tuple[EqualRows, np.ndarray, np.ndarray]
"""The groups of equal items, the ``k`` nearest groups of each ``(G, k)`` and their cosine similarities."""
LAST_NEIGHBORS: Reused[str, Neighbors] = Reused("last neighbors", most=16)
"""Where they are kept, the neighbors of equal features are not computed again."""


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
    cluster: Cluster | None = None,
) -> Graph:
    """Builds the directed item-item graph of each item's ``k`` nearest neighbors by cosine, itself included.

    Row ``i`` holds the neighbors of item ``i``. Items without the feature have an empty row and an empty
    column. Items with equal vectors are a group whose members share its places
    (:mod:`graphrec.graphs.equal_rows`), so the graph does not depend on the order of the items.

    Args:
        table: features ``(n_items, d)`` with their ``present`` mask.
        k: neighbors per item, the item included.
        weight: 1 for every neighbor, or the cosine similarity (negative ones are dropped); times its share of
            a place where equal items share places. A row's binary weights sum to ``k``.
        cache: directory to cache the neighbors in, by the features' sha256, k, metric, version and, for
            approximate ones, recall and seed.
        device: where to compute.
        method: ``"exact"`` compares all pairs; ``"approximate"`` finds nearly all neighbors in a fraction of
            the time; ``"auto"`` is exact up to :data:`EXACT_UP_TO` items with the feature.
        recall: least share of the true neighbors that the approximate method finds, averaged over items. It
            is estimated on a sample, with a margin for the sampling error. Features without any clusters
            would need nearly all comparisons; then all are made and the result is exact.
        seed: seed of the clustering; the same seed gives the same neighbors on the same machine with the same
            number of threads.
        cluster: cluster to compute on; default: this process. The neighbors are bit-identical on machines
            of the same kind, and have the same key in ``cache``.

    Raises:
        GraphError: no item has the feature, or ``k``, ``method``, ``recall`` or ``weight`` is invalid.
        ClusterError: the cluster cannot be reached, has no room, or lost its workers too often.
        MissingDependencyError: ``cluster`` is given and Ray is not installed.
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
    approximate = None if exact else (float(recall), int(seed))
    rows, nearest, cosines = _cached_neighbors(table, present, k, approximate, cache, device, cluster)
    edges = neighbor_edges(nearest, cosines, k, rows)
    if weight == "cosine":
        values = edges.cosine * edges.share
        kept = values > 0
    elif weight == "binary":
        values = edges.share
        kept = slice(None)
    else:
        raise GraphError(f"weight {weight!r}; expected 'binary' or 'cosine'")
    n = len(table.present)
    source = present[edges.row[kept]]
    target = present[edges.query[kept]]
    return Graph.from_edges(source, target, values[kept], n_source=n, n_target=n)


def content_graph(
    tables: Mapping[str, FeatureTable],
    weights: Mapping[str, float],
    k: int,
    *,
    targets: np.ndarray,
    sources: np.ndarray,
) -> Graph:
    """Builds the graph that averages each target item's nearest source items, such as warm for cold items.

    Row ``i`` of a target is ``sum_m w_m mean(k nearest in modality m)`` over the modalities item ``i`` has,
    the weights scaled to sum to one; equal items share places as in :func:`knn`. Other rows, and rows of
    items without any content, are empty.

    Args:
        tables: features by modality, each ``(n_items, d_m)``.
        weights: weight by modality.
        k: neighbors per modality.
        targets: items that get neighbors ``(n_items,) bool``.
        sources: items that may be neighbors ``(n_items,) bool``.
    """
    n = len(targets)
    total = np.zeros(n)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for modality, weight in weights.items():
        table = tables[modality]
        queries = np.flatnonzero(table.present & targets)
        keys = np.flatnonzero(table.present & sources)
        if weight > 0 and len(queries) and len(keys):
            query_rows = _unit_rows(table, queries, "cpu")
            near = nearest_edges(query_rows, _unit_rows(table, keys, "cpu"), k, unit=True)
            parts.append((keys[near.row], queries[near.query], weight * near.share / min(k, len(keys))))
            total[queries] += weight
    edges = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    edges += [(source, target, share / total[target]) for source, target, share in parts]
    source, target, share = (np.concatenate(arrays) for arrays in zip(*edges, strict=True))
    return Graph.from_edges(source, target, share, n_source=n, n_target=n, repeated="sum")


def nearest_edges(queries: Tensor, keys: Tensor, k: int, unit: bool = False) -> NeighborEdges:
    """Edges from each query to the ``k`` nearest keys by cosine; equal keys share places.

    Args:
        queries: ``(Q, d)`` float, rows not zero.
        keys: ``(N, d)`` float, rows not zero.
        k: number of keys per query; with fewer keys, all of them.
        unit: all rows have length one already.
    """
    if not unit:
        queries, keys = unit_length(queries), unit_length(keys)
    cosines, rows = nearest_rows(queries, keys, k + 1, unit=True)
    if rows.shape[1] <= k or bool((cosines[:, -2] - cosines[:, -1] > TIED).all()):
        # No row that was left out equals one that was not.
        rows = rows[:, :k]
        query = np.repeat(np.arange(len(rows)), rows.shape[1])
        share = np.ones(len(query), dtype=np.float32)
        return NeighborEdges(query, rows.flatten().numpy(), cosines[:, :k].flatten().numpy(), share)
    distinct, same = EqualRows.of([keys]), EqualRows.of([queries])
    cosines, rows = nearest_rows(queries[same.first], keys[distinct.first], k, unit=True)
    return neighbor_edges(rows, cosines, k, distinct, same.group)


def _cached_neighbors(
    table: FeatureTable,
    present: np.ndarray,
    k: int,
    approximate: tuple[float, int] | None,
    cache: str | Path | None,
    device: str | torch.device,
    cluster: Cluster | None,
) -> Neighbors:
    """The neighbors among the present items, from the cache if they are in it; exact unless ``approximate``
    gives a recall and a seed.
    """
    method = () if approximate is None else ("clusters", CLUSTER_VERSION, *approximate)
    key = digest("knn", VERSION, table.sha256, k, "cosine", *method)[:32]
    last = LAST_NEIGHBORS.find(lambda other: other == key)
    if last is not None:
        return last
    folder = Path(cache) / f"knn-{key}" if cache is not None else None
    if folder is not None and _intact(folder):
        group, nearest, similarity = (read_array(folder / name) for name in FILES)
        return EqualRows.from_groups(group.astype(np.int64)), nearest, similarity
    with torch.no_grad():
        rows = EqualRows.of(part for _, part in _unit_blocks(table, present, device))
        # In the order of their content, so that rounding does not depend on the order of the items either.
        unit = _unit_rows(table, present[rows.first], device, cache)
        if approximate is None:
            cosines, nearest_groups = all_neighbors(unit, k, cluster)
        else:
            cosines, nearest_groups = approximate_neighbors(unit, k, *approximate, cluster)
    similarity = cosines.numpy()
    nearest = nearest_groups.numpy().astype(np.int32)
    if folder is not None:
        arrays = (rows.group.astype(np.int32), nearest, similarity)
        with explain_os_errors(folder, GraphError):
            hashes = {
                name: write_array(folder / name, array) for name, array in zip(FILES, arrays, strict=True)
            }
            write_json(folder / "manifest.json", hashes)
    if nearest.nbytes + similarity.nbytes <= KEPT_BYTES:
        LAST_NEIGHBORS.add(key, (rows, nearest, similarity))
    return rows, nearest, similarity


def _intact(folder: Path) -> bool:
    """Whether the files of cached neighbors have the recorded sha256."""
    try:
        hashes = {name: sha256_file(folder / name) for name in FILES}
        return bool(read_json(folder / "manifest.json", GraphError) == hashes)
    except (GraphError, OSError):
        return False


def _unit_rows(
    table: FeatureTable, rows: np.ndarray, device: str | torch.device, folder: str | Path | None = None
) -> Tensor:
    """The vectors of some items ``(n, d) float32`` scaled to length one, read in blocks into one copy."""
    shape = len(rows), table.dim
    if 4 * len(rows) * table.dim > IN_MEMORY and torch.device(device).type == "cpu":
        unit = torch.from_numpy(_temporary_array(shape, folder))
    else:
        unit = torch.empty(shape, device=device)
    for start, part in _unit_blocks(table, rows, device):
        unit[start : start + len(part)] = part
    return unit


def _unit_blocks(
    table: FeatureTable, rows: np.ndarray, device: str | torch.device
) -> Iterator[tuple[int, Tensor]]:
    """The vectors of some items scaled to length one, in blocks with the position of their first row."""
    step = max(1, READ_BYTES // (4 * table.dim))
    for start in range(0, len(rows), step):
        part = table.take(rows[start : start + step])
        yield start, unit_length(torch.from_numpy(part).to(device))


def _temporary_array(shape: tuple[int, int], folder: str | Path | None) -> np.ndarray:
    """A float32 array in an unnamed temporary file that disappears with the array."""
    size = 4 * shape[0] * shape[1]
    try:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # Allocate all blocks now: writing to a page without one would kill the process (SIGBUS).
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as cause:
        where = folder or tempfile.gettempdir()
        raise GraphError(
            f"{where}: no room for {size / 2**30:.1f} GiB of features ({cause.strerror}); "
            "free space there, or set the cache directory (graph_cache) to another disk"
        ) from cause

"""Item-item graphs from content: nearest neighbors by cosine, in blocks, cached.

No ``n_items x n_items`` matrix is ever held: memory is the features, scaled to length one, and one block of
similarities; of features of more than :data:`IN_MEMORY` bytes that copy lies in a file. Up to
:data:`EXACT_UP_TO` items every pair is compared. Above, items are divided into clusters, and each is compared
with those of the nearest clusters only, of so many that the wanted share of the true neighbors is found.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from graphrec.core.errors import GraphError
from graphrec.core.files import digest, read_array, read_json, sha256_file, write_array, write_json
from graphrec.core.ray import Cluster
from graphrec.features import FeatureTable
from graphrec.graphs.graph import Graph
from graphrec.graphs.nearest import all_neighbors, approximate_neighbors, nearest_rows, unit_length

VERSION = 2  # part of the cache key: raise it when the neighbors of equal features change
CLUSTER_VERSION = 3  # the same for approximate neighbors
EXACT_UP_TO = 200_000
"""Items up to which ``method="auto"`` compares all pairs."""
IN_MEMORY = 2**32
"""Bytes of scaled features up to which they are held in memory. More lie in a nameless file (in the cache's
folder, else in that for temporary files), which the system keeps in memory as far as there is room."""
READ = 2**26  # bytes of features read at a time
Method = Literal["auto", "exact", "approximate"]


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
    """The directed item-item graph from each item's ``k`` nearest neighbors by cosine, the item itself among
    them.

    Row ``i`` holds the neighbors of item ``i``. Items without the feature have an empty row and an empty
    column.

    Args:
        table: features ``(n_items, d)`` with their ``present`` mask.
        k: neighbors per item, the item included.
        weight: 1 for every neighbor, or the cosine similarity (negative ones are dropped).
        cache: directory for the neighbors, kept under a key of the features' sha256, k, metric, version and,
            where they are approximate, recall and seed.
        device: where to compute.
        method: ``"exact"`` compares all pairs; ``"approximate"`` finds nearly all neighbors in a fraction of
            the time; ``"auto"`` is exact up to :data:`EXACT_UP_TO` items with the feature.
        recall: least share of the true neighbors that the approximate form finds, on average over items.
            It is measured on a sample, and held with a margin for that. Features without any clusters need
            nearly all comparisons, and then get them: the result is exact.
        seed: of the clusters; the same seed gives the same neighbors on the same machine with the same
            number of threads.
        cluster: where to compare; default: in this process. The neighbors are the same to the bit on
            machines of the same kind, and kept in ``cache`` under the same key.

    Raises:
        GraphError: ``k`` is below 1, no item has the feature, or ``method`` or ``recall`` is none.
        ClusterError: the cluster cannot be reached, has no room, or lost its workers too often.
        MissingDependencyError: a cluster without Ray.
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
    neighbors, similarity = _cached_neighbors(table, present, k, approximate, cache, device, cluster)
    n = len(table.present)
    source, target = neighbors.ravel(), np.repeat(present, neighbors.shape[1])
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
        k: neighbors per modality.
        to: items to place ``(n_items,) bool``.
        of: items that may be neighbors ``(n_items,) bool``.
    """
    n = len(to)
    total = np.zeros(n)
    found: list[tuple[np.ndarray, np.ndarray, float]] = []
    for modality, weight in weights.items():
        table = tables[modality]
        queries, keys = np.flatnonzero(table.present & to), np.flatnonzero(table.present & of)
        if weight > 0 and len(queries) and len(keys):
            with torch.no_grad():
                some, others = (_unit_rows(table, rows, "cpu") for rows in (queries, keys))
                neighbors = keys[nearest_rows(some, others, k, unit=True)[1].numpy()]  # (n_queries, k)
            found.append((queries, neighbors, weight))
            total[queries] += weight
    source = np.concatenate([nb.ravel() for _, nb, _ in found]) if found else np.zeros(0, np.int64)
    target = np.concatenate([np.repeat(q, nb.shape[1]) for q, nb, _ in found]) if found else source
    share = [np.repeat(w / total[q] / nb.shape[1], nb.shape[1]) for q, nb, w in found]
    weight_array = np.concatenate(share) if found else np.zeros(0)
    return Graph.from_edges(source, target, weight_array, n_source=n, n_target=n, repeated="sum")


def _cached_neighbors(
    table: FeatureTable,
    present: np.ndarray,
    k: int,
    approximate: tuple[float, int] | None,
    cache: str | Path | None,
    device: str | torch.device,
    cluster: Cluster | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbors as item indices ``(n_present, k)`` and cosine similarities, from the cache where it holds
    them; exact unless ``approximate`` gives a recall and a seed.
    """
    method = () if approximate is None else ("clusters", CLUSTER_VERSION, *approximate)
    key = digest("knn", VERSION, table.sha256, k, "cosine", *method)[:32]
    folder = Path(cache) / f"knn-{key}" if cache is not None else None
    if folder is not None and _intact(folder):
        return read_array(folder / "neighbors.npy"), read_array(folder / "similarity.npy")
    with torch.no_grad():
        unit = _unit_rows(table, present, device, cache)
        if approximate is None:
            found = all_neighbors(unit, k, cluster)
        else:
            found = approximate_neighbors(unit, k, *approximate, cluster)
    similarity, neighbors = found[0].numpy(), present[found[1].numpy()].astype(np.int32)
    if folder is not None:
        hashes = {
            "neighbors.npy": write_array(folder / "neighbors.npy", neighbors),
            "similarity.npy": write_array(folder / "similarity.npy", similarity),
        }
        write_json(folder / "manifest.json", hashes)
    return neighbors, similarity


def _intact(folder: Path) -> bool:
    """Whether both files of cached neighbors are there as they were written."""
    try:
        found = {name: sha256_file(folder / name) for name in ("neighbors.npy", "similarity.npy")}
        return bool(read_json(folder / "manifest.json", GraphError) == found)
    except (GraphError, OSError):
        return False


def _unit_rows(
    table: FeatureTable, rows: np.ndarray, device: str | torch.device, folder: str | Path | None = None
) -> Tensor:
    """The vectors of some items ``(n, d) float32`` scaled to length one: read in blocks, so one copy."""
    shape = len(rows), table.dim
    if 4 * len(rows) * table.dim > IN_MEMORY and torch.device(device).type == "cpu":
        unit = torch.from_numpy(_scratch(shape, folder))
    else:
        unit = torch.empty(shape, device=device)
    step = max(1, READ // (4 * table.dim))
    for start in range(0, len(rows), step):
        part = table.take(rows[start : start + step])
        unit[start : start + len(part)] = unit_length(torch.from_numpy(part).to(device))
    return unit


def _scratch(shape: tuple[int, int], folder: str | Path | None) -> np.ndarray:
    """A float32 array in a nameless file, which is gone with the array.

    Raises:
        GraphError: there is no room for it.
    """
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    size = 4 * shape[0] * shape[1]
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Room is taken at once: a page without any would end the process (SIGBUS).
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as cause:
        where = folder or tempfile.gettempdir()
        raise GraphError(
            f"{where}: no room for {size / 2**30:.1f} GiB of features while neighbors are looked for "
            f"({cause.strerror}); make room there, or give a cache elsewhere (graph_cache)"
        ) from cause

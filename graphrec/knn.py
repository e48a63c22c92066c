"""Item-item graphs from content: exact nearest neighbours by cosine, in blocks, cached.

No ``n_items x n_items`` matrix is ever held: memory is the features and one block of similarities.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from graphrec.atomic import digest, read_array, read_json, sha256_file, write_array, write_json
from graphrec.errors import GraphError
from graphrec.graph import Graph
from graphrec.store import FeatureTable
from graphrec.topk import topk

VERSION = 1  # part of the cache key: raise it when the neighbours of equal features change


def nearest_rows(
    queries: Tensor, keys: Tensor, k: int, block: tuple[int, int] = (1024, 16384)
) -> tuple[Tensor, Tensor]:
    """The ``k`` keys most cosine-similar to each query, exactly, in blocks: never ``n_queries x n_keys`` at
    once.

    Args:
        queries: ``(Q, d)`` float, rows not zero.
        keys: ``(N, d)`` float, rows not zero.
        k: how many; fewer keys give fewer columns.
        block: rows of queries and of keys per product; bounds the extra memory to their product.

    Returns:
        similarities ``(Q, min(k, N))`` descending and key rows of the same shape; ties by lowest row.
    """
    keys = torch.nn.functional.normalize(keys.float(), dim=1)
    k = min(k, len(keys))
    values = torch.empty(len(queries), k)
    rows = torch.empty(len(queries), k, dtype=torch.int64)
    for start in range(0, len(queries), block[0]):
        query = torch.nn.functional.normalize(queries[start : start + block[0]].float(), dim=1)  # (b, d)
        best, at = (
            query.new_empty(len(query), 0),
            torch.empty(len(query), 0, dtype=torch.int64, device=query.device),
        )
        for offset in range(0, len(keys), block[1]):
            similarity = query @ keys[offset : offset + block[1]].T  # (b, at most block[1])
            found, columns = topk(similarity, min(k, similarity.shape[1]))
            # Candidates stand in ascending row order among equals, so the stable merge keeps the lowest rows.
            both, where = torch.cat([best, found], 1), torch.cat([at, columns + offset], 1)
            order = both.sort(dim=1, descending=True, stable=True).indices[:, :k]
            best, at = both.gather(1, order), where.gather(1, order)
        values[start : start + len(query)], rows[start : start + len(query)] = best.cpu(), at.cpu()
    return values, rows


def knn(
    table: FeatureTable,
    k: int,
    *,
    weight: Literal["binary", "cosine"] = "binary",
    cache: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Graph:
    """The directed item-item graph from each item's ``k`` nearest neighbours by cosine, the item itself among
    them.

    Row ``i`` holds the neighbours of item ``i``. Items without the feature have an empty row and an empty
    column.

    Args:
        table: features ``(n_items, d)`` with their ``present`` mask.
        k: neighbours per item, the item included.
        weight: 1 for every neighbour, or the cosine similarity (negative ones are dropped).
        cache: directory for the neighbours, kept under a key of the features' sha256, k, metric and version.
        device: where to compute.

    Raises:
        GraphError: ``k`` is below 1 or no item has the feature.
    """
    if k < 1:
        raise GraphError(f"k = {k}; expected at least 1")
    present = np.flatnonzero(table.present)
    if not len(present):
        raise GraphError("no item has this feature; a kNN graph needs at least one")
    neighbours, similarity = _cached_neighbours(table, present, k, cache, device)
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


def _cached_neighbours(
    table: FeatureTable, present: np.ndarray, k: int, cache: str | Path | None, device: str | torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours as item indices ``(n_present, k)`` and cosine similarities, from the cache where it holds
    them.
    """
    key = digest("knn", VERSION, table.sha256, k, "cosine")[:32]
    folder = Path(cache) / f"knn-{key}" if cache is not None else None
    if folder is not None and _intact(folder):
        return read_array(folder / "neighbours.npy"), read_array(folder / "similarity.npy")
    features = torch.from_numpy(table.rows(present).astype(np.float32)).to(device)
    similarity, rows = nearest_rows(features, features, k)
    neighbours = present[rows.numpy()].astype(np.int32)
    if folder is not None:
        hashes = {
            "neighbours.npy": write_array(folder / "neighbours.npy", neighbours),
            "similarity.npy": write_array(folder / "similarity.npy", similarity.numpy()),
        }
        write_json(folder / "manifest.json", hashes)
    return neighbours, similarity.numpy()


def _intact(folder: Path) -> bool:
    """Whether both files of cached neighbours are there as they were written."""
    try:
        found = {name: sha256_file(folder / name) for name in ("neighbours.npy", "similarity.npy")}
        return bool(read_json(folder / "manifest.json", GraphError) == found)
    except (GraphError, OSError):
        return False

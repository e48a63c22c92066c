"""Inverted lists over item vectors, for the largest inner products among millions of items.

Items are divided among lists by k-means (nearest centroid, L2). A search ranks the lists by the inner product
of the query with their centroids, which is the mean score of their items, and looks through the first of them
(Jégou et al., Product Quantization for Nearest Neighbor Search, TPAMI 2011, section IV, without the
quantization: https://doi.org/10.1109/TPAMI.2010.57). FAISS trains, assigns and scans.

The lists lie in one ``.npy`` of bytes, each list's vectors followed by its items' indices, as FAISS's
``OnDiskInvertedLists`` has them in memory, so opening maps the file and a search reads what it looks through.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphrec.core.bundle import Committed, FileFormat, Write, commit
from graphrec.core.errors import CheckpointError, ConfigError, missing_dependency
from graphrec.core.files import atomic_write, digest, read_array, sha256_file, write_array
from graphrec.core.random import numpy_rng
from graphrec.core.topk import topk
from graphrec.serving.exact import retrieve

FORMAT = FileFormat("index")
HEAD = "index.json"
REMEDY = "build the index again"
BLOCK = 2**18  # items handled at once while building
SAMPLE = 512  # queries that the number of probes is chosen on, and as many that it is measured on
POINTS = 40  # training vectors a list
ROUNDS = 10  # of k-means
CONFIDENCE = 2.576  # standard errors: with 199 samples in 200 the recall is at least the wanted one


class Facts(NamedTuple):
    """What is known of built lists.

    Attributes:
        items: how many there are.
        lists: how many they are divided among.
        probes: lists that a search looks through at first.
        wanted: the recall that ``probes`` was chosen for.
        recall: the recall of queries that were not used for choosing.
        k: answers a query that recall is measured on.
        queries: how many it was measured on.
        scanned: mean share of the items that such a query is compared with.
    """

    items: int
    lists: int
    probes: int
    wanted: float
    recall: float
    k: int
    queries: int
    scanned: float


class Lists:
    """Inverted lists opened for searching; safe to search from several threads.

    Args:
        saved: the committed directory.
        part: which lists of it.

    Attributes:
        facts: what is known of them.

    Raises:
        CheckpointError: a file is missing or damaged.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """

    def __init__(self, saved: Committed, part: str) -> None:
        faiss = _faiss()
        self.facts = Facts(**saved.head["parts"][part])
        centroids, sizes = (
            read_array(saved.file(f"{part}_{what}"), CheckpointError) for what in ("centroids", "sizes")
        )
        path = saved.file(f"{part}_lists")
        held = read_array(path, CheckpointError, mmap=True)
        # FAISS would read beyond a file that is too short.
        if len(sizes) != len(centroids) or held.nbytes != int(sizes.sum()) * _entry(centroids.shape[1]):
            raise CheckpointError(f"{path}: holds {held.nbytes:,} bytes, not what its lists need; {REMEDY}")
        self._centroids = torch.from_numpy(centroids)  # (lists, d)
        n_lists, dim = centroids.shape
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(centroids)
        stored = faiss.OnDiskInvertedLists(n_lists, 4 * dim, str(path))
        stored.read_only = True
        stored.totsize = path.stat().st_size
        begins = stored.totsize - held.nbytes + np.cumsum(sizes) * _entry(dim) - sizes * _entry(dim)
        stored.lists.clear()
        for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
            one = faiss.OnDiskOneList()
            one.offset, one.size, one.capacity = begin, size, size
            stored.lists.push_back(one)
        stored.do_mmap()
        index = faiss.IndexIVFFlat(quantizer, dim, n_lists, faiss.METRIC_INNER_PRODUCT)
        index.is_trained, index.ntotal = True, self.facts.items
        index.parallel_mode = 3  # over queries
        index.replace_invlists(stored, False)
        self._index, self._kept = index, (quantizer, stored)  # FAISS does not hold them by itself

    def search(self, queries: Tensor, width: int, probes: int) -> tuple[np.ndarray, np.ndarray]:
        """The items with the largest inner products in the first ``probes`` lists of each query.

        Args:
            queries: ``(B, d) float32``.
            width: how many items.
            probes: how many lists.

        Returns:
            scores ``(B, width) float32`` descending and item indices ``(B, width) int64``, among equal scores
            ascending; where the lists hold fewer, ``-inf`` and -1. Which of several items with the last score
            are found is left open.
        """
        faiss = _faiss()
        n, probes = len(queries), min(probes, self.facts.lists)
        near, lists = (t.numpy() for t in _ranked(queries, self._centroids, probes))
        rows = np.ascontiguousarray(queries.numpy(), dtype=np.float32)
        scores, items = np.empty((n, width), np.float32), np.empty((n, width), np.int64)
        ours = faiss.SearchParametersIVF(nprobe=probes)
        given = [np.ascontiguousarray(array) for array in (lists, near)]
        pointers = [faiss.swig_ptr(a) for a in (rows, *given, scores, items)]
        if n:
            self._index.search_preassigned_c(n, pointers[0], width, *pointers[1:], False, ours)
        scores[items < 0] = -np.inf
        order = np.lexsort((items, -scores), axis=1)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(items, order, 1)


class Part(NamedTuple):
    """What lists are built for.

    Attributes:
        vectors: of the items ``(n, d) float32``, possibly memory-mapped.
        queries: gives vectors ``(q, d) float32`` of up to so many queries, drawn at random.
        unit: whether the items' vectors count as of length one.
    """

    vectors: np.ndarray
    queries: Callable[[int, np.random.Generator], np.ndarray]
    unit: bool = False

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First index and vectors of each block; pages of a mapped file are let go of after it."""
        for start in range(0, len(self.vectors), BLOCK):
            yield start, self.rows(slice(start, start + BLOCK))
            # Mapped pages that were read count as this process's memory until they are wanted elsewhere.
            mapped = getattr(self.vectors, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def rows(self, which: Any) -> np.ndarray:
        """A copy of some of the vectors."""
        found = torch.from_numpy(np.array(self.vectors[which], dtype=np.float32))
        return np.asarray((torch.nn.functional.normalize(found, dim=1) if self.unit else found).numpy())


def build(
    path: Path,
    parts: dict[str, Part],
    about: dict[str, Any],
    recall: float,
    k: int,
    lists: int | None,
    seed: int,
) -> None:
    """Builds lists and commits them as a directory; what was there stays whole until they are.

    Memory is that of a block of items and of a training sample, besides four bytes an item. The same seed
    gives the same lists where FAISS and the number of threads are the same.

    Args:
        path: the directory.
        parts: what to build for, by name.
        about: facts to record, JSON-able.
        recall: the share of the ``k`` best items that a search is to find on average, above 0 and up to 1.
        k: see ``recall``.
        lists: how many lists; default: four times the square root of the number of items.
        seed: of the training sample, k-means and the queries.

    Raises:
        ConfigError: an option is out of range.
        CheckpointError: the directory cannot be written.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    _faiss()
    if isinstance(recall, bool) or not 0 < recall <= 1:
        raise ConfigError(f"recall = {recall!r}; expected a number above 0 and up to 1, such as 0.95")
    n = min(len(part.vectors) for part in parts.values())
    for name, value, most in (("k", k, n), ("lists", lists, n)):
        if value is not None and (isinstance(value, bool) or not 1 <= value <= max(1, most)):
            raise ConfigError(f"{name} = {value!r}; expected a whole number from 1 to {most:,}, the items")
    files: dict[str, tuple[str, str, Write]] = {}
    facts: dict[str, Any] = {}
    for name, part in parts.items():
        centroids = _train(part, lists or _default(n), numpy_rng(seed, f"index/{name}"))
        assigned = _assign(part, centroids)
        sizes = np.bincount(assigned, minlength=len(centroids)).astype(np.int64)
        facts[name] = _chosen(
            part, centroids, assigned, sizes, recall, k, numpy_rng(seed, f"recall/{name}")
        )._asdict()
        content = digest(about, centroids, assigned)
        files[f"{name}_centroids"] = (digest(centroids), "npy", partial(write_array, array=centroids))
        files[f"{name}_sizes"] = (digest(sizes), "npy", partial(write_array, array=sizes))
        files[f"{name}_lists"] = (
            content,
            "npy",
            partial(_write_lists, part=part, assigned=assigned, sizes=sizes),
        )
    commit(path / HEAD, FORMAT, {"parts": facts, **about}, files, retry=REMEDY)


def opened(path: Path) -> Committed:
    """A directory that :func:`build` wrote.

    Raises:
        CheckpointError: the directory's head is missing or damaged.
    """
    return Committed(path / HEAD, FORMAT, REMEDY)


def _default(n: int) -> int:
    """Lists so long that ranking them and looking through some cost about the same."""
    return max(1, min(int(4 * n**0.5), n // POINTS))


def _train(part: Part, lists: int, rng: np.random.Generator) -> np.ndarray:
    """Centroids ``(lists, d) float32`` by k-means on a sample."""
    faiss, (n, dim) = _faiss(), part.vectors.shape
    sample = np.sort(rng.choice(n, min(n, POINTS * lists), replace=False))
    chosen = np.empty((len(sample), dim), dtype=np.float32)
    for start, rows in part.blocks():  # in order, which no disk minds
        begin, end = np.searchsorted(sample, [start, start + len(rows)])
        chosen[begin:end] = rows[sample[begin:end] - start]
    means = faiss.Kmeans(
        dim, lists, niter=ROUNDS, seed=int(rng.integers(2**31)), min_points_per_centroid=1,
        max_points_per_centroid=POINTS,
    )  # fmt: skip
    means.train(chosen)
    return np.array(means.centroids, dtype=np.float32)


def _assign(part: Part, centroids: np.ndarray) -> np.ndarray:
    """Each item's list ``(n,) int32``: that of the nearest centroid."""
    nearest = _faiss().IndexFlatL2(centroids.shape[1])
    nearest.add(centroids)
    assigned = np.empty(len(part.vectors), dtype=np.int32)
    for start, rows in part.blocks():
        assigned[start : start + len(rows)] = nearest.search(rows, 1)[1][:, 0]
    return assigned


def _chosen(
    part: Part,
    centroids: np.ndarray,
    assigned: np.ndarray,
    sizes: np.ndarray,
    wanted: float,
    k: int,
    rng: np.random.Generator,
) -> Facts:
    """The number of probes that a sample of queries needs, and what it comes to on another."""
    queries = torch.from_numpy(np.ascontiguousarray(part.queries(2 * SAMPLE, rng), dtype=np.float32))
    n_lists = len(centroids)
    _, order = (t.numpy() for t in _ranked(queries, torch.from_numpy(centroids), n_lists))  # (q, lists)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(n_lists), order.shape), 1)
    best = exact(part, queries, k)  # (q, k)
    needed = np.take_along_axis(rank, assigned[best].astype(np.int64), 1)  # probes before each is found
    half = len(needed) // 2 if len(needed) == 2 * SAMPLE else 0  # few queries choose and measure
    chosen, measured = needed[half:], needed[: half or None]
    probes = n_lists
    if len(chosen):
        per_query = np.zeros((len(chosen), n_lists + 1))  # found in the first p lists
        np.add.at(per_query, (np.arange(len(chosen))[:, None], chosen + 1), 1 / k)
        found = per_query.cumsum(1)
        sure = found.mean(0) - CONFIDENCE * found.std(0) / len(chosen) ** 0.5
        probes = (
            min(n_lists, int(np.argmax(sure >= wanted - 1e-9))) if (sure >= wanted - 1e-9).any() else n_lists
        )
    got = float((measured < probes).mean()) if measured.size else 1.0
    scanned = float(sizes[order[:, :probes]].sum(1).mean() / max(1, len(assigned))) if len(order) else 1.0
    return Facts(len(assigned), n_lists, probes, wanted, got, k, len(measured), scanned)


def exact(part: Part, queries: Tensor, k: int) -> np.ndarray:
    """The ``k`` best items ``(B, k) int64`` of each query by comparing it with all, a block at a time.

    Args:
        part: the items.
        queries: ``(B, d) float32``.
        k: at most as many as there are items.
    """
    best, at = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start, rows in part.blocks():
        found, item = retrieve(queries, torch.from_numpy(rows), min(k, len(rows)), lambda *_: None)
        both = torch.cat([best, found], 1)
        best, chosen = topk(both, min(k, both.shape[1]))  # earlier items stand before later ones
        at = torch.cat([at, item + start], 1).gather(1, chosen)
    return np.asarray(at.numpy())


def _write_lists(path: Path, part: Part, assigned: np.ndarray, sizes: np.ndarray) -> str:
    """Writes the lists, block by block into their places; returns the file's sha256."""
    dim = part.vectors.shape[1]
    begins = np.concatenate([[0], np.cumsum(sizes)])[:-1] * _entry(dim)  # of each list, in bytes
    filled = np.zeros(len(sizes), dtype=np.int64)  # entries written
    with atomic_write(path) as file:
        shape = (int(sizes.sum()) * _entry(dim),)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        header, handle = file.tell(), file.fileno()
        os.truncate(handle, header + shape[0])
        for start, rows in part.blocks():
            lists = assigned[start : start + len(rows)]
            order = np.argsort(lists, kind="stable")
            rows, items = rows[order], (order + start).astype("<i8")
            present, first = np.unique(lists[order], return_index=True)
            for at, begin, end in zip(present, first, [*first[1:], len(order)], strict=True):
                vectors_at = header + begins[at] + filled[at] * 4 * dim
                items_at = header + begins[at] + sizes[at] * 4 * dim + filled[at] * 8
                _put(handle, rows[begin:end], int(vectors_at))
                _put(handle, items[begin:end], int(items_at))
                filled[at] += end - begin
        file.flush()
        return sha256_file(file.name)


def _put(handle: int, values: np.ndarray, offset: int) -> None:
    left = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    while left:  # the system may take less than it was given
        done = os.pwrite(handle, left, offset)
        left, offset = left[done:], offset + done


def _ranked(queries: Tensor, centroids: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """Inner products with the nearest centroids and their lists, ``(B, probes)``."""
    return retrieve(queries, centroids, probes, lambda *_: None)


def _entry(dim: int) -> int:
    """Bytes of an item in a list: its vector and its index."""
    return 4 * dim + 8


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as cause:
        raise missing_dependency("faiss-cpu", "ann") from cause
    return faiss

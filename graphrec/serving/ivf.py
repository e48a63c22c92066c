"""The FAISS index of item vectors: built in bounded memory, committed as files, opened by memory mapping.

Items are divided among inverted lists (:mod:`graphrec.graphs.ivf`). A search ranks the lists by the inner
product of the query with their centroids, which is the mean score of their items, and scans the first of
them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphrec.core.bundle import Committed, FileFormat, Write, commit
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import atomic_write, digest, read_array, read_json, sha256_file, write_bytes
from graphrec.core.random import numpy_rng
from graphrec.core.topk import merge_topk
from graphrec.graphs.ivf import assign_lists, draw_sample, fewest_probes, import_faiss, train_centroids
from graphrec.serving.exact import retrieve

FORMAT = FileFormat("index", 2, {1: dict})  # the files of version 1 are rewritten by open_directory
HEAD = "index.json"
REMEDY = "build the index again (graphrec index)"
BLOCK = 2**18
"""Items handled at once while building."""
SAMPLE = 512
"""Queries on which the number of probes is chosen, and as many on which recall is measured."""
POINTS = 40
"""Training vectors per list."""


class Facts(NamedTuple):
    """What is known of built lists.

    Attributes:
        items: how many there are.
        lists: how many they are divided among.
        probes: lists that a search scans at first.
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
        part: name of the lists in it.

    Attributes:
        facts: what is known of them.

    Raises:
        CheckpointError: a file is missing or damaged.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """

    def __init__(self, saved: Committed, part: str) -> None:
        faiss = import_faiss()
        self.facts = Facts(**saved.head["parts"][part])
        index_file, lists_file = saved.file(f"{part}_index"), saved.file(f"{part}_lists")
        # The index file names its lists' file without a folder. By default FAISS looks for it in the current
        # folder; with IO_FLAG_ONDISK_SAME_DIR it finds the file, and prints that it did.
        flags = faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_READ_ONLY
        self._index = faiss.read_index(str(index_file), flags)
        stored = faiss.downcast_InvertedLists(self._index.invlists)
        if stored.totsize != lists_file.stat().st_size:  # FAISS would read beyond a file that is too short
            raise CheckpointError(
                f"{lists_file}: has {lists_file.stat().st_size:,} bytes; {index_file.name} expects "
                f"{stored.totsize:,}; {REMEDY}"
            )
        stored.filename = str(lists_file)
        stored.do_mmap()
        self._index.parallel_mode = 3  # over queries
        quantizer = faiss.downcast_index(self._index.quantizer)
        self._centroids = torch.from_numpy(quantizer.reconstruct_n(0, self.facts.lists))  # (lists, d)
        self._lock = threading.Lock()

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
        probes = min(probes, self.facts.lists)
        near, lists = (t.numpy() for t in _rank_lists(queries, self._centroids, probes))
        with self._lock:  # the number of probes is an attribute of the index
            self._index.nprobe = probes
            scores, items = self._index.search_preassigned(queries.numpy(), width, lists, near)
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
        """First index and vectors of each block; pages of a mapped file are released after it."""
        for start in range(0, len(self.vectors), BLOCK):
            yield start, self.rows(slice(start, start + BLOCK))
            # Mapped pages that were read count as this process's memory until they are needed elsewhere.
            mapped = getattr(self.vectors, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def rows(self, which: Any) -> np.ndarray:
        """A copy of some of the vectors."""
        found = torch.from_numpy(np.array(self.vectors[which], dtype=np.float32))
        return np.asarray((torch.nn.functional.normalize(found, dim=1) if self.unit else found).numpy())


def build(
    path: Path,
    parts: Mapping[str, Part],
    about: dict[str, Any],
    recall: float,
    k: int,
    lists: int | None,
    seed: int,
) -> Committed:
    """Builds lists and commits them as a directory; what was there stays intact until they are.

    Memory is that of a block of items and of a training sample, besides four bytes an item; meanwhile the
    lists take their place on disk twice. The same seed gives the same lists where FAISS and the number of
    threads are the same.

    Args:
        path: the directory.
        parts: what to build for, by name.
        about: facts to record, JSON-able.
        recall: the share of the ``k`` best items that a search is to find on average, above 0 and up to 1.
        k: see ``recall``.
        lists: how many lists; default: four times the square root of the number of items.
        seed: of the training sample, k-means and the queries.

    Returns:
        The directory, opened.

    Raises:
        ConfigError: an option is out of range.
        CheckpointError: the directory cannot be written.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    import_faiss()
    if isinstance(recall, bool) or not 0 < recall <= 1:
        raise ConfigError(f"recall = {recall!r}; expected a number above 0 and up to 1, such as 0.95")
    n = min(len(part.vectors) for part in parts.values())
    for name, value, most in (("k", k, n), ("lists", lists, n)):
        if value is not None and (isinstance(value, bool) or not 1 <= value <= max(1, most)):
            raise ConfigError(f"{name} = {value!r}; expected a whole number from 1 to {most:,}, the items")
    n_lists = lists or max(1, min(int(4 * n**0.5), n // POINTS))  # ranking and scanning cost about the same
    files: dict[str, tuple[str, str, Write]] = {}
    facts: dict[str, Any] = {}
    for name, part in parts.items():
        centroids = _train(part, n_lists, numpy_rng(seed, f"index/{name}"))
        assigned = assign_lists(part.blocks(), len(part.vectors), centroids)
        facts[name] = _choose_probes(
            part, centroids, assigned, recall, k, numpy_rng(seed, f"recall/{name}")
        )._asdict()
        files |= _files(name, part, centroids, assigned, about)
    commit(path / HEAD, FORMAT, {"parts": facts, **about}, files, retry=REMEDY)
    return Committed(path / HEAD, FORMAT, REMEDY)


def open_directory(path: Path, parts: Mapping[str, Part], about: Mapping[str, Any]) -> Committed | None:
    """A directory that :func:`build` wrote; None if it was built for something else.

    An index of format 1, which graphrec wrote up to November 2026, is first written in the present format,
    with the same lists.

    Args:
        path: the directory.
        parts: what the lists were built for, by name.
        about: the facts that :func:`build` was given.

    Raises:
        CheckpointError: a file is missing or damaged, or an index of format 1 cannot be written anew.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    head = read_json(path / HEAD, CheckpointError)
    earlier = isinstance(head, dict) and head.get("format") == 1
    saved = Committed(path / HEAD, FORMAT, REMEDY)
    if any(saved.head.get(key) != value for key, value in about.items()):
        return None
    if not earlier:
        return saved
    files: dict[str, tuple[str, str, Write]] = {}
    for name in saved.head["parts"]:
        centroids, sizes = (
            read_array(saved.file(f"{name}_{array}"), CheckpointError) for array in ("centroids", "sizes")
        )
        lists = read_array(saved.file(f"{name}_lists"), CheckpointError, mmap=True)
        # Each list is its vectors followed by the indices of its items.
        ends = np.cumsum(sizes) * (4 * centroids.shape[1] + 8)
        assigned = np.empty(sizes.sum(), dtype=np.int32)
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            assigned[lists[end - 8 * size : end].view("<i8")] = number
        files |= _files(name, parts[name], centroids, assigned, about)
    commit(path / HEAD, FORMAT, saved.head, files, retry=REMEDY)
    return Committed(path / HEAD, FORMAT, REMEDY)


def exact_search(part: Part, queries: Tensor, k: int) -> np.ndarray:
    """The ``k`` best items ``(B, k) int64`` of each query by comparing it with all, a block at a time.

    Args:
        part: the items.
        queries: ``(B, d) float32``.
        k: at most as many as there are items.
    """
    best = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start, vectors in part.blocks():
        values, rows = retrieve(queries, torch.from_numpy(vectors), min(k, len(vectors)), lambda *_: None)
        best = merge_topk(best, (values, rows + start), k)
    return np.asarray(best[1].numpy())


def _train(part: Part, n_lists: int, rng: np.random.Generator) -> np.ndarray:
    """Centroids ``(n_lists, d) float32``."""
    sample = draw_sample(len(part.vectors), POINTS * n_lists, rng)
    vectors = np.empty((len(sample), part.vectors.shape[1]), dtype=np.float32)
    for start, rows in part.blocks():  # reads the file from beginning to end, which suits any disk
        begin, end = np.searchsorted(sample, [start, start + len(rows)])
        vectors[begin:end] = rows[sample[begin:end] - start]
    return train_centroids(vectors, n_lists, rng)


def _choose_probes(
    part: Part, centroids: np.ndarray, assigned: np.ndarray, wanted: float, k: int, rng: np.random.Generator
) -> Facts:
    """The number of probes that a sample of queries needs, and the recall it gives on another sample."""
    queries = torch.from_numpy(np.ascontiguousarray(part.queries(2 * SAMPLE, rng), dtype=np.float32))
    n_lists = len(centroids)
    _, order = (t.numpy() for t in _rank_lists(queries, torch.from_numpy(centroids), n_lists))  # (q, lists)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(n_lists), order.shape), 1)
    best = exact_search(part, queries, k)  # (q, k)
    needed = np.take_along_axis(rank, assigned[best].astype(np.int64), 1)  # probes before each is found
    half = len(needed) // 2 if len(needed) == 2 * SAMPLE else 0  # few queries both choose and measure
    measured = needed[: half or None]
    probes = fewest_probes(needed[half:], n_lists, wanted)
    recall = float((measured < probes).mean()) if measured.size else 1.0
    sizes = np.bincount(assigned, minlength=n_lists)
    scanned = float(sizes[order[:, :probes]].sum(1).mean() / max(1, len(assigned))) if len(order) else 1.0
    return Facts(len(assigned), n_lists, probes, wanted, recall, k, len(measured), scanned)


def _files(
    name: str, part: Part, centroids: np.ndarray, assigned: np.ndarray, about: Mapping[str, Any]
) -> dict[str, tuple[str, str, Write]]:
    """The two files of some lists, as :func:`~graphrec.core.bundle.commit` takes them.

    The lists come first: the FAISS index refers to them.
    """
    faiss = import_faiss()
    n_lists, dim = centroids.shape
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(centroids)
    index = faiss.IndexIVFFlat(quantizer, dim, n_lists, faiss.METRIC_INNER_PRODUCT)
    content = digest(dict(about), centroids, assigned)
    return {
        f"{name}_lists": (content, "faiss", partial(_write_lists, index=index, part=part, assigned=assigned)),
        f"{name}_index": (content, "faiss", partial(_write_index, index=index)),
    }


def _write_lists(path: Path, index: Any, part: Part, assigned: np.ndarray) -> str:
    """Writes the lists, which ``index`` then refers to; returns the file's sha256.

    Each block of items becomes an index in a temporary file, and FAISS merges their mapped lists
    (https://github.com/facebookresearch/faiss/blob/main/demos/demo_ondisk_ivf.py).
    """
    faiss = import_faiss()
    from faiss.contrib.ivf_tools import add_preassigned

    path.parent.mkdir(parents=True, exist_ok=True)
    blocks: list[Path] = []
    try:
        for start, vectors in part.blocks():
            items = np.arange(start, start + len(vectors), dtype=np.int64)
            index.reset()
            add_preassigned(index, vectors, assigned[items].astype(np.int64), items)
            blocks.append(path.with_name(f".{path.name}.{os.getpid()}-{start}.tmp"))
            _run(faiss.write_index, index, str(blocks[-1]))
        index.reset()
        opened = [faiss.read_index(str(block), faiss.IO_FLAG_MMAP) for block in blocks]
        pointers = faiss.InvertedListsPtrVector()
        for block in opened:
            pointers.push_back(block.invlists)
        with atomic_write(path) as file:
            # A full disk is an error here; where FAISS writes to mapped memory, it would end the process.
            os.posix_fallocate(file.fileno(), 0, max(1, len(assigned) * (index.code_size + 8)))
            lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, file.name)
            with _silent_stdout():
                index.ntotal = _run(lists.merge_from_multiple, pointers.data(), pointers.size())
            lists.filename = path.name
            index.replace_invlists(lists, True)
            lists.this.disown()
            return sha256_file(file.name)
    finally:
        for block in blocks:
            block.unlink(missing_ok=True)


def _write_index(path: Path, index: Any) -> str:
    """Writes centroids, sizes of the lists and the name of their file; returns the file's sha256."""
    write_bytes(path, import_faiss().serialize_index(index).tobytes())
    return sha256_file(path)


def _run(write: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of FAISS that writes a file; its errors become those of the system."""
    try:
        return write(*arguments)
    except RuntimeError as cause:
        raise OSError(str(cause)) from cause


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """FAISS prints the size of a file that it creates, past Python; commands print JSON."""
    buffered = ctypes.CDLL(None)
    sys.stdout.flush()
    buffered.fflush(None)
    stdout, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
        buffered.fflush(None)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)


def _rank_lists(queries: Tensor, centroids: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """Inner products with the nearest centroids and their lists, ``(B, probes)``."""
    return retrieve(queries, centroids, probes, lambda *_: None)

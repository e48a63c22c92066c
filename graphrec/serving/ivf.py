"""The FAISS index of a saved recommender: built in bounded memory, committed as files, opened memory-mapped.

Items are divided among inverted lists (:mod:`graphrec.graphs.ivf`), once for recommendations and once for
similar items.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from graphrec.core.bundle import Committed, FileFormat, Write, commit
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import atomic_write, digest, read_array, read_json, sha256_file, write_bytes
from graphrec.core.progress import silenced
from graphrec.core.random import numpy_rng
from graphrec.graphs.ivf import assign_lists, draw_sample, fewest_probes, import_faiss, train_centroids
from graphrec.serving.exact import retrieve
from graphrec.serving.query import Facts, Limits, Lists, SearchRequest, search_exact
from graphrec.serving.vectors import normalize_rows

FORMAT = FileFormat("index", 2, {1: dict})  # the files of version 1 are rewritten by open_index
HEAD = Path("index", "index.json")
REMEDY = "build the index again (graphrec index)"
BLOCK = 2**18
"""Items handled at once while building."""
SAMPLE = 512
"""Queries on which the number of probes is chosen, and as many on which recall is measured."""
POINTS = 40
"""Training vectors per list."""
Index = dict[str, Lists]
"""Lists by task: ``"recommend"`` and, if built, ``"similar"``."""


class Part(NamedTuple):
    """The items of one task, and the queries that its lists are tuned on.

    Attributes:
        vectors: item vectors ``(n, d) float32``, possibly memory-mapped.
        draw_queries: returns vectors ``(q, d) float32`` of up to so many queries, drawn at random.
        unit: whether the item vectors are scaled to length one.
    """

    vectors: np.ndarray
    draw_queries: Callable[[int, np.random.Generator], np.ndarray]
    unit: bool = False

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First index and vectors of each block; pages of a mapped file are released after it."""
        for start in range(0, len(self.vectors), BLOCK):
            rows = np.array(self.vectors[start : start + BLOCK], dtype=np.float32)
            yield start, np.asarray(normalize_rows(rows)) if self.unit else rows
            # Mapped pages that were read count as this process's memory until they are needed elsewhere.
            mapped = getattr(self.vectors, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)


def build_index(
    folder: Path,
    items: np.ndarray,
    users: np.ndarray,
    vectors_sha256: str | None,
    recall: float,
    k: int,
    lists: int | None,
    similar: bool,
    seed: int,
) -> Index:
    """Builds and opens an index of item vectors ``(n_items, d)`` for user vectors ``(n_users, d)``.

    An earlier index stays intact until this one is complete. Memory is that of a block of items and of a
    training sample, and four bytes per item; meanwhile the lists take their place on disk twice. The same
    seed gives the same lists if FAISS and the number of threads are the same. ``vectors_sha256`` is of the
    file of the item vectors; for the options see :meth:`graphrec.Recommender.build_index`.

    Raises:
        ConfigError: an option is out of range.
        CheckpointError: the directory cannot be written.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    import_faiss()
    if isinstance(recall, bool) or not 0 < recall <= 1:
        raise ConfigError(f"recall = {recall!r}; expected a number above 0 and up to 1, such as 0.95")
    n = len(items)
    for name, value in (("k", k), ("lists", lists)):
        if value is not None and (isinstance(value, bool) or not 1 <= value <= max(1, n)):
            raise ConfigError(f"{name} = {value!r}; expected a whole number from 1 to {n:,}, the items")
    n_lists = lists or max(1, min(int(4 * n**0.5), n // POINTS))  # ranking and scanning cost about the same
    about = {"item_vectors": vectors_sha256}
    files: dict[str, tuple[str, str, Write]] = {}
    facts: dict[str, Any] = {}
    for name, part in _parts(items, users).items():
        if name == "recommend" or similar:
            centroids = _train(part, n_lists, numpy_rng(seed, f"index/{name}"))
            assigned = assign_lists(part.blocks(), n, centroids)
            rng = numpy_rng(seed, f"recall/{name}")
            facts[name] = _choose_probes(part, centroids, assigned, recall, k, rng)._asdict()
            files |= _files(name, part, centroids, assigned, about)
    commit(folder / HEAD, FORMAT, {"parts": facts, **about}, files, retry=REMEDY)
    return _open_lists(folder)


def open_index(
    folder: Path, items: np.ndarray, users: np.ndarray, vectors_sha256: str | None
) -> Index | None:
    """The index of a saved recommender; the arguments are those of :func:`build_index`.

    An index of format 1, which graphrec wrote up to November 2026, is first written in the present format,
    with the same lists.

    Returns:
        None if there is no index or it is of other vectors, as after saving a recommender over another.

    Raises:
        CheckpointError: a file is missing or damaged, or an index of format 1 cannot be rewritten.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    path = folder / HEAD
    if vectors_sha256 is None or not path.exists():
        return None
    head = read_json(path, CheckpointError)
    saved = Committed(path, FORMAT, REMEDY)
    if saved.head.get("item_vectors") != vectors_sha256:
        return None
    if head["format"] == 1:
        files: dict[str, tuple[str, str, Write]] = {}
        parts = _parts(items, users)
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
            files |= _files(name, parts[name], centroids, assigned, {"item_vectors": vectors_sha256})
        commit(path, FORMAT, saved.head, files, retry=REMEDY)
    return _open_lists(folder)


def _open_lists(folder: Path) -> Index:
    saved = Committed(folder / HEAD, FORMAT, REMEDY)
    return {name: Lists(saved, name) for name in saved.head["parts"]}


def _parts(items: np.ndarray, users: np.ndarray) -> dict[str, Part]:
    """The parts of an index: items searched by users, and items searched by items with the cosine."""

    def draw_users(n: int, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(users[_draw(len(users), n, rng)])

    def draw_items(n: int, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(normalize_rows(items[_draw(len(items), n, rng)]))

    return {"recommend": Part(items, draw_users), "similar": Part(items, draw_items, unit=True)}


def _draw(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of up to ``most`` of ``n`` rows, in random order."""
    return rng.permutation(n)[:most] if n < 2**20 else rng.choice(n, most, replace=False, shuffle=True)


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
    queries = torch.from_numpy(np.ascontiguousarray(part.draw_queries(2 * SAMPLE, rng), dtype=np.float32))
    n_lists = len(centroids)
    order = retrieve(queries, torch.from_numpy(centroids), n_lists)[1].numpy()  # (q, lists)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(n_lists), order.shape), 1)
    blocks = ((start, torch.from_numpy(vectors)) for start, vectors in part.blocks())
    _, best = search_exact(SearchRequest(queries, Limits(k)), blocks)  # (q, k)
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
            with silenced(1):  # FAISS prints the size of the file, and commands print JSON
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

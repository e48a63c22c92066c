"""Rows of a stored table as one array, read from its shards; changed files are detected."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.core.files import read_array, sha256_file

Stamp = tuple[int, int, int, int, int]
MAX_OPEN_SHARDS = 32  # every memmap uses a file descriptor, and 1,024 is a common limit


def file_stamp(path: Path) -> Stamp | None:
    """Device, inode, size, mtime and ctime of a file, to detect changes; None if it does not exist.

    Programs can reset the mtime, but not the ctime.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class ShardedRows:
    """The rows ``(N, d)`` of ``.npy`` shards as one read-only array; shards are memory-mapped on use.

    An index is an integer, a slice, an integer array of any shape or a ``(N,) bool`` mask, optionally in a
    tuple with further indices for the columns. Indexing copies. ``np.asarray`` loads all rows.

    Before every use of a shard, the size and times of its file are compared: a file truncated under a mapping
    would kill the process (SIGBUS), and one overwritten in place would change the values.

    Args:
        paths: the shard files in order.
        starts: first row of each shard and, last, the number of rows ``(n_shards + 1,)``.
        dim: number of columns.
        dtype: dtype of the values.
        stamps: :func:`file_stamp` of each file, taken before it was checked; default: taken now.
        digests: sha256 of each file, to accept a file with new times and unchanged content.

    Raises:
        FeatureError: on use, if a file was replaced before its first use or changed in place.
    """

    ndim = 2

    def __init__(
        self,
        paths: Sequence[Path],
        starts: Sequence[int],
        dim: int,
        dtype: np.dtype,
        stamps: Sequence[Stamp | None] | None = None,
        digests: Sequence[str] | None = None,
    ) -> None:
        self.paths = tuple(paths)
        self.starts = np.asarray(starts, dtype=np.int64)
        self.shape = (int(self.starts[-1]), dim)
        self.dtype = np.dtype(dtype)
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()
        self._stamps = [file_stamp(path) for path in self.paths] if stamps is None else list(stamps)
        self._digests = digests

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"ShardedRows({self.shape[0]:,} x {self.shape[1]:,} {self.dtype}, {len(self.paths):,} shards)"

    def shard(self, number: int) -> np.ndarray:
        """One shard ``(n, d)``, memory-mapped."""
        path = self.paths[number]
        recorded = self._stamps[number]
        mapped = self._open.pop(number, None)
        now = file_stamp(path)
        # A mapped file that was replaced or removed is still intact in its mapping.
        if now != recorded and (mapped is None or (now and recorded and now[:2] == recorded[:2])):
            if now is None or self._digests is None or sha256_file(path) != self._digests[number]:
                raise FeatureError(f"{path}: was replaced after the table was opened; open the table again")
            self._stamps[number] = now
        if mapped is None:
            mapped = read_array(path, FeatureError, mmap=True)
            # The table may have been extracted again meanwhile; old and new rows must not mix.
            if file_stamp(path) != self._stamps[number]:
                raise FeatureError(f"{path}: was replaced after the table was opened; open the table again")
        self._open[number] = mapped
        while len(self._open) > MAX_OPEN_SHARDS:
            self._open.popitem(last=False)
        return mapped

    def __getitem__(self, index: Any) -> np.ndarray:
        rows, columns = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            if step == 1:
                block = self._block(first, max(first, last))
                return block[(slice(None), *columns)] if columns else block
            rows = np.arange(first, last, step)
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"mask has shape {rows.shape}; expected ({len(self)},)")
            rows = np.flatnonzero(rows)
        if rows.dtype.kind not in "iu" and rows.size:
            raise IndexError(f"index has dtype {rows.dtype}; expected integers, a slice or a mask")
        rows = rows.astype(np.int64)
        out_of_range = (rows < -len(self)) | (rows >= len(self))
        if out_of_range.any():
            raise IndexError(f"row {rows[out_of_range].flat[0]} of {len(self):,} rows")
        taken = self._take(np.where(rows < 0, rows + len(self), rows).ravel()).reshape(
            *rows.shape, self.shape[1]
        )
        return taken[(slice(None),) * rows.ndim + columns] if columns else taken

    def _block(self, first: int, last: int) -> np.ndarray:
        result = np.empty((last - first, self.shape[1]), dtype=self.dtype)
        starts = self.starts.tolist()
        for number, (start, end) in enumerate(pairwise(starts)):
            a, b = max(first, start), min(last, end)
            if a < b:
                result[a - first : b - first] = self.shard(number)[a - start : b - start]
        return result

    def _take(self, rows: np.ndarray) -> np.ndarray:
        result = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        order = np.argsort(rows, kind="stable")  # read shard after shard, each in ascending order
        ordered = rows[order]
        cuts = np.searchsorted(ordered, self.starts)
        for number in np.flatnonzero(np.diff(cuts)):
            part = slice(cuts[number], cuts[number + 1])
            result[order[part]] = self.shard(int(number))[ordered[part] - self.starts[number]]
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("the rows of several shards cannot be one array without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

"""Bundles: directories of array files and id files, committed as a whole by one JSON file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.bundle import Committed, FileFormat, commit
from graphrec.core.errors import CheckpointError
from graphrec.core.files import digest, read_array, sha256_file, write_array, write_bytes
from graphrec.data import Vocabulary
from graphrec.serving import ids as mapped_ids
from graphrec.serving.ids import MappedVocabulary, sorted_order


class Bundle(Committed):
    """A bundle opened for reading.

    Args:
        path: the JSON file.
        format: the format it must have.

    Raises:
        CheckpointError: the JSON file is missing, damaged or of another format.
    """

    def __init__(self, path: Path, format: FileFormat) -> None:
        super().__init__(path, format, "save it again")

    def array(self, part: str, mmap: bool = False) -> np.ndarray:
        """Reads one array and checks it; with ``mmap`` it is mapped, and writes to it are not saved."""
        return read_array(self.file(part), CheckpointError, "c" if mmap else False)

    def ids(self, part: str, kind: str = "item") -> Vocabulary:
        """Reads one list of ids and checks it; ids of a long list are read on demand."""
        path = self.file(part)
        try:
            column = pl.read_ipc(path)["id"]
        except (OSError, pl.exceptions.PolarsError) as cause:
            raise CheckpointError(
                f"{path}: not readable as an Arrow file ({cause}); save it again"
            ) from cause
        if f"{part}_order" in self.files:
            return MappedVocabulary(column, self.array(f"{part}_order", mmap=True), kind)
        return Vocabulary(column.to_list(), kind)


def write(
    path: Path,
    format: FileFormat,
    head: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    ids: Mapping[str, Vocabulary],
) -> Mapping[str, Mapping[str, str]]:
    """Writes a bundle; an earlier one at the same path stays intact until this one is complete.

    Args:
        path: the JSON file; the other files go into the same directory, with names that begin with the part.
        format: the format to write.
        head: JSON-able facts.
        arrays: arrays by part.
        ids: vocabularies by part.

    Returns:
        Name and sha256 of each file, by part.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    long = {part: v for part, v in ids.items() if len(v) > mapped_ids.MAX_IN_MEMORY}
    orders = {f"{part}_order": sorted_order(v) for part, v in long.items()}
    all_arrays = {**arrays, **orders}
    files = {
        **{part: (digest(a), "npy", partial(write_array, array=a)) for part, a in all_arrays.items()},
        **{part: (v.fingerprint, "arrow", partial(write_ids, vocabulary=v)) for part, v in ids.items()},
    }
    return commit(path, format, head, files, retry="save again")


def write_ids(path: Path, vocabulary: Vocabulary) -> str:
    """Writes ids as an Arrow file with the column ``id``, atomically; returns its sha256."""
    write_bytes(path, ids_bytes(vocabulary))
    return sha256_file(path)


def ids_bytes(vocabulary: Vocabulary) -> bytes:
    """The Arrow file of ids, with the column ``id``."""
    file = io.BytesIO()
    pl.DataFrame({"id": pl.Series("id", list(vocabulary.ids), dtype=pl.String)}).write_ipc(file)
    return file.getvalue()

"""Exports recommendations as Parquet and item embeddings as a FAISS index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import atomic_write, explain_os_errors, sha256_file, write_bytes, write_json
from graphrec.core.progress import track
from graphrec.data import Vocabulary
from graphrec.graphs.ivf import import_faiss
from graphrec.serving.array_bundle import write_ids
from graphrec.serving.vectors import Vectors

BLOCK = 4096  # users recommended to and written at once


def write_parquet(
    path: Path, users: Sequence[str], recommend: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
) -> None:
    """Writes one row per user and rank, in blocks: ``user, rank, item, score``; the whole file or none.

    ``recommend`` returns item ids and scores ``(B, k)`` for some of the users; scores of ``-inf`` fill up.

    Raises:
        CheckpointError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("score", pa.float32())]
    )
    with (
        explain_os_errors(path, CheckpointError),
        atomic_write(path) as file,
        pq.ParquetWriter(file, schema) as writer,
    ):
        for start in track(range(0, len(users), BLOCK), "recommending", len(users) > BLOCK):
            part = np.array(users[start : start + BLOCK], dtype=object)
            ids, scores = recommend(users[start : start + BLOCK])
            row, column = np.nonzero(scores > -np.inf)
            columns = (part[row], (column + 1).astype(np.int32), ids[row, column], scores[row, column])
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def require_dense(vectors: Vectors, meta: Mapping[str, Any]) -> np.ndarray:
    """The vectors, if they are dense.

    Raises:
        ConfigError: they are sparse.
    """
    if isinstance(vectors, np.ndarray):
        return vectors
    n, d = vectors.shape
    raise ConfigError(
        f"the item vectors of {meta.get('model', 'this model')} are sparse, but FAISS indexes "
        f"dense ones, which at {n:,} x {d:,} would take {4 * n * d / 2**30:,.1f} GiB; write "
        "recommendations instead (export), or use a model with dense embeddings, such as lightgcn"
    )


def write_faiss(path: Path, items: Vocabulary, vectors: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Writes ``items.faiss`` (``IndexFlatIP``), ``items.arrow`` and, last, ``index.json`` with their sha256.

    Raises:
        MissingDependencyError: faiss is not installed (extra ``ann``).
        CheckpointError: the directory cannot be written.
    """
    faiss = import_faiss()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    with explain_os_errors(path, CheckpointError):
        write_bytes(path / "items.faiss", faiss.serialize_index(index).tobytes())
        files = {
            "items.faiss": sha256_file(path / "items.faiss"),
            "items.arrow": write_ids(path / "items.arrow", items),
        }
        write_json(path / "index.json", {"files": files, "metric": "inner product", "meta": dict(meta)})

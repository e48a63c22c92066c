"""Exports recommendations as a table and item embeddings as a FAISS index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl

from graphrec.core.bundle import FileFormat, read_sealed, sealed_bytes
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import atomic_write, explain_os_errors, sha256_file, write_together
from graphrec.core.progress import track
from graphrec.data import Vocabulary
from graphrec.graphs.ivf import import_faiss
from graphrec.serving.array_bundle import ids_bytes
from graphrec.serving.vectors import Vectors

if TYPE_CHECKING:
    import pyarrow as pa

FAISS_FORMAT = FileFormat("FAISS export", 2, {1: dict}, sealed_since=2, unmarked=1)
FAISS_HEAD = "index.json"
BLOCK = 4096  # users recommended to and written at once


def write_recommendations(
    path: Path,
    users: Sequence[str],
    recommend: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]],
    escape_formulas: bool = False,
) -> None:
    """Writes one row per user and rank, in blocks: ``user, rank, item, score``; the whole file or none.

    The suffix of the path is one of :data:`WRITERS`. ``recommend`` returns item ids and scores ``(B, k)`` for
    some of the users; scores of ``-inf`` fill up. ``escape_formulas`` puts a quote before ids that a
    spreadsheet would run as a formula (https://owasp.org/www-community/attacks/CSV_Injection).

    Raises:
        ConfigError: another suffix, or ``escape_formulas`` for another format than CSV.
        CheckpointError: the file cannot be written.
    """
    import pyarrow as pa

    check_suffix(path)
    if escape_formulas and path.suffix.lower() != ".csv":
        raise ConfigError(f"{path}: formulas are escaped in .csv files only; expected escape_formulas=False")
    schema = pa.schema(
        [("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("score", pa.float32())]
    )
    with (
        explain_os_errors(path, CheckpointError),
        atomic_write(path) as file,
        WRITERS[path.suffix.lower()](file, schema) as writer,
    ):
        for start in track(range(0, len(users), BLOCK), "recommending", len(users) > BLOCK):
            part = np.array(users[start : start + BLOCK], dtype=object)
            ids, scores = recommend(users[start : start + BLOCK])
            row, column = np.nonzero(scores > -np.inf)
            users_column = part[row]
            items_column = ids[row, column]
            if escape_formulas:
                users_column = _escape_formulas(users_column)
                items_column = _escape_formulas(items_column)
            columns = (users_column, (column + 1).astype(np.int32), items_column, scores[row, column])
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _escape_formulas(ids: np.ndarray) -> np.ndarray:
    """The ids, with a quote before those that begin as a formula does."""
    escaped = ["'" + name if name.startswith(FORMULAS) else name for name in ids]
    return np.array(escaped, dtype=object)


def check_suffix(path: Path) -> None:
    """Refuses a file of recommendations whose suffix names no format.

    Raises:
        ConfigError: names the formats.
    """
    if path.suffix.lower() not in WRITERS:
        raise ConfigError(
            f"{path}: the suffix {path.suffix!r} names no format of recommendations; expected one of "
            f"{', '.join(WRITERS)}"
        )


FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet runs as a formula."""


def _parquet(file: IO[bytes], schema: pa.Schema) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(file, schema)


def _csv(file: IO[bytes], schema: pa.Schema) -> Any:
    import pyarrow.csv

    return pyarrow.csv.CSVWriter(file, schema, write_options=pyarrow.csv.WriteOptions(quoting_style="needed"))


def _arrow(file: IO[bytes], schema: pa.Schema) -> Any:
    import pyarrow as pa

    return pa.ipc.new_file(file, schema)


class _JsonLines:
    """A writer of one JSON object per row."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self.file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write_table(self, table: pa.Table) -> None:
        """Appends the rows."""
        for row in table.to_pylist():
            self.file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


WRITERS: dict[str, Callable[[IO[bytes], Any], Any]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _JsonLines,
    ".arrow": _arrow,
}
"""Suffix of a file of recommendations -> what writes tables in its format."""


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
    """Writes ``items.faiss`` (``IndexFlatIP``), ``items.arrow`` and ``index.json`` with their sha256.

    All three are complete on the disk before the first of them takes its place. Until the last one does,
    there is no ``index.json``, so that a killed export is recognized by :func:`read_faiss`.

    Raises:
        MissingDependencyError: faiss is not installed (extra ``ann``).
        CheckpointError: the directory cannot be written; what was there is intact.
    """
    faiss = import_faiss()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    contents = {"items.faiss": faiss.serialize_index(index).tobytes(), "items.arrow": ids_bytes(items)}
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    head = {**FAISS_FORMAT.header, "files": files, "metric": "inner product", "meta": dict(meta)}
    contents = {FAISS_HEAD: sealed_bytes(head), **contents}
    with explain_os_errors(path, CheckpointError):
        write_together(path, contents)


def read_faiss(path: str | Path) -> tuple[Any, Sequence[str], dict[str, Any]]:
    """Reads what :meth:`Recommender.export_faiss` wrote, and checks it.

    Returns:
        The FAISS index, the item id of each of its rows, and the facts of the recommender.

    Raises:
        MissingDependencyError: faiss is not installed (extra ``ann``).
        CheckpointError: a file is missing or not what was written, or the export was interrupted.
    """
    faiss = import_faiss()
    path = Path(path)
    remedy = "export it again"
    if not (path / FAISS_HEAD).exists():
        raise CheckpointError(f"{path}: no {FAISS_HEAD}, so no export was completed there; {remedy}")
    content = read_sealed(path / FAISS_HEAD, remedy, FAISS_FORMAT)
    for name, sha256 in content["files"].items():
        try:
            found = sha256_file(path / name)
        except OSError as cause:
            raise CheckpointError(f"{path / name}: cannot be read ({cause.strerror}); {remedy}") from cause
        if found != sha256:
            raise CheckpointError(f"{path / name}: its sha256 is not the recorded one; {remedy}")
    index = faiss.read_index(str(path / "items.faiss"))
    return index, pl.read_ipc(path / "items.arrow")["id"].to_list(), content["meta"]

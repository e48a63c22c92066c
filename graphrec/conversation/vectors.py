"""Vectors of users, items and attributes for conversations: reading, checking, writing."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphrec.core.bundle import read_sealed
from graphrec.core.errors import CheckpointError, DataError, FeatureError
from graphrec.core.files import array_bytes, explain_os_errors, load_failure, read_array, write_together
from graphrec.data import Dataset

SCORER = "fm"
TABLES = ("user_embedding", "item_embedding", "attribute_embedding")
"""Names of a trained scorer's three tables, in the order of :class:`DialogueVectors`."""
EXPECTED = (
    "expected a run directory of graphrec train fm, a folder of users.npy, items.npy and attributes.npy, or "
    "an .npz with ui_emb and feature_emb"
)


class DialogueVectors(NamedTuple):
    """One vector per user, item and attribute, all of one width; inner products of two are their affinity.

    Attributes:
        users: ``(n_users, d) float32``.
        items: ``(n_items, d) float32``.
        attributes: ``(n_attributes, d) float32``.
    """

    users: np.ndarray
    items: np.ndarray
    attributes: np.ndarray


def read_vectors(path: str | Path, data: Dataset) -> DialogueVectors:
    """Reads the vectors of a file or of a run, and checks that they fit the dataset.

    A folder holds ``users.npy``, ``items.npy`` and ``attributes.npy``. A file is an ``.npz`` in the form of
    SCPR's authors: ``ui_emb (n_users + n_items + 1, d)``, users before items, and
    ``feature_emb (n_attributes + 1, d)``. The last row of each is padding and not read. Neither form names
    its dataset, so only the sizes are compared; of a run, the dataset's fingerprint is.

    Args:
        path: the folder, the file, or the directory of a run that trained the scorer ``fm``.
        data: the dataset of the vectors.

    Raises:
        FeatureError: there is no such file, or it is damaged, lacks an array, holds a value that is not
            finite, or has another size.
        CheckpointError: the run is damaged, or of another model or dataset.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path, data)
    return _read_folder(path, data) if (path / "users.npy").exists() else _read_run(path, data)


def write_vectors(path: str | Path, vectors: DialogueVectors) -> Path:
    """Writes a folder of three ``.npy`` files that :func:`read_vectors` reads.

    A process that is killed leaves the former files, the new ones, or a folder without ``users.npy``.

    Raises:
        DataError: the files cannot be written; the former ones stay.
    """
    with explain_os_errors(path, DataError):
        write_together(Path(path), {f"{n}.npy": array_bytes(a) for n, a in vectors._asdict().items()})
    return Path(path)


def _sizes(data: Dataset) -> tuple[int, int, int]:
    nodes = data.nodes.get("attribute")
    return data.n_users, data.n_items, 0 if nodes is None else len(nodes)


def _read_file(path: Path, data: Dataset) -> DialogueVectors:
    users, items, attributes = _sizes(data)
    nodes, features = _read_npz(path, ("ui_emb", "feature_emb"))
    for name, array, rows, description in (
        ("ui_emb", nodes, users + items + 1, f"{users:,} users + {items:,} items + 1"),
        ("feature_emb", features, attributes + 1, f"{attributes:,} attributes + 1"),
    ):
        if len(array) != rows:
            raise FeatureError(
                f"{path}: {name} has {len(array):,} rows; expected {rows:,} for {data.name} ({description}; "
                "the last row is padding): the vectors are of another dataset"
            )
    if nodes.shape[1] != features.shape[1]:
        raise FeatureError(
            f"{path}: ui_emb is {nodes.shape[1]} wide and feature_emb {features.shape[1]}; expected one width"
        )
    return DialogueVectors(nodes[:users], nodes[users:-1], features[:-1])


def _read_folder(path: Path, data: Dataset) -> DialogueVectors:
    arrays = {}
    for name, size in zip(DialogueVectors._fields, _sizes(data), strict=True):
        array = _checked(path, f"{name}.npy", read_array(path / f"{name}.npy", FeatureError), padded=False)
        if len(array) != size:
            raise FeatureError(
                f"{path / name}.npy has {len(array):,} rows; expected {size:,}, one for each of the {name} "
                f"of {data.name}: the vectors are of another dataset"
            )
        arrays[name] = array
    widths = {name: array.shape[1] for name, array in arrays.items()}
    if len(set(widths.values())) > 1:
        raise FeatureError(f"{path}: the vectors are {widths} wide; expected one width")
    return DialogueVectors(**arrays)


def _read_npz(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Arrays ``(n, d) float32`` of an archive, checked."""
    if not path.exists():
        raise FeatureError(f"{path}: no such file or directory; {EXPECTED}")
    if stat.S_ISFIFO(path.stat().st_mode):  # reading one waits for a writer
        raise FeatureError(f"{path}: a named pipe; {EXPECTED}")
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise FeatureError(f"{path}: one .npy array; {EXPECTED}")
        with archive:
            if missing := [name for name in names if name not in archive]:
                raise FeatureError(f"{path}: has no {' and no '.join(missing)}; it has {sorted(archive)}")
            arrays = [archive[name] for name in names]
    except FeatureError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as cause:
        raise FeatureError(f"{path}: not readable as .npz ({load_failure(cause)}); {EXPECTED}") from None
    return [_checked(path, name, array) for name, array in zip(names, arrays, strict=True)]


def _checked(path: Path, name: str, array: np.ndarray, padded: bool = True) -> np.ndarray:
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind != "f":
        raise FeatureError(f"{path}: {name} is {array.shape} {array.dtype}; expected (n, d) of floats")
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, and is refused
        values = np.ascontiguousarray(array, dtype=np.float32)
    not_finite = np.flatnonzero(~np.isfinite(values[:-1] if padded else values).all(1))
    if len(not_finite):
        raise FeatureError(
            f"{path}: {name} holds a value that is not finite in row {not_finite[0]} ({len(not_finite):,} "
            "such rows); train the vectors again"
        )
    return values


def _read_run(path: Path, data: Dataset) -> DialogueVectors:
    # Imported here, so that an agent with saved vectors does not need torch.
    import torch
    from torch import nn

    from graphrec.training import checkpoint

    if not (path / "run.json").exists():
        raise CheckpointError(f"{path}: not a run directory (no run.json); {EXPECTED}")
    record = read_sealed(path / "run.json", checkpoint.REMEDY)
    if record.get("model") != SCORER:
        raise CheckpointError(
            f"{path}: is a run of {record.get('model')!r}, which has no attribute vectors; expected one of "
            f"graphrec train {SCORER}"
        )
    _check_dataset(path, record, data)
    dim = record.get("model_config", {}).get("dim")
    if not isinstance(dim, int) or dim < 1:
        raise CheckpointError(f"{path / 'run.json'}: dim is {dim!r}; restore the file or train again")
    weights = next((path / part for part in ("best", "last") if checkpoint.exists(path / part)), None)
    if weights is None:
        raise CheckpointError(f"{path}: holds no checkpoint yet; continue the training (--resume)")
    sizes = {name: n for name, n in zip(TABLES, _sizes(data), strict=True) if n}
    tables = nn.ModuleDict(
        {name: nn.Embedding(n, dim, _weight=torch.zeros(n, dim)) for name, n in sizes.items()}
    )
    checkpoint.read(weights, tables)
    arrays = {name: value.numpy() for name, value in tables.state_dict().items()}
    empty = np.zeros((0, dim), dtype=np.float32)
    return DialogueVectors(*(arrays.get(f"{name}.weight", empty) for name in TABLES))


def _check_dataset(path: Path, record: dict[str, Any], data: Dataset) -> None:
    trained = record.get("dataset")
    fingerprint = trained.get("fingerprint") if isinstance(trained, dict) else None
    if fingerprint != data.fingerprint:
        name = trained.get("name") if isinstance(trained, dict) else None
        raise CheckpointError(
            f"{path}: was trained on {name} {str(fingerprint)[:12]}…, this dataset is {data.name} "
            f"{data.fingerprint[:12]}… (fingerprints): its users, items or attributes differ; train again"
        )

"""Reads ready-made vectors, their ids and a mask from files of many formats; nothing in them is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import FeatureError, nearest
from graphrec.core.files import read_array
from graphrec.data import Vocabulary

TABLES = (".csv", ".tsv", ".parquet")
ARCHIVES = (".npz", ".safetensors", ".pt", ".pth")
SUFFIXES = (".npy", *ARCHIVES, *TABLES)
"""Suffixes of files of vectors."""
LINES = (".txt", "")
TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def read_vectors(source: str | Path, vocabulary: Vocabulary, ids: str | Path | None = None) -> np.ndarray:
    """The vectors ``(n, d)`` of a file.

    Args:
        source: a file with one of :data:`SUFFIXES`; ``FILE:NAME`` is one array of an archive of several.
        vocabulary: ids of the dataset, to recognize a column of ids among the numbers of a table.
        ids: where the ids of the rows come from, see :func:`read_ids`; a column of the same table is no
            part of the vectors.

    Raises:
        FeatureError: the file is missing, damaged, of another kind, or holds something else; the message
            names the file and the column or array.
    """
    path, name = _split(source)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FeatureError(f"{path}: {suffix or 'no suffix'}; expected vectors in one of {list(SUFFIXES)}")
    if suffix == ".npy":
        return read_array(path, FeatureError, mmap=True)
    if suffix in ARCHIVES:
        return _from_archive(path, name)
    return _vectors_of_table(path, _split(ids) if ids is not None else None, vocabulary)


def read_ids(source: str | Path) -> list[str]:
    """External ids ``n`` from a file: one a line, ``.npy``, or ``FILE:COLUMN`` of a table or an archive.

    Raises:
        FeatureError: the file is missing, damaged or holds no id.
    """
    ids = _read_column(source, "ids")
    if not ids:
        raise FeatureError(f"{source}: the file holds no id; expected one id a row")
    return ids


def read_present(source: str | Path) -> np.ndarray:
    """A mask ``(n,) bool`` from a file like those of :func:`read_ids`, of true and false or 1 and 0.

    Raises:
        FeatureError: the file is missing or damaged, or a value is neither true nor false.
    """
    values = [value.strip().lower() for value in _read_column(source, "present")]
    for row, value in enumerate(values):
        if value not in TRUTH:
            raise FeatureError(f"{source}: row {row} holds {value!r}; expected true or false, or 1 or 0")
    return np.array([TRUTH[value] for value in values], dtype=bool)


def near_ids(unknown: list[str], vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    """Unknown ids that would be known after a change of their form.

    Returns:
        Name of the change -> ``count`` of ids that it makes known, and ``example``: an id and the one in the
        vocabulary. An id counts under the first change that helps.
    """
    found: dict[str, dict[str, Any]] = {}
    left = unknown
    for what, change in CHANGES.items():
        known = {change(i): i for i in vocabulary.ids}
        matched = [i for i in left if change(i) in known]
        if matched:
            found[what] = {"count": len(matched), "example": [matched[0], known[change(matched[0])]]}
            left = [i for i in left if change(i) not in known]
    return found


def describe_near(near: Mapping[str, Mapping[str, Any]], kind: str = "item") -> str:
    """Sentences about the result of :func:`near_ids`, with the remedy; empty for an empty result."""
    return " ".join(
        f"{found['count']:,} more ids match only {what}, such as {found['example'][0]!r} for "
        f"{found['example'][1]!r}; write the ids as the dataset writes its {kind} ids."
        for what, found in near.items()
    )


def _without_zeros(text: str) -> str:
    return text.strip().lstrip("0") or "0"


def _whole_number(text: str) -> str:
    head, dot, tail = text.strip().partition(".")
    return head if dot and not tail.strip("0") else text


CHANGES: dict[str, Callable[[str], str]] = {
    "without the spaces around them": str.strip,
    "without upper and lower case": lambda text: text.strip().casefold(),
    "without leading zeros": _without_zeros,
    "without the fraction .0": _whole_number,
}


def _split(source: str | Path) -> tuple[Path, str | None]:
    """File and name of ``FILE:NAME``; a file that exists under the whole name has no further name."""
    text = str(source)
    head, colon, name = text.rpartition(":")
    if not colon or not name or not Path(head).suffix or Path(text).exists():
        return Path(text), None
    return Path(head), name


def _read_column(source: str | Path, role: str) -> list[str]:
    path, name = _split(source)
    suffix = path.suffix.lower()
    if suffix in TABLES:
        columns = _columns(path)
        if name is None and len(columns) == 1:
            name = next(iter(columns))
        if name is None or name not in columns:
            shown = list(columns)[:8]
            raise FeatureError(
                f"{path}: {f'no column {name!r}' if name else 'several columns'}; expected {path}:COLUMN, "
                f"one of {shown}.{nearest(name, columns) if name else ''}"
            )
        return [str(value) for value in columns[name]]
    if suffix == ".npy" or suffix in ARCHIVES:
        array = read_array(path, FeatureError) if suffix == ".npy" else _from_archive(path, name)
        if array.ndim != 1:
            raise FeatureError(f"{path}: shape {array.shape}; expected {role} (n,)")
        values = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        return [str(value) for value in values.tolist()]
    if suffix not in LINES:
        raise FeatureError(f"{path}: {suffix}; expected {role} in one of {['.txt', *SUFFIXES]}")
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise FeatureError(
            f"{path}: not readable ({cause}); expected a UTF-8 text file of one value a line"
        ) from cause
    while lines and not lines[-1].strip():
        lines.pop()
    for row, line in enumerate(lines):
        if not line.strip():
            raise FeatureError(f"{path}: line {row + 1} is empty; expected one value a line, one line a row")
    return [line.strip() for line in lines]


def _from_archive(path: Path, name: str | None) -> np.ndarray:
    """One array of a file of named arrays, the only one if no name is given."""
    arrays = _open_archive(path)
    if name is None and len(arrays) == 1:
        name = next(iter(arrays))
    if name is None or name not in arrays:
        raise FeatureError(
            f"{path}: {f'no array {name!r}' if name else f'{len(arrays)} arrays'}; expected {path}:NAME, one "
            f"of {sorted(arrays)[:8]}.{nearest(name, arrays) if name else ''}"
        )
    return arrays[name]


def _open_archive(path: Path) -> Mapping[str, np.ndarray]:
    """All arrays of a ``.npz``, ``.safetensors`` or ``.pt`` file by name."""
    import torch

    def as_array(value: Any) -> np.ndarray:
        tensor = value.detach().cpu()
        return np.asarray((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())

    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        raise FeatureError(f"{path}: {what}; expected vectors")
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if suffix == ".safetensors":
            from safetensors.torch import load_file

            return {name: as_array(value) for name, value in load_file(path).items()}
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        named = loaded if isinstance(loaded, dict) else {"": loaded}
        return {str(name): as_array(v) for name, v in named.items() if isinstance(v, torch.Tensor)}
    except Exception as cause:
        # Not with the cause's own words: numpy and torch advise to load such a file in an unsafe way.
        raise FeatureError(
            f"{path}: not a readable {suffix} file of arrays alone ({type(cause).__name__}); expected "
            "numbers and text without Python objects: save the array as .npy or .safetensors"
        ) from None


def _columns(path: Path) -> dict[str, Any]:
    """The columns of a table by name, those of text files as text."""
    import polars as pl

    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        raise FeatureError(f"{path}: {what}; expected a table")
    try:
        if path.suffix.lower() == ".parquet":
            frame = pl.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            frame = pl.read_csv(path, separator=separator, infer_schema=False, has_header=False)
            names = [str(value) for value in frame.row(0)] if frame.height else []
            if not all(_is_number(name) for name in names):
                if len(set(names)) < len(names):
                    raise FeatureError(f"{path}: a column name occurs twice; expected unique names")
                frame = frame.slice(1).rename(dict(zip(frame.columns, names, strict=True)))
    except pl.exceptions.PolarsError as cause:
        first = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise FeatureError(f"{path}: not a readable table ({first}); write it again") from cause
    return {column.name: column for column in frame.get_columns()}


def _vectors_of_table(path: Path, ids: tuple[Path, str | None] | None, vocabulary: Vocabulary) -> np.ndarray:
    columns = _columns(path)
    if ids is not None and ids[0] == path and ids[1] is not None:
        columns.pop(ids[1], None)
    if not columns or not len(next(iter(columns.values()))):
        raise FeatureError(f"{path}: no row or no column of numbers; expected one row an item")
    parts = []
    for name, column in columns.items():
        known = vocabulary.find(column.head(100).to_list())
        if len(set(known[known >= 0].tolist())) > 0.5 * min(100, len(column)) and len(column) > 2:
            raise FeatureError(
                f"{path}: column {name!r} holds {vocabulary.kind} ids; name it with --ids {path}:{name} "
                "(ids=), so that it is no part of the vectors"
            )
        try:
            if column.dtype.is_nested():
                part = np.asarray(column.to_list(), dtype=np.float64)
            else:
                part = column.cast(float).to_numpy().astype(np.float64)[:, None]
        except Exception as cause:
            bad = next(((r, v) for r, v in enumerate(column) if not _is_number(v)), (0, column[0]))
            raise FeatureError(
                f"{path}: column {name!r} is no column of numbers: row {bad[0]} holds {bad[1]!r}; if it "
                f"holds the ids, name it with --ids {path}:{name} (ids=)"
            ) from cause
        parts.append(part)
    return np.concatenate(parts, axis=1).astype(np.float32)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True

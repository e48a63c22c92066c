"""What an extractor learned from the corpus of a table, kept beside it as ``fitted.json`` and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from graphrec.core.bundle import Committed, FileFormat, commit
from graphrec.core.errors import FeatureError
from graphrec.core.files import digest, read_array, write_array

FORMAT = FileFormat("fitted extractor")
HEAD = "fitted.json"
REMEDY = "run graphrec features build again, which keeps finished shards"


def write_fitted(folder: Path, content: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays of a fitted extractor; what was there before stays intact until this is complete.

    Args:
        folder: directory of the table.
        content: digest of the content that the extractor was fitted to, as in the manifest.
        arrays: from the extractor's ``get_fitted``.

    Raises:
        FeatureError: the directory cannot be written.
    """
    files = {part: (digest(a), "npy", partial(write_array, array=a)) for part, a in arrays.items()}
    commit(folder / HEAD, FORMAT, {"content": content}, files, "extract again", FeatureError)


def read_fitted(folder: Path, content: str | None) -> dict[str, np.ndarray] | None:
    """The arrays of the extractor fitted to this content, memory-mapped; None if they were not kept.

    Raises:
        FeatureError: a file is missing or damaged.
    """
    if not (folder / HEAD).exists():
        return None
    saved = Committed(folder / HEAD, FORMAT, REMEDY, FeatureError)
    if saved.head["content"] != content:
        return None
    return {part: read_array(saved.file(part), FeatureError, "c") for part in saved.files}


def fitted_files(folder: Path) -> tuple[set[str], list[str]]:
    """Names of the files of a fitted extractor in a table's directory, and one line per damaged one."""
    if not (folder / HEAD).exists():
        return set(), []
    try:
        saved = Committed(folder / HEAD, FORMAT, REMEDY, FeatureError)
    except FeatureError as cause:
        return {HEAD}, [str(cause)]
    problems = []
    for part in saved.files:
        try:
            saved.file(part)
        except FeatureError as cause:
            problems.append(str(cause))
    return {HEAD, *(entry["name"] for entry in saved.files.values())}, problems

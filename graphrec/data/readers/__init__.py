"""Datasets by name: one file a reader, one line each in the registry, imported on use.

A reader is a function ``read(folder, **options) -> Dataset``; its keyword arguments are its options. A reader
whose data come with ready-made item vectors has a second function ``features(folder) ->
list[ReadyFeatures]``.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np

from graphrec.core.errors import ConfigError, nearest
from graphrec.core.registry import Registry
from graphrec.data.dataset import Dataset

READERS = Registry("dataset", "graphrec.readers", {
    "amazon-baby": "graphrec.data.readers.amazon:read_baby",
    "amazon-scientific": "graphrec.data.readers.scientific:read",
    "amazon-sports": "graphrec.data.readers.amazon:read_sports",
    "git": "graphrec.data.readers.git:read",
    "gowalla": "graphrec.data.readers.gowalla:read",
    "hetrec-lastfm": "graphrec.data.readers.hetrec:read",
    "inter": "graphrec.data.readers.inter:read",
    "lastfm": "graphrec.data.readers.scpr:read_lastfm",
    "movielens-small": "graphrec.data.readers.movielens:read",
    "oss-contrib": "graphrec.data.readers.contributions:read",
    "rlmrec": "graphrec.data.readers.pair_arrays:read_rlmrec",
    "scpr": "graphrec.data.readers.scpr:read",
    "sslrec-yelp": "graphrec.data.readers.pair_arrays:read_sslrec_yelp",
    "table": "graphrec.data.readers.table:read",
    "xwines": "graphrec.data.readers.xwines:read",
})  # fmt: skip
"""Reader by dataset or format name, those of installed packages included."""

FEATURES: dict[str, str] = {
    "amazon-baby": "graphrec.data.readers.amazon:features_baby",
    "amazon-scientific": "graphrec.data.readers.scientific:features",
    "amazon-sports": "graphrec.data.readers.amazon:features_sports",
    "inter": "graphrec.data.readers.inter:features",
}
"""Ready-made item vectors, for the datasets that come with them."""

FORMATS = frozenset({"git", "inter", "scpr", "table"})
"""Readers of a layout rather than of one dataset; their root is the folder itself."""


class ReadyFeatures(NamedTuple):
    """Item vectors that come with a dataset.

    Attributes:
        field: content field they describe, such as ``"text"``.
        values: ``(n, d)`` float, memory-mapped.
        ids: external item ids of the rows, ``n`` of them.
        kind: what the vectors were made from, such as ``"image"`` or ``"text"``.
    """

    field: str
    values: np.ndarray
    ids: tuple[str, ...]
    kind: str


def load_dataset(name: str | Path, /, root: str | Path | None = None, **options: Any) -> Dataset:
    """Reads a dataset by name, or one saved by :meth:`Dataset.save` by its directory.

    Args:
        name: a name in :data:`READERS`, or the path of a saved dataset.
        root: the folder that holds the dataset folders (``root/amazon-baby/...``) or the dataset's folder
            itself.
            Default: ``$GRAPHREC_DATA`` if set, else ``data``; for the formats ``table``, ``inter`` and
            ``scpr`` the folder that their files are relative to, by default the current one.
        **options: of the reader; see its docstring.

    Returns:
        The dataset; ``meta["reader"]`` and ``meta["options"]`` say how it was read.

    Raises:
        ConfigError: unknown name, unknown option (the known ones are listed), or an option of the wrong type.
        DataError: a file is missing or unusable; the message names it.
    """
    from pydantic import ValidationError

    saved = _saved(name, root)
    if saved is not None:
        if options:
            raise ConfigError(f"{saved} is a saved dataset and takes no options; found {sorted(options)}")
        return Dataset.load(saved)
    name = str(name)
    reader, typed = _reader(name)
    known = reader_options(name)
    parameters = inspect.signature(reader).parameters
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"dataset {name!r} has no option {option!r}; it has {sorted(known) or 'none'}."
                f"{nearest(option, known)}"
            )
        expected = str(parameters[option].annotation)
        if isinstance(value, bool) and not re.search(r"\b(bool|Any)\b", expected):
            raise ConfigError(f"dataset {name!r}, option {option}={value!r}; expected {expected}")
    try:
        dataset: Dataset = typed(dataset_folder(name, root), **options)
    except ValidationError as cause:
        first = cause.errors()[0]
        option = str(first["loc"][0])
        raise ConfigError(
            f"dataset {name!r}, option {option}={options.get(option)!r}: {first['msg']}; expected "
            f"{parameters[option].annotation}"
            if option in parameters
            else f"dataset {name!r}: {cause}"
        ) from cause
    used = {k: _jsonable(v) for k, v in {**known, **options}.items() if v is not None}
    return replace(dataset, meta={**dataset.meta, "reader": name, "options": used})


def load_features(name: str, /, root: str | Path | None = None, **options: Any) -> dict[str, ReadyFeatures]:
    """The item vectors that come with a dataset, by content field.

    Args:
        name: a name in :data:`FEATURES`.
        root: as in :func:`load_dataset`.
        **options: as in :func:`load_dataset`; those that do not change the vectors are passed over.

    Raises:
        ConfigError: the dataset comes without vectors.
        DataError: a file is missing or damaged.
    """
    if name not in FEATURES:
        raise ConfigError(
            f"dataset {name!r} comes without ready-made features; these have some: {sorted(FEATURES)}. "
            "Extract features from its content instead"
        )
    function = resolve_name(FEATURES[name])
    known = inspect.signature(function).parameters
    ready = function(dataset_folder(name, root), **{k: v for k, v in options.items() if k in known})
    return {features.field: features for features in ready}


def reader_options(name: str) -> dict[str, Any]:
    """The options of a reader and their defaults.

    Raises:
        ConfigError: unknown name; lists the known ones.
    """
    reader, _ = _reader(name)
    parameters = inspect.signature(reader).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def dataset_folder(name: str, root: str | Path | None = None) -> Path:
    """The absolute path of the folder a reader is given; it need not exist.

    Args:
        name: a name in :data:`READERS`.
        root: as in :func:`load_dataset`.
    """
    if name in FORMATS:
        return Path(root if root is not None else ".").absolute()
    base = Path(root if root is not None else os.environ.get("GRAPHREC_DATA") or "data").absolute()
    inside = base / name
    if inside.is_dir() or (base.name != name and not _holds_data(base)):
        return inside
    return base


def _holds_data(folder: Path) -> bool:
    """Whether a folder has data files itself, as opposed to being the parent of dataset folders."""
    suffixes, folders = {".inter", ".csv", ".npz", ".dat"}, {"Graph_generate_data"}
    return folder.is_dir() and any(p.suffix in suffixes or p.name in folders for p in folder.iterdir())


def _saved(name: str | Path, root: str | Path | None) -> Path | None:
    if str(name) in READERS:
        return None
    candidates = [Path(name), *([Path(root) / name] if root is not None else [])]
    return next((path for path in candidates if (path / "dataset.json").is_file()), None)


@cache
def _reader(name: str) -> tuple[Callable[..., Dataset], Callable[..., Dataset]]:
    """A reader and the same reader with its argument types enforced."""
    from pydantic import ConfigDict, validate_call

    if name not in READERS:
        raise ConfigError(
            f"no dataset {name!r}; there are {sorted(READERS)}, and directories written by Dataset.save."
            f"{nearest(name, READERS)}"
        )
    reader = READERS.load(name)
    return reader, validate_call(config=ConfigDict(arbitrary_types_allowed=True))(reader)


def _jsonable(value: Any) -> Any:
    if hasattr(value, "describe"):
        return value.describe()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_jsonable(v) for v in value]
    return value

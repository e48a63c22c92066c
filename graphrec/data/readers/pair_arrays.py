"""Published splits as arrays of user and item indices in one .npz file, without content.

``sslrec-yelp``: the Yelp of SSLRec. Source: https://github.com/HKUDS/SSLRec
(datasets/general_cf/sparse_yelp). License: Apache-2.0; the reviews behind it are Yelp's, for research.
Counts: 42,712 users, 26,822 items, 182,357 train, 13,025 validation and 65,128 test interactions; 538 users
and 332 items have none in train.

``rlmrec``: Amazon-book and Yelp of RLMRec, without the written profiles. Source:
https://github.com/HKUDS/RLMRec (Apache-2.0), its matrices from https://github.com/wangyu0627/IRLLRec
(license: none stated). Counts: Amazon-book 11,000 users, 9,332 items, 120,464 / 40,290 / 40,106 interactions;
Yelp 11,091 users, 11,010 items, 166,620 / 55,479 / 55,436.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from graphrec.core.errors import DataError
from graphrec.core.files import load_failure
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.readers.files import require_file
from graphrec.data.vocabulary import Vocabulary

PARTS = ("train", "valid", "test")
SSLREC = "https://github.com/HKUDS/SSLRec (datasets/general_cf/sparse_yelp)"
RLMREC = "https://github.com/HKUDS/RLMRec; matrices of https://github.com/wangyu0627/IRLLRec"
MOST_INDICES = 2**31


def read_sslrec_yelp(folder: Path) -> Dataset:
    """SSLRec's Yelp in its published split.

    Args:
        folder: holds ``sparse_yelp.npz`` with the arrays ``train``, ``valid`` and ``test``, each ``(E, 2)``
            of user and item, and ``shape (2,)``, the numbers of users and items.

    Raises:
        DataError: the file is missing or damaged.
    """
    return _read("sslrec-yelp", folder, "sparse_yelp.npz", SSLREC)


def read_rlmrec(folder: Path, *, catalog: Literal["amazon-book", "yelp"] = "amazon-book") -> Dataset:
    """RLMRec's Amazon-book or Yelp in the published split; items have their Amazon or Yelp ids.

    Args:
        folder: holds ``amazon_book.npz`` and ``yelp.npz``: as for SSLRec's Yelp, and ``item_ids``.
        catalog: which of the two.

    Raises:
        DataError: the file is missing or damaged.
    """
    return _read(f"rlmrec-{catalog}", folder, f"{catalog.replace('-', '_')}.npz", RLMREC, ids=True)


def _read(name: str, folder: Path, file: str, source: str, ids: bool = False) -> Dataset:
    holds = "arrays train, valid and test, each (E, 2) of user and item, and shape"
    path = require_file(folder, file, holds, source)
    arrays = load_arrays(path, (*PARTS, "shape", *(["item_ids"] if ids else [])))
    shape = arrays["shape"]
    valid_shape = shape.shape == (2,) and shape.dtype.kind in "iu" and ((shape > 0) & (shape < MOST_INDICES))
    if not np.all(valid_shape):
        raise DataError(f"{path}: shape holds {shape.tolist()}; expected the numbers of users and items")
    n_users, n_items = (int(n) for n in shape)
    items: list[str] | range = range(n_items)
    if ids:
        given = arrays["item_ids"]
        if given.shape != (n_items,) or given.dtype.kind != "U":
            raise DataError(
                f"{path}: item_ids has shape {given.shape}, {given.dtype}; expected {n_items:,} texts"
            )
        items = given.tolist()
    parts = {}
    for part in PARTS:
        pairs = pairs_of(path, part, arrays[part], n_users, n_items)
        parts[part] = Interactions(pairs[:, 0], pairs[:, 1], n_users, n_items, name=f"{file} ({part})")
    return Dataset(
        name,
        Vocabulary(range(n_users), "user"),
        Vocabulary(items, "item"),
        parts["train"],
        parts["valid"],
        parts["test"],
        meta={"source": file, "split": {"name": "published"}},
    )


def load_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name, read without pickle.

    Raises:
        DataError: one is missing or cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except Exception as cause:  # damaged archives also raise zlib, tokenizer, overflow and memory errors
        raise DataError(
            f"{path}: no readable arrays {' and '.join(names)} ({load_failure(cause)}); fetch the file again"
        ) from None


def pairs_of(path: Path, name: str, array: np.ndarray, n_users: int, n_items: int) -> np.ndarray:
    """An array of users and items ``(E, 2)``, checked.

    Raises:
        DataError: another shape or type, or an index out of range.
    """
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or array.dtype.kind not in "iu":
        raise DataError(
            f"{path}: array {name!r} has shape {array.shape}, {array.dtype}; expected (E, 2) of integers"
        )
    bad = np.flatnonzero(((array < 0) | (array >= (n_users, n_items))).any(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: array {name!r}, row {bad[0]}: user and item {array[bad[0]].tolist()}; expected indices "
            f"from 0, below {n_users:,} and {n_items:,}"
        )
    return array

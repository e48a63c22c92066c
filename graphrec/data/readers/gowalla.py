"""Gowalla check-ins with the split of NGCF and LightGCN: a larger graph without content.

Source: https://github.com/gusye1234/LightGCN-PyTorch/tree/master/data/gowalla, from https://snap.stanford.edu/data/loc-Gowalla.html.
License: none stated. Counts: 29,858 users, 40,981 items, 810,128 train and 217,242 test interactions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.readers.files import require_file
from graphrec.data.readers.pair_arrays import load_arrays, pairs_of
from graphrec.data.splits import RandomSplit
from graphrec.data.vocabulary import Vocabulary

FILE = "gowalla_lightgcn_split.npz"
SOURCE = "https://github.com/gusye1234/LightGCN-PyTorch/tree/master/data/gowalla (train.txt and test.txt)"


def read(folder: Path, *, valid_share: float = 0.1, seed: int = 0) -> Dataset:
    """Gowalla in LightGCN's split; the published split has no validation set, so it is taken from train.

    Reads ``gowalla_lightgcn_split.npz`` with the arrays ``train`` and ``test``, each ``(E, 2)`` of (user,
    item). External ids are the indices of the published files.

    Args:
        folder: holds the file.
        valid_share: share of each user's training interactions for validation; 0 leaves valid empty.
        seed: random seed of the validation set.

    Raises:
        DataError: the file is missing or damaged.
        ConfigError: the share is not below 1.
    """
    path = require_file(folder, FILE, "arrays train and test, each (E, 2) of user and item", SOURCE)
    arrays = load_arrays(path, ("train", "test"))
    # Every user and item of this split has interactions, so an index cannot exceed their number.
    most = sum(map(len, arrays.values()))
    train, test = (pairs_of(path, part, array, most, most) for part, array in arrays.items())
    n_users, n_items = (int(n) + 1 for n in np.maximum(train.max(axis=0), test.max(axis=0)))
    published_train = Interactions(train[:, 0], train[:, 1], n_users, n_items, name=f"{FILE} (train)")
    labels = RandomSplit(valid=valid_share, test=0.0).assign(published_train, seed)
    return Dataset(
        "gowalla",
        Vocabulary(range(n_users), "user"),
        Vocabulary(range(n_items), "item"),
        published_train.where(labels == 0, "train"),
        published_train.where(labels == 1, "valid"),
        Interactions(test[:, 0], test[:, 1], n_users, n_items, name=f"{FILE} (test)"),
        meta={"source": FILE, "split": {"name": "published", "valid_share": valid_share, "seed": seed}},
    )

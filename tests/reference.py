"""The 30 x 20 toy problem that the reference implementation computed numbers for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tolerances import PARITY

from graphrec.data import Dataset, Interactions, Vocabulary

TOY = Path(__file__).parent / "fixtures" / "freedom_bm3_toy.npz"
MODALITIES = ("image", "text")


def numbers(path: Path = TOY) -> dict[str, np.ndarray]:
    """What a reference computed, by name."""
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def dataset(toy: dict[str, np.ndarray]) -> Dataset:
    """Its interactions, all of them train."""
    n_users, n_items = int(toy["n_users"]), int(toy["n_items"])
    train = Interactions(*toy["train_edges"], n_users, n_items, name="train")
    empty = Interactions([], [], n_users, n_items)
    return Dataset("toy", Vocabulary(range(n_users), "user"), Vocabulary(range(n_items)), train, empty, empty)


def assert_close(found: Any, expected: np.ndarray, what: str) -> None:
    """Equal up to ``PARITY``, relative to the largest number."""
    found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found, dtype=np.float64)
    worst = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert found.shape == expected.shape, what
    assert worst <= PARITY, f"{what}: differs from the reference by {worst:.2e} relative"

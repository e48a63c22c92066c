"""The toy problems that reference implementations computed numbers for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tolerances import PARITY

from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.models.batches import SeededTriplets

FIXTURES = Path(__file__).parent / "fixtures"
TOY = FIXTURES / "freedom_bm3_toy.npz"
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


class Reference:
    """What the reference computed for one variant of a model."""

    def __init__(self, name: str, variant: str) -> None:
        self.all = numbers(FIXTURES / f"ssl_{name}.npz")
        self.variant = variant
        self.data = dataset(self.all)
        self.config = json.loads(str(self[".config"]))
        self.batch = SeededTriplets(
            *(torch.from_numpy(self.all[f"batch_{of}"].astype(np.int64)) for of in ("users", "pos", "neg")),
            torch.tensor(0),
        )

    def __getitem__(self, key: str) -> np.ndarray:
        return self.all[self.variant + key]

    def model(self, model_class: Any, **options: Any) -> Any:
        """With the reference's parameters."""
        model = model_class.build(self.data, None, model_class.Config(dim=16, **options))
        with torch.no_grad():
            for side in ("user", "item"):
                table = getattr(model, f"{side}_embedding").weight
                table.copy_(torch.from_numpy(self[f".param.{side}_embedding"]))
        return model

    def check(self, model: Any, losses: dict[str, torch.Tensor], expected: dict[str, str], scale: float = 1):
        """Losses by name, gradients of their sum, final embeddings and scores; losses and gradients of the
        reference are ``scale`` times ours.
        """
        for name, key in expected.items():
            assert_close(scale * losses[name], self[f".loss.{key}"], name)
        total = scale * torch.stack(list(losses.values())).sum()
        assert_close(total, self[".loss.total"], "total")
        total.backward()
        for side, found in zip(("user", "item"), model.embed(), strict=True):
            gradient = getattr(model, f"{side}_embedding").weight.grad
            assert_close(gradient, self[f".grad.{side}_embedding"], f"gradient of {side}s")
            assert_close(found, self[f".{side}_out"], f"{side}s")
        assert_close(model.score(self.all["score_users"]), self[".scores"], "scores")

"""The toy problems that the reference implementations computed numbers for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tolerances import PARITY

from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.graphs.graph import Graph
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
    """What the reference computed for one variant of a self-supervised model."""

    def __init__(self, name: str, variant: str) -> None:
        self.all = numbers(FIXTURES / f"ssl_{name}.npz")
        self.variant = variant
        self.data = dataset(self.all)
        self.config = json.loads(str(self[".config"]))
        self.batch = SeededTriplets(
            *(torch.from_numpy(self.all[f"batch_{of}"].astype(np.int64)) for of in ("users", "pos", "neg")),
            torch.tensor(0),
        )
        self.parameters = {f"{side}_embedding": f"{side}_embedding.weight" for side in ("user", "item")}

    def __getitem__(self, key: str) -> np.ndarray:
        return self.all[self.variant + key]

    def model(self, model_class: Any, parameters: Mapping[str, str] | None = None, **options: Any) -> Any:
        """With the reference's parameters: those of IDs, and others by the reference's name and ours."""
        model = model_class.build(self.data, None, model_class.Config(dim=16, **options))
        self.parameters |= parameters or {}
        with torch.no_grad():
            for theirs, ours in self.parameters.items():
                model.get_parameter(ours).copy_(torch.from_numpy(self[f".param.{theirs}"]))
        return model

    def edge_order(self, graph: Graph) -> torch.Tensor:
        """Positions ``(E,)`` among the reference's entries of a graph's edges."""
        target, source = self[".adj_indices"]
        order = torch.from_numpy(np.lexsort((source, target)))
        assert np.array_equal(graph.target, target[order])
        assert np.array_equal(graph.col, source[order])
        return order

    def check(
        self, model: Any, losses: dict[str, torch.Tensor], expected: dict[str, str], scale: float = 1
    ) -> None:
        """Losses by name, gradients of their sum, final embeddings and scores; losses and gradients of the
        reference are ``scale`` times ours.
        """
        for name, key in expected.items():
            assert_close(scale * losses[name], self[f".loss.{key}"], name)
        total = scale * torch.stack(list(losses.values())).sum()
        assert_close(total, self[".loss.total"], "total")
        total.backward()
        for theirs, ours in self.parameters.items():
            assert_close(model.get_parameter(ours).grad, self[f".grad.{theirs}"], f"gradient of {ours}")
        for side, found in zip(("user", "item"), model.embed(), strict=True):
            assert_close(found, self[f".{side}_out"], f"{side}s")
        assert_close(model.score(self.all["score_users"]), self[".scores"], "scores")

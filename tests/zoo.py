"""What the authors' codes of multimodal graph models computed on one toy problem."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from reference import FIXTURES, MODALITIES, assert_close, dataset, numbers

from graphrec.features import FeatureTable
from graphrec.models.batches import Triplets

IDS = "user_embedding.weight + item_embedding.weight"
"""Our name of what the references call ``id_embedding``, users before items."""


class ZooNumbers:
    """The numbers of one model.

    Attributes:
        all: every number, by name.
        data: its interactions, all of them train.
        config: the reference's options.
        tables: features by modality.
        batch: one of triplets.
    """

    def __init__(self, name: str) -> None:
        self.all = numbers(FIXTURES / f"zoo_{name}.npz")
        self.data = dataset(self.all)
        self.config = json.loads(str(self.all["config"]))
        self.tables = {m: FeatureTable.from_array(self.all[m], self.data, m) for m in MODALITIES}
        parts = (self.all[f"batch_{of}"].astype(np.int64) for of in ("users", "pos", "neg"))
        self.batch: Any = Triplets(*(torch.from_numpy(part) for part in parts))

    def __getitem__(self, key: str) -> np.ndarray:
        return self.all[key]

    def check_embeddings(self, model: Any) -> None:
        """Final embeddings and scores."""
        users, items = model.embed()
        assert_close(users, self.all["user_out"], "users")
        assert_close(items, self.all["item_out"], "items")
        assert_close(model.score(self.all["score_users"]), self.all["scores"], "scores")


class Zoo(ZooNumbers):
    """The numbers of one model, and how its parameters are named here."""

    def load(self, model: Any, names: Mapping[str, str]) -> None:
        """Gives the model the reference's parameters.

        Args:
            model: ours.
            names: the reference's name -> ours. ``a + b`` holds the rows of ``a`` and then those of ``b``,
                ``a.T`` the transpose.
        """
        ours = {name for value in names.values() for name in split(value)}
        assert ours == {name for name, _ in model.named_parameters()}
        with torch.no_grad():
            for theirs, value in names.items():
                expected = torch.from_numpy(self.all[f"param.{theirs}"])
                rows = expected.T if value.endswith(".T") else expected
                parameters = [model.get_parameter(name) for name in split(value)]
                for parameter, part in zip(parameters, rows.split([*map(len, parameters)]), strict=True):
                    assert parameter.shape == part.shape, theirs
                    parameter.copy_(part)

    def check_losses(
        self, model: Any, losses: Mapping[str, torch.Tensor], expected: Mapping[str, str]
    ) -> None:
        """Loss terms, and their gradients, which are left in the model.

        Args:
            model: ours.
            losses: its terms.
            expected: our name of a term -> the reference's; ``a + b`` is the sum of two.
        """
        assert set(losses) == set(expected)
        for name, value in expected.items():
            assert_close(losses[name], sum(self.all[f"loss.{part}"] for part in split(value)), name)
        total = torch.stack(list(losses.values())).sum()
        assert_close(total, self.all["loss"], "total")
        total.backward()

    def check_gradients(self, model: Any, names: Mapping[str, str], zero: Collection[str] = ()) -> None:
        """The gradients of the parameters of :meth:`load`.

        Args:
            model: ours, after backward.
            names: as there.
            zero: parameters of the reference alone, whose gradients are zero in exact arithmetic.
        """
        given = {key.removeprefix("grad.") for key in self.all if key.startswith("grad.")}
        assert given == {*names, *zero}
        for theirs, value in names.items():
            found = torch.cat([model.get_parameter(name).grad for name in split(value)])
            found = found.T if value.endswith(".T") else found
            assert_close(found, self.all[f"grad.{theirs}"], f"gradient of {theirs}")
        largest = max(np.abs(self.all[f"grad.{theirs}"]).max() for theirs in names)
        for theirs in zero:
            assert np.abs(self.all[f"grad.{theirs}"]).max() <= 1e-5 * largest, theirs


def split(names: str) -> list[str]:
    """The parts of ``a + b``, without ``.T``."""
    return names.removesuffix(".T").split(" + ")

"""What the authors' code of models on views of content computed on one toy problem."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from reference import FIXTURES, MODALITIES, assert_close, dataset, numbers

from graphrec.features import FeatureTable
from graphrec.models.batches import SeededTriplets


class ContentReference:
    """The numbers of one model, by the reference's names.

    Attributes:
        data: its interactions, all of them train.
        tables: features by modality.
        config: the reference's options.
        batch: one of triplets.
    """

    def __init__(self, name: str) -> None:
        self.all = numbers(FIXTURES / f"zoo_{name}.npz")
        self.data = dataset(self.all)
        self.tables = {m: FeatureTable.from_array(self.all[m], self.data, m) for m in MODALITIES}
        self.config = json.loads(str(self.all["config"]))
        parts = (self.all[f"batch_{of}"].astype(np.int64) for of in ("users", "pos", "neg"))
        self.batch = SeededTriplets(*map(torch.from_numpy, parts), torch.tensor(0))

    def __getitem__(self, key: str) -> np.ndarray:
        return self.all[key]

    def load(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Gives our parameters, or parts of them, the values of the reference's, by its names."""
        given = {key.removeprefix("param.") for key in self.all if key.startswith("param.")}
        assert given == set(parameters) - {f"features.{m}" for m in MODALITIES}
        with torch.no_grad():
            for name in given:
                parameters[name].copy_(torch.from_numpy(self[f"param.{name}"]).view_as(parameters[name]))

    def check_gradients(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """All gradients that are in the file, by the reference's names."""
        expected = {key.removeprefix("grad.") for key in self.all if key.startswith("grad.")}
        assert expected == set(gradients)
        for name in expected:
            found = gradients[name].reshape(self[f"grad.{name}"].shape)
            assert_close(found, self[f"grad.{name}"], f"gradient of {name}")

    def check_embeddings(self, model: Any) -> None:
        """Final embeddings and scores."""
        for side, found in zip(("user", "item"), model.embed(), strict=True):
            assert_close(found, self[f"{side}_out"], f"{side}s")
        assert_close(model.score(self["score_users"]), self["scores"], "scores")

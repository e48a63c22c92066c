"""What the authors' code of models on views of content computed on one toy problem."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from reference import MODALITIES, assert_close
from zoo import ZooNumbers

from graphrec.models.batches import SeededTriplets


class ContentReference(ZooNumbers):
    """The numbers of one model, by the reference's names."""

    batch: SeededTriplets

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.batch = SeededTriplets(*self.batch, torch.tensor(0))

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

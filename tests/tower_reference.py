"""What the authors' code computed on a toy problem for the models that are made of towers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import torch
from reference import assert_close
from zoo import ZooNumbers

from graphrec.graphs.graph import Graph
from graphrec.models.batches import SeededTriplets


class TowerReference(ZooNumbers):
    """Inputs, parameters and results of one model, and a model of ours with these."""

    batch: SeededTriplets

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.batch = SeededTriplets(*self.batch, torch.tensor(0))
        self.names: dict[str, str] = {}

    def model(self, model_class: Any, **options: Any) -> Any:
        """With the reference's options and parameters."""
        renamed = {"n_user_neighbours": "n_user_neighbors"}
        given = {renamed.get(k, k): v for k, v in self.config.items() if k != "mlp_hidden"}
        assert self.config["mlp_hidden"] == 4 * self.config["dim"]
        model = model_class.build(self.data, self.tables, model_class.Config(**{**given, **options}))
        for name, parameter in model.named_parameters():
            self.names[name] = self.theirs(name)
            with torch.no_grad():
                value = torch.from_numpy(self[f"param.{self.names[name]}"])
                parameter.copy_(value.view_as(parameter))
        return model

    @staticmethod
    def theirs(name: str) -> str:
        """The reference's name of one of our parameters."""
        view = re.match(r"noise_towers\.(\d)\.", name)
        suffix = f".noise{int(view[1]) + 1}" if view else ""
        found = re.fullmatch(r"(?:towers\.|noise_towers\.\d\.)?(\w+)\.(preference|mlp)(.*)", name)
        if found is None:
            return name
        tower, kind, rest = found.groups()
        layer = rest.replace(".0.", ".hidden.").replace(".2.", ".out.")
        return f"{kind}.{tower.replace('id_tower', 'id')}{suffix}{layer}"

    def user_graph(self) -> Graph:
        """The graph of users that the reference drew."""
        n, k = self["graph.user_neighbours"].shape
        weight = self["graph.user_weights"].ravel()
        listed = weight > 0
        return Graph.from_edges(
            self["graph.user_neighbours"].ravel()[listed], np.arange(n).repeat(k)[listed], weight[listed],
            n_source=n, n_target=n, repeated="sum",
        )  # fmt: skip

    def check_losses(self, losses: dict[str, torch.Tensor], unread: tuple[str, ...] = ()) -> None:
        """Losses by their names, and their sum.

        Args:
            losses: ours.
            unread: parameters of the reference that we leave out, as only their regularizer reads them.
        """
        added = self.config["reg_weight"] * sum(float(np.square(self[f"param.{p}"]).mean()) for p in unread)
        for name, value in losses.items():
            assert_close(value + (added if name == "reg_weight" else 0), self[f"loss.{name}"], name)
        total = torch.stack(list(losses.values())).sum()
        assert_close(total + added, self["loss"], "total")
        total.backward()

    def check_gradients(self, model: Any, unread: tuple[str, ...] = ()) -> None:
        """Gradients of all parameters, and which of them the reference passes none; its ``unread`` ones have
        that of their regularizer alone.
        """
        parameters = dict(model.named_parameters())
        frozen = {n for n, p in parameters.items() if not p.requires_grad}
        for ours in parameters.keys() - frozen:
            expected = self[f"grad.{self.names[ours]}"].reshape(parameters[ours].shape)
            assert_close(parameters[ours].grad, expected, f"gradient of {ours}")
        assert {self.names[n] for n in frozen} == set(json.loads(str(self["no_gradient"])))
        all_theirs = {k.removeprefix("param.") for k in self.all if k.startswith("param.")}
        assert all_theirs == {*(self.names[n] for n in parameters), *unread}
        for name in unread:
            alone = 2 * self.config["reg_weight"] * self[f"param.{name}"] / self[f"param.{name}"].size
            assert_close(alone, self[f"grad.{name}"], f"gradient of {name}")

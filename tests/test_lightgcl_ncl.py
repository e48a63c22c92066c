"""LightGCL and NCL against the reference implementations, and their blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import Reference, assert_close
from tolerances import PROPAGATION

from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.graphs import augmentation
from graphrec.graphs.graph import Graph, bipartite
from graphrec.graphs.low_rank import LowRankGraph, low_rank_view
from graphrec.models.lightgcl import LightGCL
from graphrec.models.losses import InfoNCE
from graphrec.models.ncl import NCL
from graphrec.models.self_supervision import Prototypes, prototypes


def lightgcl(variant: str, **options: Any) -> tuple[Reference, LightGCL]:
    """The reference, and a model with its parameters and singular vectors."""
    reference = Reference("lightgcl", variant)
    model = reference.model(LightGCL, reg_weight=1e-4, **options)
    left, values, right = (torch.from_numpy(reference[f".draw.svd_{part}"]) for part in "usv")
    model.low_rank = LowRankGraph(left * values, right)
    return reference, model


def check_view(reference: Reference, view: torch.Tensor) -> None:
    for side, found in zip(("user", "item"), view.split([40, 60]), strict=True):
        assert_close(found, reference[f".svd_{side}_out"], f"view of {side}s")


def test_lightgcl() -> None:
    reference, model = lightgcl("official")
    check_view(reference, model.propagate([model.graph] * 2)[1])
    expected = {"bpr": "bpr", "contrast": "cl", "reg": "reg"}
    reference.check(model, model.loss(reference.batch), expected)


def layers_of(reference: Reference, graph: Graph) -> list[Graph]:
    """The graph of each layer without what the reference dropped."""
    users, items = reference.all["train_edges"]
    by_item = np.lexsort((users, items))  # the graph's order of edges to items
    found = []
    for layer in (1, 2):
        to_users, to_items = (reference[f".draw.kept_mask_{side}_layer{layer}"] for side in ("user", "item"))
        kept = torch.from_numpy(np.concatenate([to_users, to_items[by_item]]))
        found.append(augmentation.keep_entries(graph, kept, 1 / 0.75))
    return found


def test_lightgcl_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, model = lightgcl("official_dropout", dropout=0.25)
    graphs = layers_of(reference, model.graph)
    monkeypatch.setattr(model, "draw", lambda key: graphs)
    check_view(reference, model.propagate(graphs)[1])
    losses = model.loss(reference.batch)
    # The reference ranks with the embeddings of the last step, dropout included.
    monkeypatch.setattr(model, "embed", lambda: model.propagate(graphs)[0].split([40, 60]))
    reference.check(model, losses, {"bpr": "bpr", "contrast": "cl", "reg": "reg"})


def test_lightgcl_of_sslrec() -> None:
    reference, model = lightgcl("sslrec", contrast_negatives=False)
    check_view(reference, model.propagate([model.graph] * 2)[1])
    losses = model.loss(reference.batch)
    # Squares of matrices that only its regularizer sees.
    unused = sum(np.square(reference[f".param.unused_W{layer}"]).sum() for layer in (0, 1))
    losses["reg"] = losses["reg"] + 1e-4 * float(unused)
    reference.check(model, losses, {"bpr": "bpr_loss", "contrast": "cl_loss", "reg": "reg_loss"})


def ncl(variant: str, **options: Any) -> tuple[Reference, NCL]:
    """The reference, and a model with its parameters and clusters."""
    reference = Reference("ncl", variant)
    model = reference.model(NCL, **options)
    where = ".draw." if variant == "official" else "."
    clusters = [
        Prototypes(*(torch.from_numpy(reference[f"{where}{side}_{part}"]) for part in ("centroids", "cluster")))
        for side in ("user", "item")
    ]
    model.clusters = (clusters[0], clusters[1])
    return reference, model


def test_ncl() -> None:
    """Its contrasts are sums over the batch."""
    n = 24
    reference, model = ncl(
        "official", contrast_weight=1e-3 * n, item_weight=0.8, prototype_weight=2e-3 * n, reg_weight=1e-3
    )
    losses = model.loss(reference.batch)
    losses["bpr"] = losses["bpr"] + losses.pop("reg")
    expected = {"bpr": "bpr_and_reg", "structure": "struct", "prototypes": "proto"}
    reference.check(model, losses, expected)


def test_ncl_of_sslrec() -> None:
    reference, model = ncl(
        "sslrec", readout="sum", regularizer="all_squares", contrast_weight=0.01, prototype_weight=0.01,
    )  # fmt: skip
    model.contrast = InfoNCE(0.1, eps=1e-8)
    expected = {"bpr": "bpr_loss", "structure": "struct_loss", "prototypes": "proto_loss", "reg": "reg_loss"}
    reference.check(model, model.loss(reference.batch), expected)

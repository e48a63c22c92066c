"""Self-supervised models on the user-item graph against the reference implementations, and their blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import Reference, assert_close
from tolerances import PROPAGATION

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.core.random import numpy_rng
from graphrec.graphs import augmentation
from graphrec.graphs.graph import bipartite
from graphrec.models import self_supervision, simgcl, xsimgcl
from graphrec.models.batches import EpochContext, Pairs
from graphrec.models.bm3 import BM3
from graphrec.models.directau import DirectAU
from graphrec.models.freedom import FREEDOM
from graphrec.models.lattice import LATTICE
from graphrec.models.losses import AlignmentUniformity, InfoNCE
from graphrec.models.sgl import SGL, View
from graphrec.models.simgcl import SimGCL
from graphrec.models.xsimgcl import XSimGCL


def selfrec_bpr(difference: torch.Tensor) -> torch.Tensor:
    """SELFRec's: 1e-5 is added to the sigmoid."""
    return -torch.log(1e-5 + torch.sigmoid(difference)).mean()


def uniform(reference: Reference, *names: str) -> Any:
    """The reference's noise in place of one drawn from a seed."""
    tables = [torch.from_numpy(reference[f".draw.uniform_{name}"]) for name in names]

    def draw(key: torch.Tensor, n: int, shape: tuple[int, int]) -> list[torch.Tensor]:
        assert (n, shape) == (len(tables), tuple(tables[0].shape))
        return tables

    return draw


def test_simgcl(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference("simgcl", "official")
    monkeypatch.setattr(simgcl, "bpr", selfrec_bpr)
    names = [f"{view}_layer{layer}" for view in (1, 2) for layer in (1, 2, 3)]
    monkeypatch.setattr(simgcl, "uniform_noise", uniform(reference, *names))
    model = reference.model(SimGCL, contrast_weight=0.5, reg_weight=reference.config["reg"])
    losses = {name: value.detach() for name, value in model.loss(reference.batch).items()}
    # The reference's is what the other two leave of the total, in float32.
    assert abs(float(losses["reg"]) - reference[".loss.reg"]) < 2e-7
    reference.check(model, model.loss(reference.batch), {"bpr": "bpr", "contrast": "cl"})


def test_simgcl_of_sslrec(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference("simgcl", "sslrec")
    names = [f"{view}_layer{layer}" for view in (1, 2) for layer in (1, 2)]
    monkeypatch.setattr(simgcl, "uniform_noise", uniform(reference, *names))
    model = reference.model(
        SimGCL, n_layers=2, readout="sum", pool="all", regularizer="all_squares", noise=0.9,
        contrast_weight=0.1, reg_weight=1e-4,
    )  # fmt: skip
    model.contrast = InfoNCE(0.2, eps=1e-8)
    expected = {"bpr": "bpr_loss", "contrast": "cl_loss", "reg": "reg_loss"}
    reference.check(model, model.loss(reference.batch), expected)


def test_xsimgcl(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference("xsimgcl", "official")
    monkeypatch.setattr(xsimgcl, "bpr", selfrec_bpr)
    monkeypatch.setattr(xsimgcl, "uniform_noise", uniform(reference, "layer1", "layer2", "layer3"))
    model = reference.model(XSimGCL, reg_weight=reference.config["reg"])
    losses = {name: value.detach() for name, value in model.loss(reference.batch).items()}
    # The reference's is what the other two leave of the total, in float32.
    assert abs(float(losses["reg"]) - reference[".loss.reg"]) < 2e-7
    reference.check(model, model.loss(reference.batch), {"bpr": "bpr", "contrast": "cl"})


def view_of(reference: Reference, number: int) -> View:
    """The view that the reference drew."""
    train, variant = reference.data.train, reference.variant
    if variant == "official_nd":
        dropped = (reference[f".draw.dropped_{side}_{number}"] for side in ("users", "items"))
        return View([augmentation.without_nodes(train, *dropped)] * 2)

    def kept(name: str) -> Any:
        mask = np.zeros(len(train), bool)
        mask[reference[f".draw.kept_edges_{name}"]] = True
        users, items = reference.all["train_edges"][:, mask]
        return bipartite(testing.dataset(np.stack([users, items], 1), [], 40, 60, "kept").train)

    if variant == "official_rw":
        return View([kept(f"{number}_layer{layer}") for layer in (0, 1)])
    return View([kept(str(number))] * 2)


@pytest.mark.parametrize("variant", ["official_ed", "official_nd", "official_rw"])
def test_sgl(variant: str) -> None:
    reference = Reference("sgl", variant)
    model = reference.model(SGL, n_layers=2, reg_weight=1e-3)
    model.views = [view_of(reference, number) for number in (1, 2)]
    losses = model.loss(reference.batch)
    n = len(reference.batch.users)
    assert_close(n / 0.1 * losses["contrast"], reference[".loss.infonce_unweighted"], "contrast")
    assert_close(n / 1e-3 * losses["reg"], reference[".loss.reg_unweighted"], "reg")
    reference.check(model, losses, {"bpr": "bpr"}, scale=n)


@pytest.mark.parametrize("drop", ["edge", "node"])
def test_sgl_of_sslrec(drop: str) -> None:
    reference = Reference("sgl", f"sslrec_{drop}_drop")
    model = reference.model(
        SGL, n_layers=2, readout="sum", contrast_weight=1.0, contrast_negatives=True,
        regularizer="all_squares", reg_weight=1e-5,
    )  # fmt: skip
    model.contrast = InfoNCE(0.2, eps=1e-8)
    masks = [torch.from_numpy(reference[f".draw.kept_mask_{number}"].astype(bool)) for number in (1, 2)]
    if drop == "node":
        model.views = [View([model.graph] * 2, mask) for mask in masks]
    else:
        order = reference.edge_order(model.graph)
        kept = [augmentation.keep_entries(model.graph, mask[order]) for mask in masks]
        model.views = [View([graph] * 2) for graph in kept]
    expected = {"bpr": "bpr_loss", "contrast": "cl_loss", "reg": "reg_loss"}
    reference.check(model, model.loss(reference.batch), expected)


@pytest.mark.parametrize(
    ("variant", "n_layers"), [("official_mf", 0), ("official_lightgcn", 2), ("sslrec", 2)]
)
def test_directau(variant: str, n_layers: int) -> None:
    reference = Reference("directau", variant)
    model = reference.model(DirectAU, n_layers=n_layers, gamma=2.0)
    losses = model.loss(Pairs(reference.batch.users, reference.batch.positives))
    reference.check(model, losses, {"alignment_uniformity": "total"})


# -- blocks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy() -> Any:
    return Reference("sgl", "official_ed").data


def test_views_of_the_graph(toy) -> None:
    train = toy.train
    whole = bipartite(train)
    found = augmentation.drop_edges(train, 0.2, numpy_rng(0, "edges"))
    assert len(found) == 2 * int(0.8 * len(train))
    assert torch.equal(found.dense(), found.dense().T)
    degree = (found.dense() > 0).sum(1)
    source, target = found.col.long(), found.target
    assert torch.allclose(found.weight, (degree[source] * degree[target]) ** -0.5)
    alike = augmentation.drop_edges(train, 0.2, numpy_rng(0, "edges"))
    assert torch.equal(found.dense(), alike.dense())

    found = augmentation.drop_nodes(train, 0.25, numpy_rng(0, "nodes"))
    lost = ((found.dense().sum(1) == 0) & (whole.dense().sum(1) > 0)).nonzero().squeeze(1)
    assert (lost < train.n_users).sum() >= train.n_users // 4
    assert (lost >= train.n_users).sum() >= train.n_items // 4
    kept = (found.dense() > 0).nonzero()
    assert not torch.isin(kept, lost).any()

    found = augmentation.drop_entries(whole, 0.4, numpy_rng(0, "entries"), rescale=True)
    assert 0.5 < len(found) / len(whole) < 0.7
    entries = found.dense() > 0
    assert torch.allclose(found.dense()[entries], whole.dense()[entries] / 0.6)
    assert not torch.equal(entries, entries.T)
    x = torch.rand(whole.n_source, 3, requires_grad=True)
    (found @ x).sum().backward()
    assert torch.allclose(x.grad, found.dense().sum(0)[:, None].expand(-1, 3), atol=PROPAGATION)


def test_sign_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(30, 8, generator=rng)
    x[3] = 0
    uniform = torch.rand(30, 8, generator=rng)
    moved = self_supervision.sign_noise(x, uniform, 0.3) - x
    assert torch.allclose(moved.norm(dim=1)[x.any(1)], torch.tensor(0.3))
    assert (moved * x >= 0).all(), "in the same orthant"
    assert not moved[3].any()


@pytest.mark.parametrize("readout", ["mean", "sum", "layers"])
def test_readouts(toy, readout) -> None:
    graph = bipartite(toy.train)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(100, 8, generator=rng)
    dense = graph.dense()
    expected = {
        "mean": (x + dense @ x + dense @ dense @ x) / 3,
        "sum": x + dense @ x + dense @ dense @ x,
        "layers": (dense @ x + dense @ dense @ x) / 2,
    }[readout]
    found = torch.cat(self_supervision.read_out(graph, x[:40], x[40:], 2, readout))
    assert torch.allclose(found, expected, atol=PROPAGATION)
    by_layer = self_supervision.noisy_layers(graph, x, [torch.rand(100, 8)] * 2, 0.0)
    assert torch.allclose(self_supervision.combine(by_layer, readout), expected, atol=PROPAGATION)


def test_pools() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.randn(9, 4, generator=rng) for _ in range(2))
    ids = torch.tensor([2, 5, 2, 7])
    loss = InfoNCE(0.5)
    cosines = torch.nn.functional.normalize(one) @ torch.nn.functional.normalize(other).T / 0.5
    every = cosines.logsumexp(1) - cosines.diagonal()
    assert torch.allclose(self_supervision.contrast(loss, one, other, ids, "all"), every[ids].mean())
    distinct = torch.tensor([2, 5, 7])
    within = cosines[distinct][:, distinct]
    expected = (within.logsumexp(1) - within.diagonal()).mean()
    assert torch.allclose(self_supervision.contrast(loss, one, other, ids, "batch"), expected)


def test_an_epoch_of_views_or_one_of_a_step(toy) -> None:
    model = SGL.build(toy, None, SGL.Config(views="walks", dropout=0.3))
    model.start_epoch(numpy_rng(0, "start_epoch", 1))
    of_epoch = [[graph.dense() for graph in view.graphs] for view in model.views]
    different = {tuple(graph.flatten().tolist()) for view in of_epoch for graph in view}
    assert len(different) == 6, "other edges in each layer of each view"
    step = SGL.build(toy, None, SGL.Config(dropout=0.3, redraw="step"))
    step.start_epoch(numpy_rng(0, "start_epoch", 1))
    batch = Reference("sgl", "official_ed").batch
    values = [
        float(step.loss(batch._replace(key=torch.tensor(key)))["contrast"].detach()) for key in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]


def test_the_contrasted_layer_is_one_of_the_layers() -> None:
    with pytest.raises(ConfigError) as refused:
        XSimGCL.Config(n_layers=2, contrast_layer=3)
    assert "contrast_layer=3" in str(refused.value)
    assert "n_layers=2" in str(refused.value)


# -- terms of other models -----------------------------------------------------------------------------------

WITH_TERMS = (FREEDOM, LATTICE, BM3)


def test_terms_of_a_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    users, items = (torch.randn(6, 8, generator=rng) for _ in range(2))
    ids = torch.tensor([3, 1, 3, 0, 4, 5]), torch.tensor([7, 7, 2, 1, 0, 7])
    config = self_supervision.SelfSupervisedTermsConfig(contrast_weight=0.3, uniformity_weight=2.0)
    key = torch.tensor(5)
    found = self_supervision.self_supervised_terms(config, users, items, ids, key)

    expected = torch.zeros(())
    for side, x, index in (("users", users, ids[0]), ("items", items, ids[1])):
        copies = []
        for view in (1, 2):
            noise = self_supervision.row_noise(index, 8, key, f"{side}/{view}")
            assert torch.equal(noise[:1], self_supervision.row_noise(index[:1], 8, key, f"{side}/{view}"))
            copies.append(torch.nn.functional.normalize(self_supervision.sign_noise(x, noise, 0.1)))
        logits = copies[0] @ copies[1].T / 0.2
        other = index[:, None] != index
        for row in range(6):
            kept = other[row].clone()
            kept[row] = True
            expected += (logits[row][kept].logsumexp(0) - logits[row, row]) / 6
    assert torch.allclose(found["contrast"], 0.3 * expected, atol=1e-5)
    alone = AlignmentUniformity(2.0)(users, items) - AlignmentUniformity(0.0)(users, items)
    assert torch.allclose(found["uniformity"], alone, atol=1e-6)
    none = self_supervision.SelfSupervisedTermsConfig()
    assert self_supervision.self_supervised_terms(none, users, items, ids, key) == {}


def test_noise_of_rows_is_uniform() -> None:
    noise = self_supervision.row_noise(torch.arange(3000), 8, torch.tensor(1), "x")
    assert 0 < noise.min() < 1e-3
    assert 1 - 1e-3 < noise.max() < 1
    assert abs(float(noise.mean()) - 0.5) < 0.01
    assert abs(float(noise.var()) - 1 / 12) < 0.005


@pytest.mark.parametrize("check", ["learns_the_checkerboard", "processes", "repeats_bit_for_bit"])
@pytest.mark.parametrize("model_class", WITH_TERMS, ids=lambda cls: cls.name)
def test_contract_with_terms(model_class: Any, check: str) -> None:
    testing.CHECKS[check](model_class, model_class.Config(contrast_weight=0.05, uniformity_weight=0.05))


@pytest.mark.parametrize("model_class", WITH_TERMS, ids=lambda cls: cls.name)
def test_terms_are_in_the_loss(model_class: Any) -> None:
    data, tables = testing.communities(2, 20)
    found = {}
    for weight in (0.0, 0.1):
        config = model_class.Config(contrast_weight=weight, uniformity_weight=weight)
        model = model_class.build(data, tables, config)
        found[weight] = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
    assert set(found[0.1]) - set(found[0.0]) == {"contrast", "uniformity"}
    assert all(torch.equal(found[0.1][name], value) for name, value in found[0.0].items())

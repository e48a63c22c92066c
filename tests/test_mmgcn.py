"""MMGCN against the authors' code, its options, and content of all items."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cold_catalog import cold_catalog
from reference import MODALITIES, assert_close
from tolerances import PROPAGATION
from torch.nn.functional import leaky_relu, normalize
from zoo import IDS, Zoo

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.core.random import numpy_rng
from graphrec.graphs.graph import bipartite
from graphrec.models.batches import EpochContext
from graphrec.models.grcn import GRCN
from graphrec.models.item_content import ItemContent
from graphrec.models.mmgcn import MMGCN
from graphrec.models.slmrec import SLMRec
from graphrec.serving import Recommender

NAMES = {"id_embedding": IDS}
for m in MODALITIES:
    NAMES[f"preference.{m}"] = f"towers.{m}.preference"
    for n in range(3):
        ours = f"towers.{m}.layers.{n}"
        NAMES[f"{m}.{n + 1}.neighbours"] = f"{ours}.neighbors.weight.T"
        for part in ("weight", "bias"):
            NAMES[f"{m}.{n + 1}.self.{part}"] = f"{ours}.own.{part}"
            NAMES[f"{m}.{n + 1}.combine.{part}"] = f"{ours}.combine.{part}"
for part in ("weight", "bias"):
    NAMES[f"project.image.{part}"] = f"towers.image.content.projection.{part}"


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return Zoo("mmgcn")


def of_the_reference(zoo: Zoo, **options) -> MMGCN:
    given = {
        "dim": 16, "projected_dims": {"image": 24}, "reg_weight": 0.1,
        "regularized_preferences": ("image",),
    }  # fmt: skip
    model = MMGCN.build(zoo.data, zoo.tables, MMGCN.Config(**given | options))
    zoo.load(model, NAMES)
    return model


def test_losses_gradients_and_scores(zoo) -> None:
    model = of_the_reference(zoo)
    ids = torch.cat(model.id_embeddings)
    for m in MODALITIES:
        assert_close(model.towers[m](model.graph, ids), zoo[f"mid.{m}"], m)
    zoo.check_losses(model, model.loss(zoo.batch), {"bpr": "bpr", "reg": "reg"})
    zoo.check_gradients(model, NAMES)
    # The toy's item without interactions is where the reference leaves it.
    model = of_the_reference(zoo, cold_items="as_trained")
    zoo.check_embeddings(model)


def test_what_the_authors_code_does_not_train(zoo) -> None:
    model = of_the_reference(zoo, train_ids=False)
    losses = model.loss(zoo.batch)
    zoo.check_losses(model, losses, {"bpr": "bpr", "reg": "reg"})
    fixed = {
        "user_embedding.weight",
        "item_embedding.weight",
        *(f"towers.{m}.preference" for m in MODALITIES),
    }
    assert fixed == {name for name, p in model.named_parameters() if p.grad is None}
    assert fixed == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed < set(model.state_dict())


def test_preferences_of_all_modalities_are_regularized(zoo) -> None:
    every, image = (of_the_reference(zoo, regularized_preferences=m) for m in (None, ("image",)))
    added = every.loss(zoo.batch)["reg"] - image.loss(zoo.batch)["reg"]
    expected = 0.1 * np.square(zoo["param.preference.text"]).mean()
    assert abs(float(added.detach()) - expected) < 1e-6 * expected + 1e-8
    with pytest.raises(ConfigError, match=r"audio.*image"):
        of_the_reference(zoo, regularized_preferences=("audio",))


@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_number_of_layers_is_an_option(zoo, n_layers: int) -> None:
    config = MMGCN.Config(dim=5, n_layers=n_layers, projected_dims={"text": 7})
    model = MMGCN.build(zoo.data, zoo.tables, config)
    adjacency = (bipartite(zoo.data.train).dense() > 0).float()
    mean = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
    ids = torch.cat(model.id_embeddings)
    outputs = []
    for m in MODALITIES:
        tower = model.towers[m]
        assert len(tower.layers) == n_layers
        x = torch.from_numpy(zoo[m])
        if m == "text":
            x = tower.content.projection(x)
        assert x.shape[1] == (7 if m == "text" else 16)
        x = normalize(torch.cat([tower.preference, x]), dim=1)
        for layer in tower.layers:
            h = leaky_relu(mean @ x @ layer.neighbors.weight.T)
            s = leaky_relu(x @ layer.own.weight.T + layer.own.bias) + ids
            x = leaky_relu(torch.cat([h, s], 1) @ layer.combine.weight.T + layer.combine.bias)
        outputs.append(x)
    found = torch.cat(model.propagate())
    expected = torch.stack(outputs).mean(0)
    assert torch.allclose(found, expected, atol=PROPAGATION * float(expected.detach().abs().max()))


def test_initial_ids_are_those_of_one_table() -> None:
    data, tables = testing.communities(4, 60)
    model = MMGCN.build(data, tables, MMGCN.Config(dim=64))
    expected = (2 / (data.n_users + data.n_items + 64)) ** 0.5
    for table in model.id_embeddings:
        assert abs(float(table.detach().std()) / expected - 1) < 0.05


# -- content of all items ------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("n_out", [None, 3])
def test_items_without_content_are_zero(unit: bool, n_out: int | None) -> None:
    data, _ = testing.communities(2, 20)
    vectors = numpy_rng(0, "tests/content").normal(size=(data.n_items, 6))
    table = testing.features_of(data, vectors, missing=(1, 2))["image"]
    generator = torch.Generator().manual_seed(0)
    content = ItemContent(table, n_out, MMGCN.Config(), data.train, generator, unit=unit)
    x = torch.from_numpy(np.delete(vectors, [1, 2], 0).astype(np.float32))
    expected = normalize(x, dim=1) if unit else x
    if n_out is not None:
        expected = content.projection(expected)
    found = content()
    assert found.shape == (data.n_items, content.dim)
    assert not found[[1, 2]].any()
    kept = np.delete(np.arange(data.n_items), [1, 2])
    assert torch.allclose(found[kept], expected, atol=PROPAGATION)
    filled = ItemContent(table, n_out, MMGCN.Config(fill="mean"), data.train, generator, unit=unit)()
    assert torch.equal(filled[1], filled[2])
    assert filled[1].any()


def test_any_number_of_any_modalities_will_do() -> None:
    data, tables = testing.communities(2, 20)
    for names in (["audio"], ["video", "audio", "image"]):
        given = dict.fromkeys(names, tables["text"])
        model = testing.train(MMGCN, MMGCN.Config(dim=8), data, given, 1)
        assert list(model.towers) == sorted(names)
        assert (model.towers[sorted(names)[0]].content.projection is None) == (sorted(names)[0] != "image")
        assert torch.isfinite(model.score(np.arange(data.n_users))).all()


@pytest.mark.parametrize("model_class", [MMGCN, GRCN, SLMRec])
def test_mixed_precision(model_class) -> None:
    data, tables = testing.communities(2, 20)
    model = model_class.build(data, tables, model_class.Config(dim=8))
    batch = next(iter(model.batches(EpochContext(1, 64, 0))))
    exact = {name: value.detach() for name, value in model.loss(batch).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.loss(batch)
    torch.stack([value.float() for value in found.values()]).sum().backward()
    for name, value in found.items():
        assert abs(value - exact[name]) <= 0.02 * abs(exact[name]) + 1e-3, name
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_cold_items_are_placed_as_the_recommender_places_new_ones() -> None:
    data, tables, _ = cold_catalog()
    config = MMGCN.Config(dim=8, knn_k=5)
    model = testing.train(MMGCN, config, data, tables, 2)
    items = model.embed()[1].detach()
    trained = model.propagate()[1].detach()
    warm, rows = data.train.item_degree > 0, [i for i in data.cold_items if i != 33]  # 33 has no content
    assert torch.equal(items[warm], trained[warm])
    new = [f"new-{i}" for i in rows]
    rec = Recommender.from_model(model, data, tables).add_items(
        new, {m: t.take(rows) for m, t in tables.items()}
    )
    placed = rec.item_vectors[rec.items.indices(new)]
    assert np.abs(placed - items[rows].numpy()).max() <= PROPAGATION * float(items[rows].abs().max())
    assert (items[rows] - trained[rows]).abs().max() > 1e-4

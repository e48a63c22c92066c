"""VBPR against its formulas written out, its missing modalities, cold items, precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cold_catalog import gaps
from tolerances import BFLOAT16, PARITY, SCORE

from graphrec import testing
from graphrec.core.errors import ConfigError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions
from graphrec.evaluation.ranking import evaluate
from graphrec.models.batches import EpochContext, triplets
from graphrec.models.train_config import TrainConfig
from graphrec.models.vbpr import VBPR, Batch
from graphrec.training.trainer import Trainer


@pytest.fixture(scope="module")
def catalog():
    """Items 1 to 3 without a picture, 3 without a text either, 4 to 9 without train interactions."""
    return gaps(12, 7, [1, 2, 3], [3])


def trained(data, tables, epochs: int = 3, **options) -> VBPR:
    model = VBPR.build(data, tables, VBPR.Config(dim=8, **options))
    settings = TrainConfig(epochs=epochs, patience=None, batch_size=64, learning_rate=0.01, device="cpu")
    Trainer(settings).fit(model)
    return model


def plain(tables) -> torch.Tensor:
    """All features side by side, zero where missing ``(n_items, 19)``."""
    parts = [np.where(t.present[:, None], t.numpy(), 0) for t in tables.values()]
    return torch.from_numpy(np.concatenate(parts, 1))


def test_loss_and_gradients_are_those_of_the_formulas(catalog) -> None:
    """The projection of all features side by side, each triplet on its own, norms of whole vectors."""
    data, tables = catalog
    model = VBPR.build(data, tables, VBPR.Config(dim=8, content_dim=5, reg_weight=0.3))
    plan = EpochContext(1, 100, 0)
    batch, (users, positives, negatives) = next(model.batches(plan)), next(triplets(data.train, plan))
    leaves = [model.user_embedding.weight, model.item_embedding.weight, model.projection.weight]
    found = model.loss(batch)
    gradients = torch.autograd.grad(sum(found.values()), leaves)

    user, ids, w = leaves
    vectors = torch.cat([ids, plain(tables) @ w.T], 1)  # (n_items, 13)
    u, p, n = user[users], vectors[positives], vectors[negatives]
    bpr = -torch.log(torch.sigmoid((u * p).sum(1) - (u * n).sum(1))).mean()
    reg = 0.3 * sum(v.square().sum().sqrt() for v in (u, p, n)) / 100
    assert torch.allclose(found["bpr"], bpr, rtol=PARITY)
    assert torch.allclose(found["reg"], reg, rtol=PARITY)
    for one, other in zip(gradients, torch.autograd.grad(bpr + reg, leaves), strict=True):
        assert torch.allclose(one, other, atol=PARITY * float(other.abs().max()))


def test_a_batch_names_each_of_its_items_once(catalog) -> None:
    data, tables = catalog
    model, plan = VBPR.build(data, tables), EpochContext(3, 150, 1)
    for batch, triple in zip(model.batches(plan), triplets(data.train, plan), strict=True):
        assert isinstance(batch, Batch)
        assert len(batch.items.unique()) == len(batch.items) < 2 * len(batch.users)
        assert torch.equal(batch.users, triple.users)
        assert torch.equal(batch.items[batch.positives], triple.positives)
        assert torch.equal(batch.items[batch.negatives], triple.negatives)


def test_scores_are_both_parts_added_up(catalog) -> None:
    data, tables = catalog
    model = trained(data, tables, cold_items="as_trained")
    user, ids, w = (model.user_embedding.weight, model.item_embedding.weight, model.projection.weight)
    expected = user[:, :8] @ ids.T + user[:, 8:] @ (plain(tables) @ w.T).T
    assert torch.allclose(model.score(np.arange(data.n_users)), expected, atol=10 * SCORE)


def test_cold_items_are_scored_by_content_alone(catalog) -> None:
    data, tables = catalog
    model = trained(data, tables)
    cold = data.train.item_degree == 0
    _, items = model.embed()
    assert not items[cold, :8].any()
    assert items[cold, 8:].abs().sum(1).min() > 0
    assert torch.equal(items[~cold, :8], model.item_embedding.weight[~cold])
    kept = VBPR.build(data, tables, model.config.replace(cold_items="as_trained"))
    kept.load_state_dict(model.state_dict())
    assert torch.equal(kept.embed()[1][:, :8], model.item_embedding.weight)
    assert torch.equal(kept.embed()[1][:, 8:], items[:, 8:])


def test_reports_say_how_cold_items_were_scored(catalog) -> None:
    data, tables = catalog
    held = Interactions([0, 1], [5, 6], data.n_users, data.n_items)
    for option, expected in (("content", "from content"), ("as_trained", "as trained")):
        model = VBPR.build(data, tables, VBPR.Config(dim=4, cold_items=option))
        assert evaluate(model, held, seen=None, k=5).meta["cold_items"] == expected


def test_a_missing_modality_adds_nothing_unless_filled(catalog) -> None:
    data, tables = catalog
    x = tables["text"].numpy()
    for fill in ("zero", "mean", "neighbors"):
        model = VBPR.build(data, tables, VBPR.Config(dim=8, fill=fill))
        image, text = model.weights().values()
        content = model.embed()[1][:, 8:]
        if fill == "zero":
            assert torch.allclose(content[1], text @ torch.from_numpy(x[1]), atol=SCORE)
            assert not content[3].any()
        elif fill == "mean":
            mean = torch.from_numpy(tables["image"].numpy()[tables["image"].present].mean(0))
            expected = image @ mean + text @ torch.from_numpy(x[1])
            assert torch.allclose(content[1], expected, atol=10 * SCORE)
        assert bool(content[3].any()) == (fill != "zero")


def test_any_modalities_will_do(catalog) -> None:
    data, tables = catalog
    alone = VBPR.build(data, {"sound": tables["text"]}, VBPR.Config(dim=4))
    assert alone.embed()[1].shape == (data.n_items, 8)
    assert set(alone.cold_start_rule.weights) == {"sound"}
    with pytest.raises(FeatureError, match="features build"):
        VBPR.build(data, {})
    with pytest.raises(ConfigError, match="content_dim"):
        VBPR.Config(content_dim=0)


def test_content_finds_cold_items() -> None:
    """On communities whose features tell the group, and better than with the noise of untrained ID parts."""
    full, features = testing.communities(4, 60)
    cold = np.arange(full.n_items) % 7 == 3
    train, test = full.train.where(~cold[full.train.items]), full.train.where(cold[full.train.items])
    pairs = [np.stack([part.users, part.items], 1) for part in (train, test)]
    data = testing.dataset(*pairs, full.n_users, full.n_items, "cold")
    found = {}
    for option in ("content", "as_trained"):
        model = VBPR.build(data, features, VBPR.Config(dim=16, reg_weight=0.01, cold_items=option))
        settings = TrainConfig(epochs=30, patience=None, batch_size=64, learning_rate=0.01, device="cpu")
        Trainer(settings).fit(model)
        report = evaluate(model, data.test, seen=data.train, candidates=np.flatnonzero(cold), k=3)
        found[option] = report.mean()["recall@3"]
    assert found["content"] > 3 * 3 / cold.sum(), "three times what chance finds"
    assert found["content"] > found["as_trained"]


def test_bfloat16_features_give_nearly_the_same_scores() -> None:
    data, _ = testing.communities(4, 30)
    tables = testing.features_of(data, numpy_rng(0, "tests/wide").normal(size=(data.n_items, 64)))
    full, half = (
        trained(data, tables, 20, feature_dtype=dtype).score(np.arange(data.n_users))
        for dtype in ("float32", "bfloat16")
    )
    difference = (full - half).square().mean().sqrt() / full.std()
    assert 0 < difference < 10 * BFLOAT16  # here the rounded features are half of every score

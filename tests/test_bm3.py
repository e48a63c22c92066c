"""BM3: numbers of the reference implementation, its dropout, what is projected, missing modalities, cold
items.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cold_catalog import cold_catalog
from reference import MODALITIES, assert_close, dataset, numbers
from tolerances import BFLOAT16_BM3, PROPAGATION, SCORE
from torch.nn.functional import cosine_similarity, linear

from graphrec import testing
from graphrec.core.errors import ConfigError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.features import FeatureTable
from graphrec.models.batches import EpochContext
from graphrec.models.bm3 import BM3, Pairs
from graphrec.models.layers import ItemFeatures, row_dropout
from graphrec.models.train_config import TrainConfig
from graphrec.serving import Recommender
from graphrec.training.trainer import Trainer


def pairs(users, items, key: int = 1) -> Pairs:
    """A batch of users ``(B,)`` with one item each ``(B,)``."""
    distinct, position, counts = torch.unique(torch.as_tensor(items), return_inverse=True, return_counts=True)
    return Pairs(torch.as_tensor(users), distinct, position, counts.float(), torch.tensor(key))


def total(model: BM3, batch: Pairs) -> torch.Tensor:
    return torch.stack(list(model.loss(batch).values())).sum()


# -- the reference -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy() -> dict[str, np.ndarray]:
    return numbers()


@pytest.fixture(scope="module")
def data(toy) -> Dataset:
    return dataset(toy)


def reference_model(toy, data: Dataset, train_features: bool = False) -> tuple[BM3, dict[str, torch.Tensor]]:
    """BM3 with the fixture's features, options and parameters; its parameters by the reference's names."""
    tables = {m: FeatureTable.from_array(toy[m], data, m) for m in MODALITIES}
    config = BM3.Config(**json.loads(str(toy["bm3.config"])), train_features=train_features)
    model = BM3.build(data, tables, config)
    ours = {
        "user_embedding.weight": model.user_embedding.weight,
        "item_id_embedding.weight": model.item_embedding.weight,
        "predictor.weight": model.predictor.weight,
        "predictor.bias": model.predictor.bias,
    }
    for m in MODALITIES:
        layer = model.projections[m]
        ours |= {f"{m}_trs.weight": layer.weight, f"{m}_trs.bias": layer.bias}
        if train_features:
            ours[f"{m}_embedding.weight"] = model.features[m].values
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(torch.from_numpy(toy[f"bm3.param.{name}"]))
    return model, ours


def test_embeddings_and_scores_are_those_of_the_reference(toy, data) -> None:
    model, _ = reference_model(toy, data)
    users, items = model.propagate()
    assert_close(users, toy["bm3.user_out"], "user embeddings before the predictor")
    assert_close(items, toy["bm3.item_out"], "item embeddings before the predictor")
    assert_close(model.score(np.arange(data.n_users)), toy["bm3.scores"], "scores")


@pytest.mark.parametrize("train_features", [False, True])
def test_loss_and_every_gradient_are_those_of_the_reference(toy, data, train_features: bool) -> None:
    model, ours = reference_model(toy, data, train_features)
    assert sorted(map(id, ours.values())) == sorted(map(id, model.parameters()))
    loss = total(model, pairs(toy["batch_users"], toy["batch_pos"]))
    assert_close(loss, toy["bm3.loss"], "loss")
    loss.backward()
    expected = {k.removeprefix("bm3.grad."): v for k, v in toy.items() if k.startswith("bm3.grad.")}
    if not train_features:
        for m in MODALITIES:
            del expected[f"{m}_embedding.weight"]
    assert set(expected) == set(ours)
    for name, gradient in expected.items():
        assert_close(ours[name].grad, gradient, f"gradient of {name}")


# -- batches and dropout -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalog() -> tuple[Dataset, dict[str, FeatureTable]]:
    """Communities with items 1-3 without content."""
    made, _ = testing.communities(2, 20)
    vectors = numpy_rng(0, "tests/bm3").normal(size=(made.n_items, 6))
    return made, testing.features_of(made, vectors, missing=(1, 2, 3))


def test_an_epoch_visits_every_interaction_once(catalog) -> None:
    data, tables = catalog
    model = BM3.build(data, tables)
    batches = list(model.batches(EpochContext(3, 64, 0)))
    seen = np.concatenate([np.stack([b.users, b.items[b.position]], 1) for b in batches])
    assert sorted(map(tuple, seen)) == sorted(zip(data.train.users, data.train.items, strict=True))
    assert not np.array_equal(seen[:, 0], data.train.users)
    for b in batches:
        assert len(b.users) <= 64
        assert torch.equal(b.items.unique(), b.items)
        assert torch.equal(b.counts, torch.bincount(b.position).float())
    keys = torch.stack([b.key for b in batches])
    assert len(keys.unique()) == len(batches)
    again, later, other = (
        torch.stack([b.key for b in model.batches(EpochContext(epoch, 64, seed))])
        for epoch, seed in ((3, 0), (4, 0), (3, 1))
    )
    assert torch.equal(keys, again)
    assert not set(keys.tolist()) & {*later.tolist(), *other.tolist()}


def zeroed(index, dim: int, p: float, key: int) -> torch.Tensor:
    index = torch.as_tensor(index)
    return row_dropout(torch.ones(len(index), dim), index, p, torch.tensor(key)) == 0


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_dropout_zeroes_the_stated_share_and_entries_are_independent(p: float) -> None:
    n, d = 4000, 64
    masks = [zeroed(torch.arange(n), d, p, key).double() for key in (1, 2, 2**62 + 5)]
    deviation = (p * (1 - p)) ** 0.5
    for mask in masks:
        assert abs(mask.mean() - p) < 5 * deviation / (n * d) ** 0.5
        assert (mask.mean(0) - p).abs().max() < 5 * deviation / n**0.5  # each column
        assert (mask.mean(1) - p).abs().max() < 6 * deviation / d**0.5  # each row
        spread = mask.sum(1).var() / (d * deviation**2)
        assert abs(spread - 1) < 5 * (2 / n) ** 0.5  # entries of a row do not go together
        between = torch.corrcoef(mask.T) - torch.eye(d)
        assert between.abs().max() < 5.5 / n**0.5
        below = ((mask[1:] - p) * (mask[:-1] - p)).mean() / deviation**2
        assert abs(below) < 5 / (n * d) ** 0.5  # neither do rows that follow one another
    for one, two in ((0, 1), (0, 2), (1, 2)):
        together = ((masks[one] - p) * (masks[two] - p)).mean() / deviation**2
        assert abs(together) < 5 / (n * d) ** 0.5  # nor two steps


def test_dropout_of_a_row_depends_on_no_other_row() -> None:
    table = zeroed(torch.arange(500), 30, 0.4, 7)
    index = torch.from_numpy(numpy_rng(0, "tests/rows").integers(0, 500, 300))  # some more than once
    assert torch.equal(zeroed(index, 30, 0.4, 7), table[index])
    assert not torch.equal(zeroed(index, 30, 0.4, 8), table[index])
    x = torch.randn(300, 30, generator=torch.Generator().manual_seed(0))
    dropped = row_dropout(x, index, 0.4, torch.tensor(7))
    assert torch.equal(dropped, torch.where(table[index], 0.0, x))
    assert row_dropout(x, index, 0.0, torch.tensor(7)) is x


def test_dropout_is_splitmix64_in_plain_integers() -> None:
    """The same entries on every device and with every version of torch."""
    whole = 2**64 - 1

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & whole
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & whole
        return z ^ (z >> 31)

    assert mixed(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first output published for seed 0
    key, dim, p = 2**63 - 12345, 6, 0.3
    rows = [0, 3, 2**33]
    expected = []
    for row in rows:
        entries = []
        for n in (2 * row, 2 * row + 1):
            output = mixed(mixed(key) + n * 0x9E3779B97F4A7C15 & whole)
            entries += [(output >> 16 * at & 0xFFFF) ^ 0x8000 for at in range(4)]  # as int16, from -2^15
        expected.append([entry < round(p * 2**16) for entry in entries[:dim]])
    assert zeroed(rows, dim, p, key).tolist() == expected


def masked(model: BM3, table: torch.Tensor, of: str, batch: Pairs) -> torch.Tensor:
    """A whole table through this step's dropout, then scaled as everybody else's dropout scales."""
    index = torch.arange(len(table))
    return model.target(table, of, index, batch.key) / (1 - model.config.dropout)


def pair_by_pair(model: BM3, batch: Pairs) -> dict[str, torch.Tensor]:
    """The losses as the paper writes them: whole tables, one term a pair, plain means."""
    users, items = model.propagate()
    u, i = batch.users, batch.items[batch.position]
    user_target, item_target = masked(model, users, "users", batch), masked(model, items, "items", batch)
    predict, weight = model.predictor, model.config.cl_weight
    terms = {
        "rec": (1 - cosine_similarity(predict(users)[u], item_target[i]).mean())
        + (1 - cosine_similarity(predict(items)[i], user_target[u]).mean()),
        "reg": model.config.reg_weight * (users.norm() + items.norm()) / model.n_items,
    }
    for m in model.projections:
        x = model.projections[m](model.features[m].values)
        has = i[model.features[m].present[i]]
        x_target, online = masked(model, x, f"modality/{m}", batch), predict(x)
        terms[f"align_{m}"] = weight * (1 - cosine_similarity(online[has], item_target[has]).mean())
        terms[f"mask_{m}"] = weight * (1 - cosine_similarity(online[has], x_target[has]).mean())
    return terms


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_losses_are_means_over_pairs_whose_item_has_the_modality(catalog, dropout: float) -> None:
    data, tables = catalog
    model = BM3.build(data, tables, BM3.Config(dim=10, dropout=dropout, cl_weight=1.5, reg_weight=0.3))
    batch = pairs([0, 1, 2, 3, 4, 5, 0, 6], [10, 1, 10, 13, 2, 7, 7, 10])  # items 1 and 2 have no content
    expected, found = pair_by_pair(model, batch), model.loss(batch)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert abs(found[name] - value) <= SCORE * 4, name
    parameters = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad(torch.stack(list(terms.values())).sum(), parameters)
        for terms in (found, expected)
    )
    for one, two in zip(ours, theirs, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=SCORE)


def test_masks_differ_between_tables_and_steps(catalog) -> None:
    model = BM3.build(*catalog)
    x, index = torch.ones(model.n_items, 64), torch.arange(model.n_items)
    tables = ("users", "items", "modality/image", "modality/text")
    found = [model.target(x, of, index, torch.tensor(key)) == 0 for of in tables for key in (5, 6)]
    for at, one in enumerate(found):
        for two in found[:at]:
            agreement = (one == two).float().mean()
            assert abs(agreement - 0.5) < 0.05


# -- what is projected ---------------------------------------------------------------------------------------


def test_only_items_of_the_batch_are_projected(catalog) -> None:
    model = BM3.build(*catalog)
    batch = pairs([0, 1, 2, 3], [10, 7, 10, 13])
    expected = total(model, batch)
    elsewhere = np.setdiff1d(np.arange(model.n_items), [7, 10, 13])
    for m in MODALITIES:
        model.features[m].values[elsewhere] = torch.nan
    assert torch.equal(total(model, batch), expected)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("n", [0, 1, 30, 300])  # of 40 items
def test_projected_rows_are_those_of_the_layer(catalog, trained: bool, n: int) -> None:
    features = ItemFeatures(catalog[1]["image"], trained)
    weight = torch.nn.Parameter(
        torch.from_numpy(numpy_rng(0, "tests/w").normal(size=(3, 6)).astype(np.float32))
    )
    leaves = [weight, *([features.values] if trained else [])]
    for repeat in range(2):  # the second time in the memory of the first
        items = torch.from_numpy(numpy_rng(repeat, "tests/items").integers(0, 40, n))
        above = torch.from_numpy(numpy_rng(0, "tests/above").normal(size=(n, 3)).astype(np.float32))
        found, expected = features.projected(weight, items), linear(features.values[items], weight)
        assert torch.allclose(found, expected, atol=SCORE)
        both = (torch.autograd.grad(y, leaves, above) for y in (found, expected))
        for one, two in zip(*both, strict=True):
            assert torch.allclose(one, two, rtol=1e-4, atol=1e-4)  # over 300 terms of size 1


# -- missing modalities, other modalities, cold items --------------------------------------------------------


def test_a_batch_without_any_content_has_no_feature_loss(catalog) -> None:
    model = BM3.build(*catalog)
    losses = model.loss(pairs([0, 1, 2], [1, 2, 3]))
    assert not torch.stack([losses[f"{term}_{m}"] for term in ("align", "mask") for m in MODALITIES]).any()
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert not name.startswith("projections") or not parameter.grad.any()


def test_filled_items_take_part_in_the_losses(catalog) -> None:
    data, tables = catalog
    values = {m: t.numpy().copy() for m, t in tables.items()}
    for v in values.values():
        v[[1, 2, 3]] = np.delete(v, [1, 2, 3], 0).mean(0)
    given = {m: FeatureTable.from_array(v, data, m) for m, v in values.items()}
    batch = pairs([0, 1, 2, 3], [1, 2, 10, 11])
    found = BM3.build(data, tables, BM3.Config(fill="mean")).loss(batch)
    expected, without = BM3.build(data, given).loss(batch), BM3.build(data, tables).loss(batch)
    for name in ("align_image", "mask_text"):
        assert torch.allclose(found[name], expected[name], atol=SCORE)
        assert not torch.allclose(found[name], without[name], atol=1e-3)


def test_any_number_of_any_modalities_will_do(catalog) -> None:
    data, tables = catalog
    for names in (["audio"], ["video", "audio", "text"]):
        given = dict.fromkeys(names, tables["text"])
        model = testing.train(BM3, BM3.Config(dim=8), data, given, 1)
        assert list(model.projections) == sorted(names)
        assert model.cold_start_rule.weights == dict.fromkeys(sorted(names), 1 / len(names))
        terms = {f"{term}_{m}" for term in ("align", "mask") for m in names}
        assert set(model.loss(pairs([0], [10]))) == {"rec", "reg", *terms}
    with pytest.raises(FeatureError, match="BM3"):
        BM3.build(data, {})


def test_cold_items_are_placed_as_the_recommender_places_new_ones() -> None:
    data, tables, _ = cold_catalog()
    config = BM3.Config(dim=8, knn_k=5)
    model = testing.train(BM3, config, data, tables, 3)
    users, items = (table.detach() for table in model.embed())
    trained = model.predictor(model.propagate()[1]).detach()
    warm, rows = data.train.item_degree > 0, [i for i in data.cold_items if i != 33]  # 33 has no content
    assert torch.equal(items[warm], trained[warm])
    new = [f"new-{i}" for i in rows]
    rec = Recommender.from_model(model, data, tables).add_items(
        new, {m: t.take(rows) for m, t in tables.items()}
    )
    placed = rec.item_vectors[rec.items.indices(new)]
    assert np.abs(placed - items[rows].numpy()).max() <= PROPAGATION * float(items[rows].abs().max())
    assert (items[rows] - trained[rows]).abs().max() > 1e-3
    scores = model.score(np.arange(data.n_users))
    assert torch.allclose(scores, users @ items.T, atol=SCORE)
    model.cold_items = BM3.build(data, tables, config.replace(cold_items="as_trained")).cold_items
    assert torch.equal(model.embed()[1], trained)


def test_bfloat16_features_give_nearly_the_same_scores() -> None:
    data, _ = testing.communities(4, 30)
    tables = {
        m: testing.features_of(data, numpy_rng(0, f"tests/{m}").normal(size=(data.n_items, 64)))[m]
        for m in MODALITIES
    }
    settings = TrainConfig(epochs=20, patience=None, batch_size=64, learning_rate=0.01, device="cpu")
    scores = []
    for dtype in ("float32", "bfloat16"):
        model = BM3.build(data, tables, BM3.Config(dim=16, feature_dtype=dtype))
        Trainer(settings).fit(model)
        scores.append(model.score(torch.arange(data.n_users)))
    full, half = scores
    assert 0 < (full - half).square().mean().sqrt() / full.std() < BFLOAT16_BM3
    with pytest.raises(ConfigError, match="train_features needs feature_dtype float32"):
        BM3.Config(train_features=True, feature_dtype="bfloat16")

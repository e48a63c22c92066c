"""AlphaRec and the zero-shot ranker against the reference implementations and their formulas written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cold_catalog import gaps
from reference import assert_close, dataset, numbers
from tolerances import PROPAGATION, SCORE

from graphrec import Histories, Query, Recommender, TrainConfig, Trainer, testing
from graphrec.core.errors import FeatureError, TrainingError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.features import PROFILE, FeatureTable
from graphrec.graphs.graph import bipartite
from graphrec.models import layers
from graphrec.models.alpharec import AlphaRec
from graphrec.models.batches import EpochContext, Triplets, triplets_by_batch
from graphrec.models.losses import InfoNCE
from graphrec.models.multimodal import check_same_extractor
from graphrec.models.zero_shot import ZeroShot

FIXTURES = Path(__file__).parent / "fixtures"
USERS = {"of": "user"}


@pytest.fixture(scope="module")
def catalog() -> tuple[Dataset, dict[str, FeatureTable]]:
    """Items 1 to 3 without a picture, 3 without a text either, 4 to 9 without train interactions."""
    return gaps(12, 7, [1, 2, 3], [3])


def trained(data: Dataset, tables: Any, epochs: int = 3, **options: Any) -> AlphaRec:
    model = AlphaRec.build(data, tables, AlphaRec.Config(dim=8, n_negatives=4, **options))
    settings = TrainConfig(epochs=epochs, patience=None, batch_size=64, learning_rate=0.01, device="cpu")
    Trainer(settings).fit(model)
    return model


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)


def side_by_side(tables: dict[str, FeatureTable], scaled: bool = True) -> torch.Tensor:
    parts = [torch.from_numpy(np.where(t.present[:, None], t.numpy(), 0)) for t in tables.values()]
    return torch.cat([unit(part) if scaled else part for part in parts], 1)


def incidence(data: Dataset) -> torch.Tensor:
    found = torch.zeros(data.n_users, data.n_items)
    found[torch.from_numpy(data.train.users.copy()), torch.from_numpy(data.train.items.copy())] = 1
    return found


def mean_rows(data: Dataset, items: torch.Tensor) -> torch.Tensor:
    r = incidence(data)
    return r @ items / r.sum(1, keepdim=True).clamp(min=1)


def smoothed(data: Dataset, x: torch.Tensor, n_layers: int) -> torch.Tensor:
    """Mean of ``x, A x, ...`` by dense products."""
    a, total, layer = bipartite(data.train).dense(), x, x
    for _ in range(n_layers):
        layer = a @ layer
        total = total + layer
    return total / (n_layers + 1)


# -- the reference implementations ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["linear", "mlp"])
def test_alpharec_is_the_reference(variant: str) -> None:
    reference = numbers(FIXTURES / "ssl_alpharec.npz")
    data, config = dataset(reference), json.loads(str(reference[f"{variant}.config"]))
    options = {key: config[key] for key in ("dim", "n_layers")}
    model = AlphaRec.build(
        data,
        {"text": FeatureTable(reference[f"{variant}.language_items"])},
        AlphaRec.Config(projector=variant, temperature=config["tau"], normalize_features=False, **options),
    )
    assert_close(model.content()[0], reference[f"{variant}.language_users"], "content of users")
    state = {n: torch.from_numpy(reference[f"{variant}.param.{n}"]) for n, _ in model.f.named_parameters()}
    model.f.load_state_dict(state)
    batch = Triplets(
        *(torch.from_numpy(reference[key]) for key in ("batch_users", "batch_pos")),
        torch.from_numpy(reference[f"{variant}.draw.negatives"]),
    )
    losses = model.loss(batch)
    assert list(losses) == ["sampled_softmax"]
    assert_close(losses["sampled_softmax"], reference[f"{variant}.loss.total"], "loss")
    losses["sampled_softmax"].backward()
    for name, parameter in model.f.named_parameters():
        assert_close(parameter.grad, reference[f"{variant}.grad.{name}"], f"gradient of {name}")
    for side, found in zip(("user", "item"), model.propagate(), strict=True):
        assert_close(found, reference[f"{variant}.{side}_out"], f"{side}s")
    assert_close(model.score(reference["score_users"]), reference[f"{variant}.scores"], "scores")


@pytest.mark.parametrize("normalize_features", [True, False])
def test_zero_shot_is_the_reference(normalize_features: bool) -> None:
    reference = numbers(FIXTURES / "ssl_easyrec.npz")
    data = dataset(reference)
    tables = {
        "text": FeatureTable(reference["zero_shot.language_items"]),
        PROFILE: FeatureTable(reference["zero_shot.language_users"], meta=USERS),
    }
    model = ZeroShot.build(data, tables, ZeroShot.Config(normalize_features=normalize_features))
    assert_close(model.score(reference["score_users"]), reference["zero_shot.scores"], "scores")


def test_what_the_authors_train_their_language_model_with() -> None:
    """Their contrast is InfoNCE over the positives and negatives of the whole batch."""
    reference = numbers(FIXTURES / "ssl_easyrec.npz")
    of_users, of_items = (torch.from_numpy(reference[f"zero_shot.language_{s}"]) for s in ("users", "items"))
    users, p, n = (torch.from_numpy(reference[f"batch_{of}"]) for of in ("users", "pos", "neg"))
    queries = of_users[users].requires_grad_()
    pool = of_items[torch.cat([p, n])]
    value = InfoNCE(0.05)(queries, pool, torch.arange(len(p)))
    assert_close(value, reference["zero_shot.loss.contrastive"], "contrast")
    (gradient,) = torch.autograd.grad(value, queries)
    assert_close(gradient, reference["zero_shot.grad.batch_users"], "gradient of users")


# -- AlphaRec ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [0, 2, 3])
def test_propagating_first_is_projecting_first(catalog, n_layers: int) -> None:
    data, tables = catalog
    model = trained(data, tables, n_layers=n_layers)
    t = side_by_side(tables)
    assert not t[3].any()
    weight = model.f[0].weight.detach()
    expected = smoothed(data, torch.cat([mean_rows(data, t), t]) @ weight.T, n_layers)
    found = torch.cat(model.propagate()).detach()
    assert torch.allclose(found, expected, atol=10 * PROPAGATION)
    cosines = unit(expected[: data.n_users]) @ unit(expected[data.n_users :]).T
    assert torch.allclose(model.score(np.arange(data.n_users)), cosines, atol=10 * SCORE)


def test_what_is_wider_than_a_block_is_propagated_alike() -> None:
    data, _ = testing.communities(2, 20)
    graph = bipartite(data.train)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(data.n_users + data.n_items, 2 * layers.COLUMN_BLOCK + 3, generator=rng)
    found = torch.cat(layers.propagate_features(graph, x[: data.n_users], x[data.n_users :], 2))
    assert torch.allclose(found, smoothed(data, x, 2), atol=10 * PROPAGATION)


def test_a_step_reads_the_rows_of_its_batch(catalog) -> None:
    """The loss of few rows, gathered, is that of the formula; so is the loss of more draws than items."""
    data, tables = catalog
    model = trained(data, tables)
    users, items = (unit(x) for x in model.propagate())
    rng = numpy_rng(0, "tests/rows")
    for size, n in ((3, 5), (30, 40)):
        u = torch.from_numpy(rng.integers(0, data.n_users, size))
        p, n_ = (torch.from_numpy(rng.integers(0, data.n_items, s)) for s in (size, (size, n)))
        s = torch.cat([(users[u] * items[p]).sum(1)[:, None], (users[u][:, None] * items[n_]).sum(2)], 1)
        expected = -(s / 0.15).log_softmax(1)[:, 0].mean()
        found = model.loss(Triplets(u, p, n_))["sampled_softmax"]
        assert torch.allclose(found, expected, atol=10 * SCORE)
        gradients = [
            torch.autograd.grad(x, model.f[0].weight, retain_graph=True)[0] for x in (found, expected)
        ]
        assert torch.allclose(*gradients, atol=1e-5 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_mixed_precision_changes_little(catalog, kind: str) -> None:
    data, tables = catalog
    model = AlphaRec.build(data, tables, AlphaRec.Config(dim=8, n_negatives=9, projector=kind))
    batch = next(model.batches(EpochContext(1, 50, 0)))
    full = model.loss(batch)["sampled_softmax"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.loss(batch)["sampled_softmax"]
    assert mixed.dtype == torch.float32
    assert 0 < abs((mixed - full).item()) < 0.01 * full.item()
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(x, model.f.parameters())]) for x in (full, mixed)
    ]
    assert float((gradients[0] - gradients[1]).norm()) < 0.05 * float(gradients[0].norm())


def test_users_and_items_with_nothing_score_zero() -> None:
    data, tables = gaps(12, 7, [4], [4])  # item 4 has neither content nor train interactions
    keep = data.train.users != 0
    data = data.with_splits(data.train.where(keep), data.valid, data.test)
    model = trained(data, tables)
    scores = model.score(np.arange(data.n_users))
    assert not scores[0].any()
    assert not scores[:, 4].any()
    assert scores[1:, [i for i in range(data.n_items) if i != 4]].abs().min() > 0


@pytest.mark.parametrize("combine", ["concatenate", "average"])
def test_modalities_side_by_side_or_averaged(combine: str) -> None:
    data, tables = gaps(6, 6, [1, 2, 3], [3, 5])
    parts = [unit(torch.from_numpy(np.where(t.present[:, None], t.numpy(), 0))) for t in tables.values()]
    counts = sum(torch.from_numpy(t.present.astype(np.float32)) for t in tables.values()).clamp(min=1)
    expected = torch.cat(parts, 1) if combine == "concatenate" else sum(parts) / counts[:, None]
    for kind in (AlphaRec, ZeroShot):
        model = kind.build(data, tables, kind.Config(combine=combine))
        items = model.content if kind is ZeroShot else model.content()[1]
        assert torch.allclose(items, expected, atol=SCORE)
        rec = Recommender.from_model(model, data, tables)
        rec.add_items(
            ["both", "text"],
            {"text": tables["text"].take([6, 2]), "image": [tables["image"].take([6])[0], None]},
        )
        placed = torch.from_numpy(rec.item_vectors[-2:])
        assert torch.allclose(placed[0], model.embed()[1][6].detach(), atol=SCORE), "cold item 6"
        assert torch.allclose(placed.norm(dim=1), torch.ones(2))
        if kind is ZeroShot:
            assert torch.allclose(placed[1], unit(expected)[2], atol=SCORE)


def test_modalities_of_two_widths_cannot_be_averaged(catalog) -> None:
    data, tables = catalog
    with pytest.raises(FeatureError, match="cannot be averaged; use combine=concatenate"):
        AlphaRec.build(data, tables, AlphaRec.Config(combine="average"))


def test_new_items_are_placed_by_the_linear_map_alone(catalog) -> None:
    data, tables = catalog
    linear, mlp = trained(data, tables), trained(data, tables, projector="mlp", hidden_dim=5)
    t = side_by_side(tables)
    rec = Recommender.from_model(linear, data, tables)
    rec.add_items(["new"], {m: table.take([7]) for m, table in tables.items()})
    expected = unit(t[[7]] @ linear.f[0].weight.detach().T)
    assert torch.allclose(torch.from_numpy(rec.item_vectors[-1:]), expected, atol=SCORE)
    assert mlp.cold_start_rule is None
    cold = unit(mlp.f(t[4:10]).detach())
    assert torch.allclose(mlp.embed()[1][4:10].detach(), cold, atol=10 * SCORE), "cold items all the same"
    with pytest.raises(FeatureError, match="has no rule to place new items"):
        Recommender.from_model(mlp, data, tables).add_items(["new"], {"text": tables["text"].take([7])})


def test_histories_are_folded_in_exactly_where_all_have_as_many_items() -> None:
    rng = numpy_rng(0, "tests/regular/pairs")
    pairs = np.array([(u, i) for u in range(30) for i in rng.choice(30, 4, replace=False)])
    data = testing.dataset(pairs, [], 30, 30, "regular")
    assert set(data.train.user_degree) == {4}
    tables = testing.features_of(data, numpy_rng(0, "tests/regular").normal(size=(30, 9)))
    for n_layers in (0, 1, 2):
        model = trained(data, tables, n_layers=n_layers)
        known = model.score(np.arange(30))
        folded = model.score(Query(histories=Histories.from_interactions(data.train)))
        assert torch.allclose(unit(folded), unit(known), atol=10 * SCORE), "but for each user's factor"


def test_the_map_is_used_on_another_catalog() -> None:
    """Four columns of the features say what users like, twelve do not, in both catalogs alike."""
    made = []
    for seed in (0, 1):
        data, _ = testing.communities(4, 20, seed=seed)
        rng = numpy_rng(seed, "tests/transfer")
        liked = 2.0 * np.eye(4)[np.arange(data.n_items) % 4] + 0.3 * rng.normal(size=(data.n_items, 4))
        vectors = np.concatenate([liked, 2 * rng.normal(size=(data.n_items, 12))], 1).astype(np.float32)
        made.append((data, {"text": FeatureTable.from_array(vectors, data, "text")}))
    (one, of_one), (other, of_other) = made
    model = trained(one, of_one, epochs=30)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved = model.transfer(other, of_other)
    assert moved.n_items == other.n_items
    t = side_by_side(of_other)
    both = smoothed(other, torch.cat([mean_rows(other, t), t]) @ model.f[0].weight.detach().T, 2)
    assert torch.allclose(torch.cat(moved.propagate()).detach(), both, atol=10 * PROPAGATION)

    def hits(ranker: Any) -> float:
        scores = ranker.score(np.arange(other.n_users)).numpy()
        scores[other.train.users, other.train.items] = -np.inf
        held = scores[other.test.users, other.test.items][:, None]
        return float(((scores[other.test.users] >= held).sum(1) <= 10).mean())

    untrained = AlphaRec.build(other, of_other, model.config)
    assert hits(moved) > 1.1 * max(hits(untrained), hits(ZeroShot.build(other, of_other)))
    trained_on = next(moved.batches(EpochContext(1, 32, 0)))
    moved.loss(trained_on)["sampled_softmax"].backward()
    assert moved.f[0].weight.grad.any(), "may be trained further"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_map_goes_with_the_modalities_and_extractors_it_was_learned_with(catalog) -> None:
    data, tables = catalog
    model = AlphaRec.build(data, tables, AlphaRec.Config(dim=4))
    with pytest.raises(FeatureError, match="give the same modalities"):
        model.transfer(data, {"text": tables["text"]})
    with pytest.raises(FeatureError, match="'text': vectors of widths 7 and 12"):
        model.transfer(data, {**tables, "text": tables["image"]})


def described(values: Any, **about: Any) -> FeatureTable:
    return FeatureTable(np.asarray(values, np.float32), meta={"extractor": about})


def test_vectors_are_compared_if_one_extractor_made_them() -> None:
    x = np.ones((3, 2))
    one = described(x, name="sentence", model="small", versions={"torch": "2"})
    check_same_extractor("text", one, described(x, name="sentence", model="small", versions={"torch": "3"}))
    check_same_extractor("text", one, described(x, name="imported", source="a.npy"))
    with pytest.raises(FeatureError, match="differ in model"):
        check_same_extractor("text", one, described(x, name="sentence", model="large"))
    with pytest.raises(FeatureError, match="differ in fitted_on"):
        check_same_extractor("text", one, described(x, name="sentence", model="small", fitted_on="a corpus"))


# -- zero-shot -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
def test_users_are_the_means_of_their_items(catalog, scaled: bool) -> None:
    data, tables = catalog
    model = ZeroShot.build(data, tables, ZeroShot.Config(normalize_features=scaled))
    t = side_by_side(tables, scaled)
    expected = unit(mean_rows(data, t)) @ unit(t).T
    known = model.score(np.arange(data.n_users))
    assert torch.allclose(known, expected, atol=SCORE)
    folded = model.score(Query(histories=Histories.from_interactions(data.train)))
    assert torch.equal(folded.argsort(1)[:, -5:], known.argsort(1)[:, -5:])
    assert not list(model.parameters())


def test_written_profiles_stand_for_users(catalog) -> None:
    data, tables = catalog
    values = numpy_rng(0, "tests/profiles").normal(size=(data.n_users, 7)).astype(np.float32)
    present = np.arange(data.n_users) != 2
    profiles = FeatureTable(np.where(present[:, None], values, 9e9).astype(np.float32), present, USERS)
    given = {**tables, PROFILE: profiles}
    model = ZeroShot.build(data, given)
    text = unit(torch.from_numpy(np.where(tables["text"].present[:, None], tables["text"].numpy(), 0)))
    users = torch.from_numpy(values)
    users[2] = mean_rows(data, text)[2]
    assert torch.allclose(model.score(np.arange(data.n_users)), unit(users) @ text.T, atol=SCORE)
    without = ZeroShot.build(data, given, ZeroShot.Config(profiles=False))
    assert torch.equal(without.embed()[0], ZeroShot.build(data, tables).embed()[0])
    assert ZeroShot.optional_fields(ZeroShot.Config()) == (PROFILE,)
    assert ZeroShot.optional_fields(ZeroShot.Config(profiles=False, attributes=True)) == ("attribute_*",)


def test_profiles_are_compared_with_vectors_of_their_extractor(catalog) -> None:
    data, tables = catalog
    profiles = FeatureTable(np.ones((data.n_users, 7), np.float32), meta=USERS)
    given = {**tables, PROFILE: profiles}
    with pytest.raises(FeatureError, match=r"widths 7 and 12.*or set profiles=false"):
        ZeroShot.build(data, given, ZeroShot.Config(profile_field="image"))
    with pytest.raises(FeatureError, match="name one of them in profile_field"):
        ZeroShot.build(data, given, ZeroShot.Config(profile_field="title"))
    of_other = FeatureTable(np.ones((data.n_users + 1, 7), np.float32), meta=USERS)
    with pytest.raises(FeatureError, match="rows"):
        ZeroShot.build(data, {**tables, PROFILE: of_other})


# -- blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2**20])
def test_products_with_sampled_rows(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SAMPLED", block)
    rng = torch.Generator().manual_seed(0)
    rows, table = (torch.randn(n, 3, dtype=torch.float64, generator=rng, requires_grad=True) for n in (5, 7))
    index = torch.randint(0, 7, (5, 4), generator=rng)
    index[0] = 2  # the same row again and again
    found = layers.sampled_products(rows, table, index)
    assert torch.allclose(found, (rows @ table.T).gather(1, index))
    assert torch.autograd.gradcheck(lambda *x: layers.sampled_products(*x, index), (rows, table))


def test_negatives_of_a_batch_are_drawn_with_it() -> None:
    data, _ = testing.communities(2, 20)
    plan = EpochContext(2, 50, 0)
    batches = list(triplets_by_batch(data.train, plan, 30))
    assert {len(batch.users) for batch in batches[:-1]} == {50}
    users, positives, negatives = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    assert negatives.shape == (len(data.train), 30)
    seen = sorted(zip(users.tolist(), positives.tolist(), strict=True))
    assert seen == sorted(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    assert not data.train.contains(users[:, None], negatives).any()
    again = next(triplets_by_batch(data.train, plan, 30))
    assert all(torch.equal(a, b) for a, b in zip(again, batches[0], strict=True))
    other = next(triplets_by_batch(data.train, EpochContext(3, 50, 0), 30))
    assert not torch.equal(again.negatives, other.negatives)


def test_users_with_every_item_have_no_negatives() -> None:
    pairs = [(0, i) for i in range(5)] + [(1, 0), (1, 3)]
    train = testing.dataset(pairs, [], 2, 5, "full").train
    (batch,) = triplets_by_batch(train, EpochContext(1, 50, 0), 3)
    assert batch.users.tolist() == [1, 1]
    with pytest.raises(TrainingError, match="no negatives"):
        next(triplets_by_batch(train.where(train.users == 0), EpochContext(1, 50, 0), 3))

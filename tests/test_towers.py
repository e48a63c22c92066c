"""DualGNN, DRAGON, COHESION and MENTOR against numbers of their authors' code, and what they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import assert_close
from tower_reference import TowerReference

from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions
from graphrec.graphs.cooccurrence import UserGraph, cooccurrence, draw_repeats, softmax_weights
from graphrec.graphs.graph import bipartite, degree_probability
from graphrec.graphs.sparse import interaction_matrix
from graphrec.models import COHESION, DRAGON, MENTOR, DualGNN
from graphrec.models.batches import EpochContext
from graphrec.models.cohesion import adaptive_weights
from graphrec.models.mentor import Draws
from graphrec.models.propagation import BatchEmbeddings

# -- graphs of users -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dualgnn() -> TowerReference:
    return TowerReference("dualgnn")


def test_cooccurrence_counts_shared_items_and_keeps_the_largest(dualgnn) -> None:
    train = dualgnn.data.train
    expected = dualgnn["graph.user_cooccurrence"]
    assert np.array_equal(cooccurrence(train, train.n_users).toarray(), expected)
    matrix = interaction_matrix(train).toarray()
    shared = matrix.T @ matrix
    np.fill_diagonal(shared, 0)
    assert np.array_equal(cooccurrence(train, train.n_items, "items").toarray(), shared)
    for of, full in (("users", expected), ("items", shared)):
        kept = cooccurrence(train, 5, of).toarray()
        for i, row in enumerate(full):
            nearest = np.argsort(-row, kind="stable")[:5]  # ties by the lowest index
            assert np.array_equal(np.flatnonzero(kept[i]), np.sort(nearest[row[nearest] > 0]))
            assert np.array_equal(kept[i, nearest], row[nearest])


def test_softmax_weights_are_those_of_the_references_lists(dualgnn) -> None:
    counts, lists = dualgnn["graph.user_cooccurrence"], dualgnn["graph.user_neighbours"]
    for user, weight in enumerate(dualgnn["graph.user_weights"]):
        expected = np.sort(counts[user])[::-1][: lists.shape[1]]
        expected = expected[expected > 0]
        distinct = np.unique(lists[user])
        if weight.any():
            assert np.array_equal(np.sort(counts[user, distinct])[::-1], expected)  # up to ties
    matrix = cooccurrence(dualgnn.data.train, dualgnn.data.n_users)
    repeats = np.zeros((len(counts), len(counts)))
    np.add.at(repeats, (np.arange(len(lists))[:, None], lists), 1)
    row = np.repeat(np.arange(len(counts)), np.diff(matrix.indptr))
    weights = np.zeros_like(repeats)
    weights[row, matrix.indices] = softmax_weights(matrix, repeats[row, matrix.indices])
    assert (repeats > 1).any()
    assert_close(weights, dualgnn.user_graph().dense().numpy(), "weights")


def test_places_without_a_neighbor_repeat_others(dualgnn) -> None:
    train = dualgnn.data.train
    n = 25
    graph = UserGraph(train, n)
    length = np.diff(graph.counts.indptr)
    short = (length > 0) & (length < n)
    assert 5 < short.sum() < 35
    assert not length[39]
    row = np.repeat(np.arange(len(length)), length)
    drawn = [draw_repeats(graph.counts, n, numpy_rng(0, "tests/repeats", epoch)) for epoch in (1, 2, 1)]
    assert np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])
    assert (drawn[0] >= 1).all()
    assert np.array_equal(np.bincount(row, drawn[0], len(length)), np.where(length > 0, n, 0))
    graph.draw(numpy_rng(0, "tests/repeats", 1))
    dense, even = graph.epoch_graph.dense().numpy(), graph.graph.dense().numpy()
    full = length == n
    assert np.array_equal(dense[full], even[full])
    assert (dense[short] != even[short]).any(1).sum() > short.sum() / 2
    assert np.allclose(dense.sum(1), length > 0)
    many = [draw_repeats(graph.counts, n, numpy_rng(0, "tests/repeats", e)) for e in range(2000)]
    expected = (n / np.maximum(length, 1))[row]
    assert np.allclose(np.mean(many, 0), expected, rtol=0.1)


def test_weights_of_large_counts_are_finite() -> None:
    data, _ = testing.communities(2, 20)
    counts = cooccurrence(data.train, 5)
    counts.data *= 200
    assert np.isfinite(softmax_weights(counts)).all()


# -- DualGNN -------------------------------------------------------------------------------------------------


def test_dualgnn(dualgnn) -> None:
    model = dualgnn.model(DualGNN, reference_compat=True, cold_items="as_trained")
    assert_close(
        torch.cat(model.propagated_towers()), np.concatenate([dualgnn["mid.image"], dualgnn["mid.text"]], 1),
        "towers",
    )  # fmt: skip
    users, items = model.propagate(dualgnn.user_graph())
    assert_close(users, dualgnn["user_out"], "users")
    assert_close(items, dualgnn["item_out"], "items")
    assert_close((users @ items.T)[dualgnn["score_users"]], dualgnn["scores"], "scores")
    model.user_graph.epoch_graph = dualgnn.user_graph()
    dualgnn.check_losses(model.loss(dualgnn.batch), unread=("item_weight",))
    dualgnn.check_gradients(model, unread=("item_weight",))


def test_dualgnn_weighs_modalities_apart_unless_the_code_is_asked_for(dualgnn) -> None:
    apart = dualgnn.model(DualGNN)
    image, text = (dualgnn[f"mid.{m}"][: dualgnn.data.n_users] for m in ("image", "text"))
    w = dualgnn["param.user_weight"]
    expected = w[:, 0] * image + w[:, 1] * text
    expected = expected + dualgnn.user_graph().dense().numpy() @ expected
    users, items = apart.propagate(dualgnn.user_graph())
    assert_close(users, expected, "users")
    assert_close(items, dualgnn["item_out"], "items")


# -- DRAGON --------------------------------------------------------------------------------------------------


def test_dragon() -> None:
    reference = TowerReference("dragon")
    model = reference.model(DRAGON, cold_items="as_trained")
    assert_close(model.item_graph.dense(), reference["graph.item"], "graph of items")
    towers = np.concatenate([reference["mid.image"], reference["mid.text"]], 1)
    assert_close(torch.cat(model.propagated_towers()), towers, "towers")
    users, items = model.propagate(reference.user_graph())
    assert_close(users, reference["user_out"], "users")
    assert_close(items, reference["item_out"], "items")
    assert_close((users @ items.T)[reference["score_users"]], reference["scores"], "scores")
    model.user_graph.epoch_graph = reference.user_graph()
    reference.check_losses(model.loss(reference.batch))
    reference.check_gradients(model)


# -- COHESION ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohesion() -> TowerReference:
    return TowerReference("cohesion")


def test_cohesion(cohesion) -> None:
    model = cohesion.model(COHESION, reference_compat=True, cold_items="as_trained")
    users, items = cohesion["graph.edge_index"]
    order = np.lexsort((items, users))
    assert_close(degree_probability(cohesion.data.train), cohesion["graph.edge_prob"][order], "probabilities")
    assert_close(model.graph.dense(), cohesion["graph.user_item"], "user-item graph")
    assert_close(model.item_graph.dense(), cohesion["graph.item"], "graph of items")
    kept = Interactions(*cohesion["graph.kept_edges"], cohesion.data.n_users, cohesion.data.n_items)
    model.start_epoch(numpy_rng(0, "tests/epoch"))
    assert len(model.epoch_graph) == 2 * len(kept)
    model.epoch_graph = bipartite(kept)
    assert_close(model.epoch_graph.dense(), cohesion["graph.masked"], "pruned graph")
    towers = np.concatenate([cohesion[f"mid.{m}"] for m in ("id", "image", "text")], 1)
    assert_close(model.refined_layers(model.epoch_graph), towers, "towers")
    model.user_graph.epoch_graph = cohesion.user_graph()
    users, items = model.propagate(model.epoch_graph, model.user_graph.epoch_graph)
    assert_close(users, cohesion["user_out"], "users")
    assert_close(items, cohesion["item_out"], "items")
    assert_close((users @ items.T)[cohesion["score_users"]], cohesion["scores"], "scores")
    difference = model.part_differences(BatchEmbeddings.lookup(cohesion.batch, users, items))
    assert_close(adaptive_weights(difference), cohesion["mid.adaptive_weight"], "adaptive weights")
    cohesion.check_losses(model.loss(cohesion.batch), unread=("user_weight",))
    cohesion.check_gradients(model, unread=("user_weight",))


def test_cohesion_trains_the_tower_of_ids_unless_the_code_is_asked_for(cohesion) -> None:
    model = cohesion.model(COHESION)
    compat = cohesion.model(COHESION, reference_compat=True)
    for m in (model, compat):
        m.user_graph.epoch_graph = cohesion.user_graph()
    ours, theirs = model.loss(cohesion.batch), compat.loss(cohesion.batch)
    assert torch.equal(ours["bpr"], theirs["bpr"])
    rows = model.id_tower.preference[cohesion.batch.users]
    added = model.config.reg_weight * rows.square().mean()
    assert torch.allclose(ours["reg_preference"], theirs["reg_preference"] + added)
    ours["bpr"].backward()
    theirs["bpr"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.id_tower.parameters())
    assert all(p.grad is None for p in compat.id_tower.parameters())
    assert not torch.allclose(model.item_id.grad, compat.item_id.grad)


def test_cohesion_scores_on_the_full_graph(cohesion) -> None:
    model = cohesion.model(COHESION, dropout=0.5, cold_items="as_trained")
    before = model.embed()
    graphs = []
    for epoch in (1, 2, 1):
        model.start_epoch(numpy_rng(0, "tests/epoch", epoch))
        graphs.append(model.epoch_graph.dense())
    assert torch.equal(graphs[0], graphs[2])
    assert not torch.equal(graphs[0], graphs[1])
    for one, other in zip(before, model.embed(), strict=True):
        assert torch.equal(one, other)


# -- MENTOR --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mentor() -> TowerReference:
    return TowerReference("mentor")


def draws(reference: TowerReference) -> Draws:
    """The reference's noise and masks."""
    order = [f"noise.uniform.{i}" for i in range(8)]  # image 1, text 1, image 2, text 2, two layers each
    image_1, text_1, image_2, text_2 = ([reference[k] for k in order[i : i + 2]] for i in (0, 2, 4, 6))
    noise = [
        [torch.from_numpy(np.concatenate(pair, 1)) for pair in zip(image, text, strict=True)]
        for image, text in ((image_1, text_1), (image_2, text_2))
    ]
    kept = np.concatenate([reference[f"noise.dropout_keep.{i}"] for i in (0, 1)])
    return Draws(noise, torch.from_numpy(kept).bool(), None, None)


def test_mentor(mentor) -> None:
    model = mentor.model(MENTOR, reference_compat=True, cold_items="as_trained")
    assert_close(model.item_graph.dense(), mentor["graph.item"], "graph of items")
    users, items = model.embed()
    assert_close(users, mentor["user_out"], "users")
    assert_close(items, mentor["item_out"], "items")
    assert_close(torch.cat([users, items]), mentor["mid.all"], "embeddings")
    assert_close(model.score(mentor["score_users"]), mentor["scores"], "scores")
    for view, noise in enumerate(draws(mentor).noise):
        towers = model.tower_embeddings(model.noise_towers[view])
        found = torch.cat(model.final(model.noisy(towers, model.propagate(*towers), noise)))
        assert_close(found, mentor[f"mid.all_noise{view + 1}"], f"view {view}")
    for m, tower in enumerate(("image", "text")):
        one = torch.cat(model.propagate(*model.tower_embeddings()))[:, 16 * m : 16 * (m + 1)]
        assert_close(torch.cat([one, one], 1), mentor[f"mid.all_{tower}"], tower)
    mentor.check_losses(model.loss_with(mentor.batch, draws(mentor)))
    mentor.check_gradients(model)


def test_mentors_noise_leaves_gradients_as_they_are(mentor) -> None:
    """Those of propagation with noise, by autograd."""
    model = mentor.model(MENTOR, reference_compat=False, cold_items="as_trained")
    noise = draws(mentor).noise[0]
    towers = model.tower_embeddings()
    view = model.noisy(towers, model.propagate(*towers), noise)
    above = torch.from_numpy(numpy_rng(0, "tests/above").normal(size=(90, 32)).astype(np.float32))
    parameters = [p for t in model.towers.values() for p in t.parameters()]
    found = torch.autograd.grad((torch.cat(view) * above).sum(), parameters)
    x = torch.cat(model.tower_embeddings())
    total = x
    for uniform in noise:
        x = model.graph @ x
        for part, r in zip(x.split(16, 1), uniform.split(16, 1), strict=True):
            part.data.add_(part.detach().sign() * torch.nn.functional.normalize(r, dim=1) * 0.1)
        total = total + x
    users, items = total.split([40, 50])
    plain = torch.cat([users, items + model.item_graph @ items])
    assert_close(torch.cat(view), plain.detach().numpy(), "view")
    for one, other in zip(found, torch.autograd.grad((plain * above).sum(), parameters), strict=True):
        assert_close(one, other.numpy(), "gradient")


def test_mentor_trains_what_the_contrast_and_the_masks_compare(mentor) -> None:
    model = mentor.model(MENTOR, cold_items="as_trained")
    assert not len(model.noise_towers)
    terms = model.loss_with(mentor.batch, draws(mentor))
    tower = model.towers["image"].preference
    for term, parameters in (("contrast_noise", [tower]), ("mask", [tower, model.mask_head.weight])):
        for gradient in torch.autograd.grad(terms[term], parameters, retain_graph=True):
            assert gradient.abs().sum() > 0, term
    users, items = model.embed()
    kept = draws(mentor).kept
    expected = sum(
        1 - torch.nn.functional.cosine_similarity(model.mask_head(x), x * mask).mean()
        for x, mask in ((users, kept[:40]), (items, kept[40:]))
    )
    assert torch.allclose(terms["mask"], model.config.mask_weight * expected)


def test_mentor_draws_by_the_key_and_contrasts_a_sample(mentor) -> None:
    model = mentor.model(MENTOR, contrast_rows=7, dropout=0.25)
    first, second, again = (model.draw(torch.tensor(k)) for k in (1, 2, 1))
    for at in ("users", "items", "kept"):
        assert torch.equal(getattr(first, at), getattr(again, at))
        assert not torch.equal(getattr(first, at), getattr(second, at))
    assert torch.equal(first.noise[1][0], again.noise[1][0])
    assert len({float(x.sum()) for view in first.noise for x in view}) == 4
    assert first.kept.float().mean() == pytest.approx(0.75, abs=0.03)
    towers = model.tower_embeddings()
    clean = model.propagate(*towers)
    views = [model.final(model.noisy(towers, clean, noise)) for noise in first.noise]
    expected = 0
    for side, rows in enumerate((first.users, first.items)):
        assert len(rows.unique()) == 7
        one, other = (torch.nn.functional.normalize(view[side][rows], dim=1) for view in views)
        logits = one @ other.T / model.config.temperature
        expected = expected + torch.nn.functional.cross_entropy(logits, torch.arange(7))
    assert torch.allclose(model.contrast(towers, clean, first), expected)
    keys = [b.key for b in model.batches(EpochContext(1, 100, 0))]
    assert len(set(map(int, keys))) == len(keys) == 3


# -- all -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [DualGNN, DRAGON, COHESION, MENTOR])
def test_a_modality_is_masked_where_it_is_missing(model_class) -> None:
    data, _ = testing.communities(2, 20)
    vectors = numpy_rng(0, "tests/missing").normal(size=(data.n_items, 6))
    tables = testing.features_of(data, vectors)
    tables["text"] = testing.features_of(data, vectors, missing=(1, 2))["text"]
    model = model_class.build(data, tables, model_class.Config(dim=8))
    _, items = model.tower_embeddings()
    lacks = torch.isin(torch.arange(data.n_items), torch.tensor([1, 2]))
    assert torch.allclose(items[:, :8].norm(dim=1), torch.ones(data.n_items))  # image
    assert torch.allclose(items[:, 8:].norm(dim=1), (~lacks).float())


@pytest.mark.parametrize("model_class", [DualGNN, DRAGON, COHESION, MENTOR])
def test_any_modalities(model_class) -> None:
    data, tables = testing.communities(2, 20)
    three = {"audio": tables["text"], **tables}
    for features in (three, {"text": tables["text"]}):
        model = model_class.build(data, features, model_class.Config(dim=8))
        losses = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
        assert all(torch.isfinite(v) for v in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        assert list(model.towers) == sorted(features)
        assert torch.isfinite(model.score(np.arange(3))).all()


@pytest.mark.parametrize("model_class", [DualGNN, DRAGON, COHESION])
def test_what_is_drawn_for_an_epoch_changes_losses_and_no_score(dualgnn, model_class) -> None:
    config = model_class.Config(dim=8, n_user_neighbors=25)  # most users have fewer
    model = model_class.build(dualgnn.data, dualgnn.tables, config)
    losses, scores = [], []
    for epoch in (1, 2, 1):
        model.start_epoch(numpy_rng(0, "tests/epoch", epoch))
        losses.append(model.loss(dualgnn.batch)["bpr"].item())
        scores.append(model.score(np.arange(40)))
    assert losses[0] == losses[2] != losses[1]
    assert torch.equal(scores[0], scores[1])


@torch.no_grad()
def test_initial_parameters() -> None:
    data, tables = testing.communities(4, 100)
    model = DRAGON.build(data, tables, DRAGON.Config(dim=16))
    assert torch.allclose(model.user_weight.sum(1), torch.ones(400))
    logits = model.user_weight.log()
    spread = (logits[:, 0] - logits[:, 1]).std().item() / 2**0.5
    assert spread == pytest.approx((2 / 402) ** 0.5, rel=0.15)
    tower = model.towers["image"]
    assert tower.preference.std().item() == pytest.approx((2 / 416) ** 0.5, rel=0.05)
    for layer, n_in in ((tower.mlp[0], 8), (tower.mlp[2], 64)):
        for parameter in layer.parameters():
            assert 0.7 * n_in**-0.5 < parameter.abs().max() <= n_in**-0.5
    assert not torch.equal(tower.preference, model.towers["text"].preference)

"""EASE and ContentEASE against the reference's numbers and against the problem they solve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cold_catalog import gaps
from tolerances import PARITY, SCORE

import graphrec as gr
from graphrec import testing
from graphrec.core.errors import ConfigError, TrainingError
from graphrec.core.random import numpy_rng
from graphrec.data import Histories, Interactions, Query
from graphrec.graphs import knn
from graphrec.graphs.sparse import to_scipy
from graphrec.models import content_ease, gram, item_weights, regression
from graphrec.models.content_ease import ContentEASE, content_prior
from graphrec.models.content_regression import content_regression
from graphrec.models.ease import EASE
from graphrec.models.ials import IALS

FIXTURES = Path(__file__).parent / "fixtures"
OPTIONS = {"reg_weight": 3.0, "dropout": 0.3, "content_weight": 0.7, "knn_k": 3, "image_weight": 0.4}
SOLVED = 2e-5
"""float32 inverses of matrices whose condition number is about 100."""


@pytest.fixture(scope="module")
def toy():
    """The interactions of the reference's numbers, and the numbers."""
    with np.load(FIXTURES / "ssl_linear.npz", allow_pickle=False) as values:
        users, items = values["train_edges"]
        train = Interactions(users, items, int(values["n_users"]), int(values["n_items"]), name="toy")
        return train, dict(values)


@pytest.fixture(scope="module")
def catalog():
    """Items 1 to 3 without a picture, 3 and 5 without a text, 4 to 9 without train interactions."""
    return gaps(6, 5, [1, 2, 3], [3, 5])


def dense(train: Interactions) -> np.ndarray:
    matrix = np.zeros((train.n_users, train.n_items))
    matrix[train.users, train.items] = 1
    return matrix


def solved(x: np.ndarray, weights: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The minimum of ``|x - x B|^2 + sum_i w_i |B_i - prior_i|^2`` with zero diagonal, one column at a time:
    the regression of an item on the others.
    """
    n = x.shape[1]
    result = np.zeros((n, n))
    for j in range(n):
        others = np.arange(n) != j
        a = x[:, others].T @ x[:, others] + np.diag(weights[others])
        result[others, j] = np.linalg.solve(a, x[:, others].T @ x[:, j] + weights[others] * prior[others, j])
    return result


def test_ease_equals_the_reference(toy) -> None:
    train, expected = toy
    model = EASE(train, EASE.Config(reg_weight=5.0))
    assert np.abs(model.weights.numpy() - expected["ease.B"]).max() <= PARITY
    assert np.abs(model.score(expected["score_users"]).numpy() - expected["ease.scores"]).max() <= PARITY


@pytest.mark.parametrize(("reg_weight", "dropout"), [(5.0, 0.0), (1.0, 0.5), (20.0, 0.9)])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_ease_is_the_regression_of_an_item_on_the_others(toy, reg_weight, dropout, precision) -> None:
    train, _ = toy
    model = EASE(train, EASE.Config(reg_weight=reg_weight, dropout=dropout, precision=precision))
    weights = reg_weight + dropout / (1 - dropout) * train.item_degree
    expected = solved(dense(train), weights, np.zeros((train.n_items, train.n_items)))
    assert np.abs(model.weights.numpy() - expected).max() <= SOLVED


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("block", [512, 7])
def test_content_ease_is_the_regression_shrunk_toward_the_prior(catalog, block, share, monkeypatch) -> None:
    data, tables = catalog
    monkeypatch.setattr(content_ease, "BLOCK", block)
    monkeypatch.setattr(gram, "BLOCK", block)
    config = ContentEASE.Config(**OPTIONS, cold_items="as_trained", regression_weight=share)
    model = ContentEASE.build(data, tables, config)
    shares = config.weights_of(tables)
    prior = (1 - share) * content_prior(tables, shares, data.train, config).toarray()
    for modality, table in tables.items():
        prior += share * shares[modality] * regression_of(table, config.content_penalty)
    weights = 3.0 + 0.3 / 0.7 * data.train.item_degree
    expected = solved(dense(data.train), weights, 0.7 * prior)
    assert np.abs(model.weights.numpy() - expected).max() <= SOLVED


def regression_of(table: gr.FeatureTable, penalty: float) -> np.ndarray:
    """Each item's vector of length one as a regression on the others'."""
    values = np.where(table.present[:, None], table.numpy(np.float64), 0)
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    n = len(unit)
    return solved(unit.T, np.full(n, penalty), np.zeros((n, n)))


@pytest.mark.parametrize("width", [4, 60])
@pytest.mark.parametrize("penalty", [0.01, 3.0])
def test_a_regression_of_content(catalog, width: int, penalty: float) -> None:
    data, _ = catalog
    vectors = numpy_rng(0, "tests/vectors").normal(size=(data.n_items, width)).astype(np.float32)
    vectors[7] = vectors[8]
    present = np.arange(data.n_items) > 1
    tables = {"text": gr.FeatureTable.from_array(vectors, data, "text", present=present)}
    left, right = content_regression(tables, {"text": 0.5}, penalty, "zero", data.train)
    found = left @ right
    np.fill_diagonal(found, 0)
    expected = regression_of(tables["text"], penalty)
    assert np.abs(found - 0.5 * expected).max() <= PARITY * np.abs(expected).max()
    assert not found[:2].any()
    assert not found[:, :2].any()


def test_the_content_graph_is_symmetric_normalized_and_masked(catalog) -> None:
    data, tables = catalog
    config = ContentEASE.Config(**OPTIONS)
    shares = config.weights_of(tables)
    graph = content_prior(tables, shares, data.train, config).toarray()
    assert np.allclose(graph, graph.T)
    assert not graph.diagonal().any()
    assert not graph[3].any()  # item 3 has neither picture nor text
    for modality, table in tables.items():
        values = table.numpy().astype(np.float64)
        unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        cosine = unit @ unit.T
        cosine[:, ~table.present] = -2
        np.fill_diagonal(cosine, -2)
        near = np.zeros_like(cosine)
        for i in np.flatnonzero(table.present):
            best = np.argsort(-cosine[i], kind="stable")[: config.knn_k]
            near[i, best] = np.maximum(cosine[i, best], 0)
        near = np.maximum(near, near.T)
        length = near.sum(1)
        scale = 1 / np.sqrt(np.where(length > 0, length, 1))
        graph = graph - shares[modality] * scale[:, None] * near * scale
    assert np.abs(graph).max() <= SCORE


def test_the_graph_of_factors_takes_its_share(catalog) -> None:
    data, tables = catalog
    config = ContentEASE.Config(**OPTIONS, seed=3)
    shares = config.weights_of(tables)
    content = content_prior(tables, shares, data.train, config).toarray()
    mixed = content_prior(tables, shares, data.train, config.replace(factors_weight=0.25)).toarray()
    own = content_prior(tables, shares, data.train, config.replace(factors_weight=1.0)).toarray()
    assert np.allclose(mixed, 0.75 * content + 0.25 * own, atol=1e-6)
    assert not own[data.train.item_degree == 0].any()
    factors = content_ease.item_factors(data.train, 3).astype(np.float64)
    rule = IALS.Config(dim=64, n_iterations=16, unobserved_weight=0.1, reg_weight=0.03, seed=3)
    assert np.array_equal(factors, IALS.build(data, None, rule).items.numpy())
    unit = factors / np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    known = np.flatnonzero(data.train.item_degree > 0)
    np.fill_diagonal(cosine, -2)
    for i in known:
        nearest = known[np.argsort(-cosine[i, known], kind="stable")[: config.knn_k]]
        assert (own[i, nearest] > 0)[cosine[i, nearest] > 0].all()
    other = content_prior(tables, shares, data.train, config.replace(factors_weight=1.0, seed=4)).toarray()
    assert not np.array_equal(own, other)


def test_without_content_weight_it_is_ease(catalog) -> None:
    data, tables = catalog
    options = {"reg_weight": 2.0, "dropout": 0.2}
    ours = ContentEASE.build(
        data, tables, ContentEASE.Config(**options, content_weight=0.0, cold_items="as_trained")
    )
    plain = EASE.build(data, None, EASE.Config(**options))
    assert torch.allclose(ours.weights, plain.weights, atol=SOLVED)


def test_cold_items_take_the_weights_of_their_content_neighbors(catalog) -> None:
    data, tables = catalog
    model = ContentEASE.build(data, tables, ContentEASE.Config(**OPTIONS))
    as_trained = ContentEASE.build(data, tables, ContentEASE.Config(**OPTIONS, cold_items="as_trained"))
    cold = data.train.item_degree == 0
    assert torch.equal(model.weights[:, ~cold], as_trained.weights[:, ~cold])
    assert float(model.weights[:, cold].norm()) > 2 * float(as_trained.weights[:, cold].norm())
    assert model.cold_scores == "from content"
    assert as_trained.cold_scores == "as trained"


def test_a_list_of_items_is_answered_as_the_user_who_has_them(catalog) -> None:
    data, tables = catalog
    model = ContentEASE.build(data, tables, ContentEASE.Config(**OPTIONS))
    by_list = model.score(Query(histories=Histories.from_interactions(data.train)))
    assert torch.equal(model.score(np.arange(data.n_users)), by_list)
    assert np.abs(by_list.numpy() - dense(data.train) @ model.weights.double().numpy()).max() <= SCORE


def test_a_history_is_folded_in_as_the_reference_does() -> None:
    files = (FIXTURES / name for name in ("seq_foldin.npz", "freedom_bm3_toy.npz"))
    values, toy = (dict(np.load(file, allow_pickle=False)) for file in files)
    users, items = toy["train_edges"]
    train = Interactions(users, items, len(values["ease.scores"]), len(values["ease.B"]), name="toy")
    model = EASE(train, EASE.Config(reg_weight=float(values["ease.lambda"])))
    histories = Histories(values["new_items"], np.array([0, len(values["new_items"])]))
    assert np.abs(model.weights.numpy() - values["ease.B"]).max() <= PARITY
    assert np.abs(model.score(np.arange(train.n_users)).numpy() - values["ease.scores"]).max() <= PARITY
    new = model.score(Query(histories=histories)).numpy()[0]
    assert np.abs(new - values["ease.new_scores"]).max() <= PARITY


@pytest.mark.parametrize("block", [1024, 7])
@pytest.mark.parametrize("kept", [1, 5, 10_000])
def test_a_recommender_keeps_the_largest_weights_of_each_item(toy, kept, block, monkeypatch) -> None:
    monkeypatch.setattr(item_weights, "BLOCK", block)
    train, _ = toy
    model = EASE(train, EASE.Config(reg_weight=5.0, kept=kept))
    stored = to_scipy(model.item_weights()).toarray()  # row i: what makes up the score of item i
    weights = model.weights.numpy().T
    expected = np.zeros_like(weights)
    for i, row in enumerate(weights):
        best = np.argsort(-np.abs(row), kind="stable")[:kept]
        expected[i, best] = row[best]
    assert np.array_equal(stored, expected)


@pytest.mark.parametrize("options", [{}, {"solver": "columns", "kept": 10}])
def test_a_saved_recommender_ranks_as_the_model_does(options, tmp_path) -> None:
    data, tables = testing.communities(2, 20)
    model = ContentEASE.build(data, tables, ContentEASE.Config(knn_k=5, **options))
    gr.Recommender.from_model(model, data, tables).save(tmp_path / "saved")
    recommender = gr.Recommender.load(tmp_path / "saved")
    scores = model.score(np.arange(data.n_users)).numpy()
    scores[data.train.users, data.train.items] = -np.inf
    best = data.items[int(scores[0].argmax())]
    history = [data.items[int(i)] for i in data.train.items_of_users(np.array([0]))[1]]
    for query in ({"users": data.users[0]}, {"history": history}):
        items, found = recommender.recommend(**query, k=1)
        assert items[0] == best
        assert found[0] == pytest.approx(float(scores[0].max()), abs=SCORE)


def test_a_matrix_beyond_the_memory_is_refused_with_its_size(toy) -> None:
    train, _ = toy
    with pytest.raises(ConfigError) as refused:
        EASE(train, EASE.Config(memory=1e-6))
    assert "60 x 60 x 4 bytes" in str(refused.value)
    assert "memory=1e-06" in str(refused.value)
    assert "solver=columns" in str(refused.value)


def test_kept_weights_beyond_the_memory_are_refused_with_their_size(toy) -> None:
    train, _ = toy
    with pytest.raises(ConfigError) as refused:
        EASE(train, EASE.Config(solver="columns", kept=20, memory=1e-6))
    assert "60 x 20 x 8 bytes" in str(refused.value)
    assert "kept" in str(refused.value)
    assert "solver=columns" not in str(refused.value)


def columns(model: EASE | ContentEASE) -> np.ndarray:
    """``B`` of a model that was solved by columns."""
    return to_scipy(model.item_weights()).toarray().T


@pytest.mark.parametrize("block", [64, 7])
@pytest.mark.parametrize(("reg_weight", "dropout"), [(5.0, 0.0), (1.0, 0.5), (20.0, 0.9)])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_columns_equal_the_inverse(toy, block, reg_weight, dropout, precision, monkeypatch) -> None:
    monkeypatch.setattr(regression, "BLOCK", block)
    train, _ = toy
    options = {"reg_weight": reg_weight, "dropout": dropout, "precision": precision}
    exact = EASE(train, EASE.Config(**options))
    model = EASE(train, EASE.Config(**options, solver="columns", tolerance=1e-6))
    assert np.abs(columns(model) - exact.weights.numpy()).max() <= PARITY
    users = np.arange(train.n_users)
    assert np.abs((model.score(users) - exact.score(users)).numpy()).max() <= PARITY * train.user_degree.max()


@pytest.mark.parametrize("block", [64, 3])
@pytest.mark.parametrize("cold_items", ["as_trained", "neighbors"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_columns_equal_the_inverse_with_content(catalog, block, cold_items, share, monkeypatch) -> None:
    monkeypatch.setattr(regression, "BLOCK", block)
    monkeypatch.setattr(content_ease, "BLOCK", block)
    data, tables = catalog
    config = ContentEASE.Config(**OPTIONS, cold_items=cold_items, regression_weight=share)
    exact = ContentEASE.build(data, tables, config)
    model = ContentEASE.build(data, tables, config.replace(solver="columns", tolerance=1e-6))
    assert np.abs(columns(model) - exact.weights.numpy()).max() <= PARITY
    cold = data.train.item_degree == 0
    assert np.abs(columns(model)[:, cold]).max() > 0.01
    histories = Histories.from_interactions(data.train)
    assert torch.equal(model.score(np.arange(data.n_users)), model.score(Query(histories=histories)))


@pytest.mark.parametrize("kept", [1, 5])
def test_columns_keep_the_largest_weights(toy, kept) -> None:
    train, _ = toy
    exact = EASE(train, EASE.Config(reg_weight=5.0, kept=kept)).item_weights()
    model = EASE(train, EASE.Config(reg_weight=5.0, kept=kept, solver="columns", tolerance=1e-6))
    kept_weights = model.item_weights()
    assert torch.equal(kept_weights.rowptr, exact.rowptr)
    assert torch.equal(kept_weights.col, exact.col)
    assert torch.allclose(kept_weights.weight, exact.weight, atol=PARITY, rtol=0)


def test_a_cold_item_keeps_the_largest_of_its_neighbors_weights(catalog) -> None:
    data, tables = catalog
    options = {**OPTIONS, "solver": "columns", "tolerance": 1e-6}
    every = columns(ContentEASE.build(data, tables, ContentEASE.Config(**options)))
    few = columns(ContentEASE.build(data, tables, ContentEASE.Config(**options, kept=5)))
    cold = data.train.item_degree == 0
    assert ((few != 0).sum(0) <= 5).all()
    assert np.array_equal((few[:, cold] != 0).any(0), (every[:, cold] != 0).any(0))
    # It is as long as the weights of its neighbors together, of which the largest are most.
    assert np.linalg.norm(few[:, cold]) > 0.5 * np.linalg.norm(every[:, cold])


def test_items_without_users_in_common_have_no_weights() -> None:
    train = Interactions(np.array([0, 0, 1]), np.array([0, 1, 2]), 2, 4, name="apart")
    model = EASE(train, EASE.Config(solver="columns"))
    assert np.array_equal(np.argwhere(columns(model)), [[0, 1], [1, 0]])


def test_the_residual_is_below_the_tolerance_and_counts_iterations(toy) -> None:
    train, _ = toy
    config = EASE.Config(reg_weight=1.0, solver="columns", precision="float64", tolerance=1e-3)
    history = EASE(train, config).history
    diagonal = gram.penalty(train, config)
    x = dense(train)
    a = x.T @ x + np.diag(diagonal)
    scale = 1 / np.sqrt(np.diag(a))[:, None]
    iterations = []
    for tolerance in (1e-1, 1e-3, 1e-5):
        found = regression.largest_weights(history, diagonal, config.replace(tolerance=tolerance))
        b = found.matrix().toarray().T
        right = x.T @ x
        off = right - a @ b
        np.fill_diagonal(off, 0)
        np.fill_diagonal(right, 0)
        relative = np.linalg.norm(scale * off, axis=0) / np.linalg.norm(scale * right, axis=0)
        assert relative.max() <= tolerance
        assert relative.max() > tolerance / 1000  # it stops when it is there
        iterations.append(found.iterations)
    assert iterations == sorted(set(iterations))


def test_too_few_iterations_are_an_error(toy) -> None:
    train, _ = toy
    options = {"reg_weight": 1.0, "solver": "columns", "tolerance": 1e-6}
    with pytest.raises(TrainingError) as stopped:
        EASE(train, EASE.Config(**options, max_iterations=2))
    for fact in ("60 of 60 columns", "max_iterations=2", "tolerance=1e-06", "relative residual"):
        assert fact in str(stopped.value)


def test_a_tolerance_below_the_precision_is_an_error(toy) -> None:
    train, _ = toy
    options = {"reg_weight": 1.0, "solver": "columns", "tolerance": 1e-12}
    with pytest.raises(TrainingError) as stopped:
        EASE(train, EASE.Config(**options))
    assert "precision=float64" in str(stopped.value)
    assert torch.isfinite(EASE(train, EASE.Config(**options, precision="float64")).weights.weight).all()


@pytest.mark.parametrize("check", testing.CHECKS)
@pytest.mark.parametrize("model_class", [EASE, ContentEASE])
def test_contract_by_columns(model_class, check) -> None:
    testing.CHECKS[check](model_class, model_class.Config(solver="columns"))


def test_a_matrix_that_cannot_be_inverted_is_refused() -> None:
    rng = numpy_rng(0, "test/ease")
    x = np.repeat(rng.random((50, 6)) < 0.5, 2, axis=1)  # items in pairs with the same users
    train = Interactions(*np.nonzero(x), 50, 12, name="pairs")
    with pytest.raises(TrainingError) as refused:
        EASE(train, EASE.Config(reg_weight=1e-9))
    assert "reg_weight" in str(refused.value)
    assert "precision=float64" in str(refused.value)
    fine = EASE(train, EASE.Config(reg_weight=1e-9, precision="float64"))
    assert torch.isfinite(fine.weights).all()


def test_trials_of_a_study_share_an_inverse(catalog, monkeypatch):
    data, tables = catalog
    computed = []
    factorize = gram.lapack.spotrf
    monkeypatch.setattr(gram.lapack, "spotrf", lambda *a, **k: computed.append(1) or factorize(*a, **k))
    trials = [
        {"content_weight": 0.2},
        {"content_weight": 0.9, "knn_k": 2},
        {"content_weight": 0.9, "dropout": 0.1},
        {"content_weight": 0.9, "dropout": 0.1, "precision": "float64"},
        {"content_weight": 0.2, "factors_weight": 0.5},
        {"content_weight": 0.4, "factors_weight": 0.5},
        {"content_weight": 0.4, "factors_weight": 0.5, "seed": 1},
        {"content_weight": 0.2},
    ]
    alone = [ContentEASE.build(data, tables, ContentEASE.Config(**o)).weights for o in trials]
    assert len(computed) == 7  # one is in float64
    computed.clear()
    factored = []
    solve = content_ease.alternating_least_squares
    monkeypatch.setattr(content_ease, "alternating_least_squares", lambda *a: factored.append(1) or solve(*a))
    searched = []
    search = knn.all_neighbors
    monkeypatch.setattr(knn, "all_neighbors", lambda *a: searched.append(1) or search(*a))
    with ContentEASE.reuse():
        shared = [ContentEASE.build(data, tables, ContentEASE.Config(**o)).weights for o in trials]
        assert len(computed) == 3
        assert len(factored) == 2, "for each seed"
        assert len(searched) == 2 * len(tables) + 2, (
            "with 20 and with 2 neighbors, and for each seed's factors"
        )
        fewer = data.train.where(np.arange(len(data.train)) > 0)
        other = data.with_splits(fewer, data.valid, data.test)
        ContentEASE.build(other, tables, ContentEASE.Config(**trials[-1]))
        ContentEASE.build(other, tables, ContentEASE.Config(**trials[-2]))
        assert len(factored) == 3
        assert len(computed) == 4, "of other data"
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    computed.clear()
    with ContentEASE.reuse():  # no room for a second matrix
        small = ContentEASE.Config(memory=data.n_items**2 * 4 * 1.5 / 2**30)
        for _ in range(2):
            ContentEASE.build(data, tables, small)
    assert len(computed) == 2


@pytest.mark.parametrize(
    ("given", "n_items", "kept"),
    [
        (None, 100, 100),
        (None, 2896, 2896),
        (None, 7050, 1189),
        (None, 60_000, 500),
        (7, 100, 7),
        (700, 100, 100),
    ],
)
def test_a_recommender_keeps_all_weights_of_a_small_catalog(given, n_items: int, kept: int) -> None:
    assert EASE.Config(kept=given).kept_of(n_items) == kept

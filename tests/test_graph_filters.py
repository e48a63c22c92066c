"""GF-CF and BSPM against the reference implementations and dense matrices; gaps, options, repetition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import assert_close, dataset, numbers
from tolerances import SCORE

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.core.random import numpy_rng
from graphrec.data.query import Histories, Query
from graphrec.graphs.low_rank import singular_vectors
from graphrec.models import item_filters
from graphrec.models.bspm import BSPM
from graphrec.models.gf_cf import GFCF

FIXTURE = Path(__file__).parent / "fixtures" / "ssl_graph_filters.npz"
MERGES = {True: "early", False: "late"}


@pytest.fixture(scope="module")
def toy() -> dict[str, np.ndarray]:
    return numbers(FIXTURE)


@pytest.fixture(scope="module")
def data(toy):
    return dataset(toy)


def scores(model_class, toy, data, **options) -> torch.Tensor:
    return model_class.build(data, None, model_class.Config(**options)).score(toy["score_users"])


# -- against the reference -----------------------------------------------------------------------------------


def test_normalized_interactions_and_singular_vectors(toy, data) -> None:
    model = GFCF.build(data, None, GFCF.Config(rank=8))
    assert_close(model.normalized.dense(), toy["gfcf.norm_interactions_dense"], "normalized interactions")
    expected = toy["gfcf.svd_v"] @ toy["gfcf.svd_v"].T  # free of signs
    assert_close(model.singular_vectors @ model.singular_vectors.T, expected, "projection")


def test_gf_cf(toy, data) -> None:
    options = json.loads(str(toy["gfcf.config"]))
    assert_close(scores(GFCF, toy, data, **options), toy["gfcf.scores"], "scores")
    assert_close(scores(GFCF, toy, data, alpha=0), toy["gfcf.scores_linear_only"], "linear filter")


@pytest.mark.parametrize(("n_filters", "name"), [(1, "scores"), (2, "scores_twice")])
def test_lgcn_ide(toy, data, n_filters, name) -> None:
    """The reference divides each user's scores by the square root of their interactions."""
    found = scores(GFCF, toy, data, alpha=0, n_filters=n_filters, scaled_history=True)
    degree = torch.from_numpy(data.train.user_degree[toy["score_users"]])
    assert_close(found / degree[:, None].sqrt(), toy[f"lgcn_ide.{name}"], name)


@pytest.mark.parametrize("variant", ["gowalla", "yelp", "amazon", "late_merge", "no_sharpening"])
def test_bspm(toy, data, variant) -> None:
    c = json.loads(str(toy[f"bspm_{variant}.config"]))
    found = scores(
        BSPM,
        toy,
        data,
        rank=c["factor_dim"],
        beta=0 if c["dataset_rule"] == "amazon-book" else c["idl_beta"],
        merge=MERGES[c["final_sharpening"]],
        solver=c["solver_shr"],
        n_steps=c["K_s"],
        time=0 if c["sharpening_off"] else c["T_s"],
        mean_of_states=c["t_point_combination"],
    )
    assert_close(found, toy[f"bspm_{variant}.scores"], variant)


# -- against dense matrices ----------------------------------------------------------------------------------


def dense(train, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``X``, ``M`` and ``P`` as the equations say them."""
    x = np.zeros((train.n_users, train.n_items))
    x[train.users, train.items] = 1
    by_user, by_item = (np.maximum(x.sum(axis), 1) ** -0.5 for axis in (1, 0))
    n = by_user[:, None] * x * by_item
    v = np.linalg.svd(n)[2][:rank].T
    return x, n.T @ n, by_item[:, None] * (v @ v.T) / by_item


def communities_with_gaps():
    full, _ = testing.communities(3, 20)
    keep = (full.train.users != 4) & (full.train.items != 7)
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    return testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")


def differs(found, expected) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("rank", [0, 1, 5, 20])
@pytest.mark.parametrize(("n_filters", "scaled_history"), [(1, False), (1, True), (3, False)])
def test_gf_cf_is_its_equation(rank, n_filters, scaled_history, monkeypatch) -> None:
    monkeypatch.setattr(item_filters, "ROW_BLOCK", 7)
    data = communities_with_gaps()
    options = {"rank": rank, "alpha": 0.7, "n_filters": n_filters, "scaled_history": scaled_history}
    found = GFCF.build(data, None, GFCF.Config(**options)).score(np.arange(data.n_users))
    x, m, p = dense(data.train, rank)
    scale = np.maximum(x.sum(0), 1) ** -0.5 if scaled_history else 1
    expected = (x * scale) @ np.linalg.matrix_power(m, n_filters) + 0.7 * x @ p
    assert differs(found, expected) < 10 * SCORE
    assert not found[4].any(), "a user without items"
    assert not found[:, 7].any(), "an item without users"


@pytest.mark.parametrize("merge", ["early", "late"])
@pytest.mark.parametrize("solver", ["euler", "rk4"])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("mean_of_states", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_bspm_is_a_solver_step_by_step(merge, solver, n_steps, mean_of_states, beta) -> None:
    data = communities_with_gaps()
    options = {
        "rank": 6, "merge": merge, "solver": solver, "n_steps": n_steps, "time": 1.8, "beta": beta,
        "mean_of_states": mean_of_states,
    }  # fmt: skip
    found = BSPM.build(data, None, BSPM.Config(**options)).score(np.arange(data.n_users))
    x, m, p = dense(data.train, 6)
    h = 1.8 / n_steps
    y = x @ m
    states = [y]
    if merge == "early":
        y = y + beta * x @ p
    for _ in range(n_steps):
        if solver == "euler":
            y = y - h * y @ m
        else:
            a = -y @ m
            b = -(y + h / 2 * a) @ m
            c = -(y + h / 2 * b) @ m
            d = -(y + h * c) @ m
            y = y + h / 6 * (a + 2 * b + 2 * c + d)
        states.append(y)
    expected = np.mean(states, axis=0) if mean_of_states else y
    if merge == "late":
        expected = expected + beta * x @ p
    assert differs(found, expected) < 10 * SCORE


def test_many_small_steps_are_the_exponential() -> None:
    """``exp(-T M)``, the solution of the differential equation, up to the error of the solver."""
    data = communities_with_gaps()
    users = np.arange(data.n_users)
    x, m, _ = dense(data.train, 1)
    value, vectors = np.linalg.eigh(m)
    expected = x @ m @ (vectors * np.exp(-2 * value)) @ vectors.T
    errors = [
        differs(BSPM.build(data, None, BSPM.Config(beta=0, time=2, n_steps=n)).score(users), expected)
        for n in (1, 2, 4)
    ]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]  # of the fourth order


# -- options, gaps, repetition -------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [GFCF, BSPM])
def test_a_list_is_answered_as_a_known_user(model_class) -> None:
    data, _ = testing.communities(3, 20)
    model = model_class.build(data, None, model_class.Config(rank=5))
    known = model.score([3, 8])
    lists = model.score(Query(histories=Histories.from_interactions(data.train).take([3, 8])))
    assert torch.equal(known, lists)


@pytest.mark.parametrize("model_class", [GFCF, BSPM])
def test_all_weights_kept_give_the_same_scores(model_class) -> None:
    data = communities_with_gaps()
    model = model_class.build(data, None, model_class.Config(rank=5))
    users, items = model.embed()
    assert differs(users.dense() @ items.dense().T, model.score(np.arange(data.n_users)).numpy()) < 10 * SCORE


@pytest.mark.parametrize("rank", [4, 30])
def test_singular_vectors_are_those_of_a_dense_decomposition(rank) -> None:
    """Lanczos iterations for few of them, the dense decomposition for more than half."""
    matrix = item_filters.sparse.to_scipy(GFCF.build(communities_with_gaps()).normalized)
    found = singular_vectors(matrix, rank)
    assert np.array_equal(found, singular_vectors(matrix, rank))
    expected = np.linalg.svd(matrix.toarray().astype(np.float64))[2][:rank].T
    assert found.shape == expected.shape
    assert np.abs(found @ found.T - expected @ expected.T).max() < 10 * SCORE


def test_ranks_beyond_the_data_are_all_there_is() -> None:
    data = communities_with_gaps()
    most = GFCF.build(data, None, GFCF.Config(rank=10_000)).singular_vectors.shape[1]
    x, _, _ = dense(data.train, 1)
    assert most == np.linalg.matrix_rank(x)
    assert GFCF.build(data, None, GFCF.Config(alpha=0)).singular_vectors.shape[1] == 0


def test_no_square_matrix_is_held() -> None:
    """30,000 items would be 3.4 GiB of pairs."""
    n = 30_000
    rng = numpy_rng(0, "tests/many")
    keys = np.unique(rng.integers(0, 2_000, 40_000) * n + rng.integers(0, n, 40_000))
    data = testing.dataset(np.stack([keys // n, keys % n], 1), [], 2_000, n, "many")
    model = BSPM.build(data, None, BSPM.Config(rank=5))
    held = sum(b.numel() for b in model.buffers()) + 2 * model.columns.nnz
    assert held < 20 * n + 20 * len(data.train)
    assert model.score([0, 1]).shape == (2, n)


@pytest.mark.parametrize(
    ("model_class", "options", "message"),
    [
        (GFCF, {"n_filters": 0}, "n_filters"),
        (GFCF, {"alpha": -1}, "alpha"),
        (BSPM, {"solver": "rk45"}, "solver"),
        (BSPM, {"time": -1}, "time"),
        (BSPM, {"merge": "both"}, "merge"),
    ],
)
def test_options_out_of_range_are_refused(model_class, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        model_class.Config(**options)

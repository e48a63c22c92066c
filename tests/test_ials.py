"""iALS: its steps against the reference and plain least squares, its objective, options, gaps and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_formulas import dense
from tolerances import PARITY

from graphrec import testing
from graphrec.core.errors import ConfigError, DataError, TrainingError
from graphrec.core.random import numpy_rng
from graphrec.data.query import Histories, Query
from graphrec.models import fold_in
from graphrec.models.fold_in import LeastSquaresFoldIn, least_squares
from graphrec.models.ials import IALS

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.fixture(scope="module")
def data():
    return testing.communities(2, 20)[0]


def plain_step(others: np.ndarray, x: np.ndarray, config: IALS.Config) -> np.ndarray:
    """The vectors of the rows of ``x``, one system after the other in float64."""
    unobserved = config.unobserved_weight
    result = np.zeros((len(x), others.shape[1]))
    for row, taken in enumerate(x):
        weights = unobserved + config.alpha * taken
        penalty = config.reg_weight * weights.sum() ** config.reg_exponent
        system = (others * weights[:, None]).T @ others + penalty * np.eye(others.shape[1])
        result[row] = np.linalg.solve(system, others.T @ (weights * taken))
    return result


def test_parity_of_the_user_step_with_the_reference() -> None:
    reference = np.load(FIXTURES / "seq_foldin.npz", allow_pickle=False)
    edges = np.load(FIXTURES / "freedom_bm3_toy.npz", allow_pickle=False)["train_edges"]
    items = torch.from_numpy(reference["als.items"])
    expected = reference["als.users"]
    rule = LeastSquaresFoldIn(1.0, float(reference["als.alpha0"]), float(reference["als.lambda"]), 0.0)
    lists = [np.unique(edges[1][edges[0] == user]) for user in range(len(expected))]
    found = least_squares(items, Histories.from_lists(lists), rule).numpy()
    assert abs(found - expected).max() < PARITY
    new = least_squares(items, Histories.from_lists([reference["new_items"]]), rule).numpy()
    assert abs(new[0] - reference["als.new_user"]).max() < PARITY


@pytest.mark.parametrize("block", [fold_in.BLOCK, 100])
@pytest.mark.parametrize("dim", [1, 6, 40])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_exponent": 0.0, "reg_weight": 1.0},
        {"reg_exponent": 0.5, "alpha": 4.0},
        {"unobserved_weight": 1.0},
    ],
    ids=str,
)
def test_steps_are_least_squares(data, options, dim, block, monkeypatch) -> None:
    """Histories that are longer and shorter than ``dim`` are solved for in two ways."""
    monkeypatch.setattr(fold_in, "BLOCK", block)
    config = IALS.Config(dim=dim, **options)
    others = numpy_rng(0, "tests/ials").normal(size=(data.n_items, dim)).astype(np.float32)
    histories = Histories(data.train.items, data.train.indptr)
    rule = LeastSquaresFoldIn(config.alpha, config.unobserved_weight, config.reg_weight, config.reg_exponent)
    found = least_squares(torch.from_numpy(others), histories, rule).numpy()
    assert np.allclose(found, plain_step(others, dense(data.train), config), rtol=1e-4, atol=PARITY)


def objective(model: IALS, x: np.ndarray) -> float:
    """What the steps minimize."""
    config = model.config
    users, items = (v.numpy().astype(np.float64) for v in model.embed())
    weights = config.unobserved_weight + config.alpha * x
    error = (weights * (x - users @ items.T) ** 2).sum()
    penalties = [
        config.reg_weight * weights.sum(1) ** config.reg_exponent @ (users**2).sum(1),
        config.reg_weight * weights.sum(0) ** config.reg_exponent @ (items**2).sum(1),
    ]
    return float(error + sum(penalties))


@pytest.mark.parametrize("reg_exponent", [0.0, 1.0])
def test_each_iteration_lowers_the_objective(data, reg_exponent) -> None:
    x = dense(data.train)
    values = [
        objective(IALS.build(data, None, IALS.Config(dim=8, n_iterations=n, reg_exponent=reg_exponent)), x)
        for n in (1, 2, 4, 16)
    ]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.99 * values[0]


def test_known_users_have_the_vectors_of_their_histories(data) -> None:
    model = IALS.build(data, None, IALS.Config(dim=8))
    known = Histories(data.train.items, data.train.indptr)
    users = np.arange(data.n_users)
    assert torch.allclose(model.score(Query(histories=known)), model.score(users), atol=1e-6)
    empty = Query(histories=Histories.from_lists([[]]))
    assert not model.score(empty).any()
    with pytest.raises(DataError, match=str(data.n_items)):
        model.score(Query(histories=Histories.from_lists([[data.n_items]])))


def test_alpha_is_a_matter_of_scale(data) -> None:
    """All weights and penalties multiplied by the same have the same optimum."""
    one = IALS.Config(dim=8, alpha=1.0, unobserved_weight=0.025, reg_weight=0.01, reg_exponent=0.0)
    hu = one.replace(alpha=40.0, unobserved_weight=1.0, reg_weight=0.4)
    users = np.arange(data.n_users)
    assert torch.allclose(
        IALS.build(data, None, one).score(users), IALS.build(data, None, hu).score(users), atol=1e-3
    )


def test_the_seed_decides_and_repeats(data) -> None:
    first, again, other = (IALS.build(data, None, IALS.Config(dim=8, seed=s)).items for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_users_and_items_without_interactions_score_zero() -> None:
    full, _ = testing.communities(2, 20)
    keep = (full.train.users != 0) & ~np.isin(full.train.items, [0, 7, 39])
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    gaps = testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")
    scores = IALS.build(gaps, None, IALS.Config(dim=8)).score(np.arange(gaps.n_users))
    assert torch.isfinite(scores).all()
    assert not scores[:, [0, 7, 39]].any()
    assert not scores[0].any()
    assert scores[1:].any(1).all()


def test_a_system_that_cannot_be_solved_is_refused() -> None:
    systems = torch.stack([torch.eye(3), -torch.eye(3)])
    with pytest.raises(TrainingError, match=r"1 of 2 .* systems of 3 .*reg_weight=0.5; raise reg_weight"):
        fold_in._solve(systems, torch.ones(2, 3), LeastSquaresFoldIn(reg_weight=0.5))


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"dim": 0}, {"alpha": 0.0}, {"unobserved_weight": 0.0}, {"reg_weight": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            IALS.Config(**wrong)
    with pytest.raises(ConfigError, match="reg_exponent"):
        IALS.Config(reg_exponent=1.5)

"""SLIM against the reference and against the conditions of an optimum, its options, gaps and warnings."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from dense_formulas import dense
from tolerances import PARITY, SCORE

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.data.interactions import Interactions
from graphrec.models.slim import SLIM

FIXTURE = Path(__file__).with_name("fixtures") / "ssl_linear.npz"


@pytest.fixture(scope="module")
def data():
    return testing.communities(2, 20)[0]


def test_parity_with_the_reference() -> None:
    """Its class run to the optimum: as shipped it stops up to 5.6e-4 from it."""
    reference = np.load(FIXTURE, allow_pickle=False)
    n_users, n_items = int(reference["n_users"]), int(reference["n_items"])
    train = Interactions(*reference["train_edges"], n_users, n_items)
    alpha, l1_ratio = 0.02, 0.1
    config = SLIM.Config(
        l1_weight=n_users * alpha * l1_ratio, reg_weight=n_users * alpha * (1 - l1_ratio), tolerance=1e-9
    )
    model = SLIM(train, config)
    weights = model.item_weights().dense().numpy().T
    expected = reference["slim_converged.B"]
    assert abs(weights - expected).max() < PARITY
    assert np.array_equal(weights > 0, expected > 0)
    scores = model.score(reference["score_users"]).numpy()
    assert abs(scores - reference["slim_converged.scores"]).max() < PARITY
    shipped = SLIM(train, config.replace(tolerance=1e-4)).item_weights().dense().numpy().T
    assert abs(shipped - expected).max() < 1e-3


@pytest.mark.parametrize(("l1_weight", "reg_weight"), [(1.0, 30.0), (0.0, 5.0), (4.0, 1.0), (0.5, 1000.0)])
def test_no_weight_can_be_changed_to_the_better(data, l1_weight, reg_weight) -> None:
    """The gradient is zero where a weight is positive, and not negative where it is zero, also for items that
    were left out.
    """
    x = dense(data.train)
    config = SLIM.Config(l1_weight=l1_weight, reg_weight=reg_weight, tolerance=1e-12)
    model = SLIM.build(data, None, config)
    weights = model.item_weights().dense().numpy().T.astype(np.float64)
    gradient = -x.T @ (x - x @ weights) + reg_weight * weights + l1_weight
    positive = weights > 0
    assert positive.any()
    assert (weights >= 0).all()
    assert not weights.diagonal().any()
    assert abs(gradient[positive]).max() < 1e-4
    others = ~positive & ~np.eye(data.n_items, dtype=bool)
    assert gradient[others].min() > -1e-4
    assert np.allclose(model.score(np.arange(data.n_users)), x @ weights, atol=10 * SCORE)


def test_a_larger_penalty_leaves_fewer_weights(data) -> None:
    counts = [
        len(SLIM.build(data, None, SLIM.Config(l1_weight=weight)).item_weights())
        for weight in (0.0, 1.0, 3.0, 1e6)
    ]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == len(counts)
    assert counts[-1] == 0


def test_users_and_items_without_interactions_score_zero() -> None:
    full, _ = testing.communities(2, 20)
    keep = (full.train.users != 0) & ~np.isin(full.train.items, [0, 7, 39])
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    gaps = testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")
    scores = SLIM.build(gaps).score(np.arange(gaps.n_users))
    assert not scores[:, [0, 7, 39]].any()
    assert not scores[0].any()
    assert scores[1:].any(1).all()


def test_items_that_did_not_converge_are_counted(data, caplog) -> None:
    config = SLIM.Config(reg_weight=0.01, tolerance=1e-12, max_sweeps=1)
    with caplog.at_level(logging.WARNING, logger="graphrec"):
        SLIM.build(data, None, config)
    (record,) = caplog.records
    assert f"of {data.n_items} items" in record.getMessage()
    assert "max_sweeps" in record.getMessage()
    caplog.clear()
    SLIM.build(data)
    assert not caplog.records


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"l1_weight": -1.0}, {"reg_weight": 0.0}, {"tolerance": 0.0}, {"max_sweeps": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SLIM.Config(**wrong)

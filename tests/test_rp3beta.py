"""RP3beta against walks written out in plain Python, its options and gaps."""

from __future__ import annotations

import numpy as np
import pytest
from dense_formulas import dense, nearest_only
from tolerances import SCORE

from graphrec import testing
from graphrec.core.errors import ConfigError
from graphrec.graphs import sparse
from graphrec.models.rp3beta import RP3beta


@pytest.fixture(scope="module")
def data():
    return testing.communities(2, 20)[0]


def walked(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Row ``i``: what each other item of a history adds to the score of item ``i``."""
    to_item = x / np.maximum(x.sum(1, keepdims=True), 1)  # from a user to one of their items
    to_user = x.T / np.maximum(x.T.sum(1, keepdims=True), 1)  # from an item to one of its users
    steps = (to_user**alpha * x.T) @ (to_item**alpha * x)  # 0 ** 0 is 1
    weights = steps.T / np.maximum(x.sum(0), 1)[:, None] ** beta
    np.fill_diagonal(weights, 0)
    return weights


@pytest.mark.parametrize("products", [2**22, 300])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("k", "alpha", "beta"), [(5, 1.0, 0.0), (5, 0.7, 0.6), (1, 1.0, 0.3), (400, 0.0, 0.0), (400, 1.5, 1.0)]
)
def test_weights_are_probabilities_of_walks(data, k, alpha, beta, normalize, products, monkeypatch) -> None:
    monkeypatch.setattr(sparse, "PRODUCTS", products)
    x = dense(data.train)
    config = RP3beta.Config(k=k, alpha=alpha, beta=beta, normalize=normalize)
    model = RP3beta.build(data, None, config)
    full = walked(x, alpha, beta)
    rows = model.item_weights().dense().numpy()
    # Weights that are equal in exact numbers may be kept in another order: their values are compared.
    kept = nearest_only(full, k)
    chosen = np.where(rows > 0, full, 0)
    assert np.allclose(np.sort(chosen, axis=1), np.sort(kept, axis=1), rtol=1e-6, atol=1e-12)
    if normalize:
        chosen /= np.maximum(chosen.sum(0), 1e-30)
    assert np.allclose(rows, chosen, rtol=1e-5, atol=SCORE)
    assert np.allclose(model.score(np.arange(data.n_users)), x @ rows.T, atol=10 * SCORE)


def test_two_steps_of_a_walk_add_up_to_one_with_all_weights_and_no_exponents(data) -> None:
    """With ``alpha=1``, what an item of a history adds to all others is the chance not to return to it."""
    model = RP3beta.build(data, None, RP3beta.Config(k=data.n_items, alpha=1.0, beta=0.0))
    x = dense(data.train)
    returns = ((x / x.sum(1, keepdims=True)) * x).sum(0) / x.sum(0)
    assert np.allclose(model.item_weights().dense().numpy().sum(0), 1 - returns, atol=1e-6)


def test_users_and_items_without_interactions_score_zero() -> None:
    full, _ = testing.communities(2, 20)
    keep = (full.train.users != 0) & ~np.isin(full.train.items, [0, 7, 39])
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    data = testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")
    for normalize in (False, True):
        scores = RP3beta.build(data, None, RP3beta.Config(normalize=normalize)).score(np.arange(data.n_users))
        assert not scores[:, [0, 7, 39]].any()
        assert not scores[0].any()
        assert scores[1:].any(1).all()


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"k": 0}, {"alpha": -0.1}, {"beta": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RP3beta.Config(**wrong)

"""The grid of experiments.content_priors is that of ContentEASE, and its error leaves each user out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphrec as gr
from experiments import content_priors
from experiments.content_priors import (
    Regression,
    factor_shares,
    factors_table,
    measure,
    sums_table,
    variants_table,
)
from graphrec.models.content_ease import ContentEASE, content_prior
from graphrec.testing import communities


@pytest.fixture(scope="module")
def made():
    data, tables = communities(2, 20)
    return data.resplit("random"), tables


def test_a_point_of_the_grid_scores_as_content_ease(made, monkeypatch) -> None:
    data, tables = made
    monkeypatch.setattr(content_priors, "PENALTIES", (2.0,))
    monkeypatch.setattr(content_priors, "DROPOUTS", (0.3,))
    base = ContentEASE.Config(knn_k=4, reg_weight=2.0, dropout=0.3, cold_items="as_trained")
    prior = content_prior(tables, base.weights_of(tables), data.train, base)
    everybody = torch.arange(data.n_users)
    for point in Regression(data).grid(prior):
        model = ContentEASE.build(data, tables, base.replace(content_weight=point.options["content_weight"]))
        torch.testing.assert_close(point.scores.values, model.score(everybody), rtol=1e-4, atol=1e-5)
    (without,) = Regression(data).grid(None)
    ease = ContentEASE.build(data, tables, base.replace(content_weight=0.0))
    torch.testing.assert_close(without.scores.values, ease.score(everybody), rtol=1e-4, atol=1e-5)


def test_the_error_is_that_of_regressions_without_the_user(made, monkeypatch) -> None:
    """Without the constraint on the diagonal the closed form is exact; penalties of popular items depend on
    the user too, so there is no dropout.
    """
    data, _ = made
    monkeypatch.setattr(content_priors, "PENALTIES", (3.0,))
    monkeypatch.setattr(content_priors, "DROPOUTS", (0.0,))
    regression = Regression(data)
    monkeypatch.setattr(
        Regression,
        "_scores",
        lambda self, free, inverse, identity=False: torch.from_numpy(
            (self.x @ (free + identity * np.eye(len(free)))).astype(np.float32)
        ),
    )
    (point,) = regression.grid(None)
    x = regression.x.toarray()
    errors = []
    for user in range(len(x)):
        others = np.delete(x, user, 0)
        gram = others.T @ others
        weights = np.linalg.solve(gram + 3 * np.eye(len(gram)), gram)
        errors.append(np.square(x[user] - x[user] @ weights))
    assert point.error == pytest.approx(np.mean(errors), rel=1e-4)


def test_everything_is_measured_on_validation_and_the_sums_on_test(made, monkeypatch) -> None:
    data, tables = made
    monkeypatch.setattr(content_priors, "NEIGHBORS", 4)
    record = {
        "rows": {
            "iALS": {"options": {"dim": 4, "n_iterations": 2}},
            "FREEDOM": {"options": {"dim": 4, "train.learning_rate": 0.01}},
            "ContentEASE": {"options": {"knn_k": 4, "image_weight": 0.5}},
        },
        "defaults": {"train": {"epochs": 2, "batch_size": 128}},
    }
    found = measure(data, tables, record)
    assert len(found["variants"]) == 13
    assert found["sums"]["ContentEASE"]["shares"] == [1, 0, 0]
    assert (
        found["sums"]["all three"]["valid"]["recall@20"] >= found["sums"]["ContentEASE"]["valid"]["recall@20"]
    )
    other = data.with_splits(data.train, data.valid, data.test.where(data.test.users % 2 == 0))
    again = measure(other, tables, record)
    assert again["variants"] == found["variants"], "test does not choose"
    for label, of in again["sums"].items():
        assert of["shares"] == found["sums"][label]["shares"]
    assert again["sums"] != found["sums"], "and test is measured"
    rows = variants_table({"toy": found}).splitlines()
    assert len(rows) == 2 + len(found["variants"])
    assert len(sums_table({"toy": found}).splitlines()) == 2 + 6


def test_shares_of_factors_are_chosen_on_validation_and_measured_at_every_seed(made, monkeypatch) -> None:
    data, tables = made
    monkeypatch.setattr(content_priors, "NEIGHBORS", 4)
    monkeypatch.setattr(content_priors, "PENALTIES", (2.0,))
    monkeypatch.setattr(content_priors, "DROPOUTS", (0.3,))
    record = {"rows": {"ContentEASE": {"options": {"knn_k": 4, "image_weight": 0.5}}}}
    found = factor_shares(data, tables, record)
    assert [label for label in found if "shuffled" not in label] == ["0", "0.25", "0.5", "0.75"]
    half = found["0.5"]
    assert len(half["test"]["recall@20"]) == 3
    assert len(found["0"]["test"]["recall@20"]) == 1
    assert found["0.5, factors shuffled"]["test"] != half["test"]
    for seed in range(3):
        config = ContentEASE.Config(
            **half["at"], knn_k=4, image_weight=0.5, factors_weight=0.5, seed=seed, cold_items="as_trained"
        )
        model = ContentEASE.build(data, tables, config)
        report = gr.evaluate(model, data.test, seen=data.train, metrics=("recall", "ndcg"), k=(20,))
        assert report.mean()["ndcg@20"] == pytest.approx(half["test"]["ndcg@20"][seed], abs=1e-6)
    other = data.with_splits(data.train, data.valid, data.test.where(data.test.users % 2 == 0))
    again = factor_shares(other, tables, record)
    assert {k: (v["at"], v["valid"]) for k, v in again.items()} == {
        k: (v["at"], v["valid"]) for k, v in found.items()
    }
    assert len(factors_table({"toy": {"factors": found}}).splitlines()) == 2 + 7


def test_regressions_of_content_score_as_content_ease(made, monkeypatch) -> None:
    data, tables = made
    monkeypatch.setattr(content_priors, "PENALTIES", (2.0,))
    monkeypatch.setattr(content_priors, "DROPOUTS", (0.3,))
    base = ContentEASE.Config(knn_k=4, reg_weight=2.0, dropout=0.3, cold_items="as_trained")
    grids = content_priors.regressions(data, tables, base)
    assert {content_priors.part_of(label) for label in grids} == {"regressions"}
    everybody = torch.arange(data.n_users)
    for label, share in (
        ("regression of the content (L3AE)", 1.0),
        ("content and its regression, half each", 0.5),
    ):
        for point in grids[label]:
            weight = point.options["content_weight"]
            config = base.replace(content_weight=weight, regression_weight=share)
            model = ContentEASE.build(data, tables, config)
            torch.testing.assert_close(point.scores.values, model.score(everybody), rtol=1e-3, atol=1e-4)
    (stacked,) = grids["none, content vectors as further users"]
    (plain,) = Regression(data).grid(None)
    assert not torch.allclose(stacked.scores.values, plain.scores.values, atol=0.01)


def test_every_variant_belongs_to_a_part() -> None:
    found = content_priors.read_json(content_priors.RESULT)
    parts = {content_priors.part_of(label) for of in found.values() for label in of["variants"]}
    assert parts == {"priors", "attributes", "regressions"}

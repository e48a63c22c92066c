"""Users known only by a list of items: exact formulas, least squares, and what is saved of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import PARITY, SCORE

import graphrec as gr
from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.data import Histories, Query
from graphrec.models import fold_in as folding, model as model_class
from graphrec.models.bm3 import BM3
from graphrec.models.fold_in import LeastSquaresFoldIn, MeanFoldIn, fold_in
from graphrec.models.freedom import FREEDOM
from graphrec.models.lightgcn import LightGCN
from graphrec.models.mf import MF

FIXTURE = Path(__file__).parent / "fixtures" / "seq_foldin.npz"


@pytest.fixture(scope="module")
def catalog():
    return testing.communities(2, 20)


def own_histories(data) -> Query:
    return Query(histories=Histories.from_interactions(data.train))


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("ranker", [LightGCN, FREEDOM])
def test_a_trained_user_is_the_folded_list_and_the_share_of_the_id(catalog, ranker, n_layers) -> None:
    data, features = catalog
    option = "n_layers" if ranker is LightGCN else "n_ui_layers"
    model = ranker.build(data, features, ranker.Config(**{option: n_layers}))
    users, items = (table.detach() for table in model.embed())
    folded = fold_in(model.fold_in(), Histories.from_interactions(data.train), items)
    share = model.user_embedding.weight / (n_layers + 1)
    assert float((folded + share - users).detach().abs().max()) <= SCORE


def test_bm3_folds_in_through_its_predictor(catalog) -> None:
    data, features = catalog
    model = BM3.build(data, features, BM3.Config(n_layers=2))
    users, items = (table.detach() for table in model.embed())
    folded = fold_in(model.fold_in(), Histories.from_interactions(data.train), items)
    share = model.user_embedding.weight / 3 @ model.predictor.weight.T
    assert float((folded + share - users).detach().abs().max()) <= SCORE


def test_without_layers_the_items_are_all_there_is(catalog) -> None:
    data, features = catalog
    rule = LightGCN.build(data, features, LightGCN.Config(n_layers=0)).fold_in()
    assert rule == LeastSquaresFoldIn()


@pytest.mark.parametrize("block", [2**20, 10])
def test_least_squares_is_the_step_of_implicit_factorization(block, monkeypatch) -> None:
    monkeypatch.setattr(folding, "BLOCK", block)
    values = np.load(FIXTURE, allow_pickle=False)
    toy = np.load(FIXTURE.with_name("freedom_bm3_toy.npz"), allow_pickle=False)
    users, items = toy["train_edges"]
    rule = LeastSquaresFoldIn(1.0, float(values["als.alpha0"]), float(values["als.lambda"]))
    table = torch.from_numpy(values["als.items"])
    lists = [items[users == user] for user in range(len(values["als.users"]))]
    found = fold_in(rule, Histories.from_lists(lists), table).numpy()
    assert np.abs(found - values["als.users"]).max() <= PARITY
    new = fold_in(rule, Histories.from_lists([values["new_items"]]), table).numpy()[0]
    assert np.abs(new - values["als.new_user"]).max() <= PARITY


def test_repeated_items_count_once_and_rows_are_independent(catalog) -> None:
    data, _ = catalog
    for model in (MF.build(data), LightGCN.build(data)):
        alone = model.score(Query(histories=Histories.from_lists([[3, 5]])))
        several = model.score(Query(histories=Histories.from_lists([[7], [5, 3, 5, 3]])))
        assert torch.allclose(alone[0], several[1], atol=SCORE)


@pytest.mark.parametrize("name", ["mf", "lightgcn", "freedom", "bm3", "vbpr", "lattice", "popularity"])
def test_a_saved_recommender_answers_a_list_as_the_model_does(catalog, name, tmp_path) -> None:
    data, features = catalog
    model = model_class(name).build(data, features)
    gr.Recommender.from_model(model, data, features, seen=data.train).save(tmp_path / "saved")
    recommender = gr.Recommender.load(tmp_path / "saved")
    taken = [5, 2, 9]
    scores = model.score(Query(histories=Histories.from_lists([taken])))[0]
    scores[taken] = -torch.inf
    ids, values = recommender.recommend(history=[data.items[i] for i in taken], k=5)
    assert np.allclose(values, scores.topk(5).values, atol=SCORE)
    assert scores[[data.items.index(i) for i in ids]].tolist() == pytest.approx(values.tolist(), abs=SCORE)


def test_least_squares_solves_its_equations() -> None:
    rng = numpy_rng(0, "test/fold")
    items = rng.normal(size=(30, 4)).astype(np.float32)
    taken = np.array([1, 4, 20])
    rule = LeastSquaresFoldIn(1.0, 0.1, 0.5)
    u = fold_in(rule, Histories.from_lists([taken]), torch.from_numpy(items)).numpy()[0].astype(np.float64)
    v = items.astype(np.float64)
    left = 0.1 * v.T @ v + v[taken].T @ v[taken] + 0.5 * np.eye(4)
    assert np.abs(left @ u - 1.1 * v[taken].sum(0)).max() <= 1e-5


def test_a_model_that_folds_in_badly_is_seen() -> None:
    class Reversed(MF):
        def fold_in(self):
            return MeanFoldIn(-self.item_embedding.weight.detach(), torch.zeros(self.config.dim))

    with pytest.raises(AssertionError, match="rank correlation"):
        testing.CHECKS["folds_in"](Reversed, Reversed.Config())

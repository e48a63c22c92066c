"""Weights and times of the items that a user is known by: formulas, what changes nothing, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from history_encoder import MeanEncoder, MeanHistory
from tolerances import SCORE

import graphrec as gr
from graphrec import models, testing
from graphrec.core.errors import ConfigError, DataError, UnknownIdError
from graphrec.core.random import numpy_rng
from graphrec.data import Histories, Query
from graphrec.data.query import WEIGHTS
from graphrec.graphs import sparse
from graphrec.models import model as model_class
from graphrec.models.fold_in import LeastSquaresFoldIn, MeanFoldIn, fold_in

LISTS = [[4, 9, 2], [7], [11, 3, 5, 8, 1, 6, 13]]
GIVEN = [[2.0, 0.5, 30.0], [3.0], [1.0, 0.25, 2.0, 5.0, 0.125, 1.0, 7.0]]
FOLDED = ("mf", "lightgcn", "freedom", "bm3", "vbpr", "lattice", "ials")
SUMMED = ("itemknn", "itemknn-content", "ease", "content-ease", "slim", "rp3beta", "gf-cf", "bspm")


class LastEncoder(MeanEncoder):
    """The vector of the last item of a history."""

    def forward(self, query):
        histories = query.histories
        return self.table[torch.from_numpy(histories.items[histories.indptr[1:] - 1])]


class LastHistory(MeanHistory):
    """Scores an item by its similarity to the last one of a history."""

    name = "last-history"
    encoder_class = LastEncoder

    def __init__(self, train, config):
        super().__init__(train, config)
        encoder = LastEncoder(train.n_items, config.dim)
        encoder.load_state_dict(self.encoder.state_dict())
        self.encoder = encoder


@pytest.fixture(scope="module")
def catalog():
    return testing.communities(2, 20)


@pytest.fixture(scope="module")
def folded(catalog):
    """The answers of LightGCN as it is built."""
    data, features = catalog
    return gr.Recommender.from_model(model_class("lightgcn").build(data, features), data)


def ids_of(data, lists):
    return [[data.items[i] for i in items] for items in lists]


def same(one, other) -> bool:
    """Whether two answers are bit-equal."""
    return np.array_equal(one[0], other[0]) and one[1].tobytes() == other[1].tobytes()


# -- histories ----------------------------------------------------------------


def test_rows_keep_their_weights_and_times() -> None:
    histories = Histories.from_lists(
        [[5, 2], [], [7, 1, 7]], [[20, 10], [], [2, 1, 2]], [[1, 2], [], [3, 4, 5]]
    )
    taken = histories.take([2, 0])
    assert (taken.items.tolist(), taken.weights.tolist()) == ([7, 1, 7, 5, 2], [3, 4, 5, 1, 2])
    kept = histories.where(histories.items != 7)
    assert (kept.items.tolist(), kept.indptr.tolist()) == ([5, 2, 1], [0, 2, 2, 3])
    assert (kept.times.tolist(), kept.weights.tolist()) == ([20, 10, 1], [1, 2, 4])
    ordered = histories.by_time()
    assert ordered.items.tolist() == [2, 5, 1, 7, 7]
    assert (ordered.times.tolist(), ordered.weights.tolist()) == ([10, 20, 1, 2, 2], [2, 1, 4, 3, 5])
    distinct = histories.distinct()
    assert (distinct.items.tolist(), distinct.indptr.tolist()) == ([2, 5, 1, 7], [0, 2, 2, 4])
    assert (distinct.weights.tolist(), distinct.times) == ([2, 1, 4, 8], None)
    assert histories.weight_sums.tolist() == [3, 0, 12]
    assert Histories.from_lists([[1, 1], []]).weight_sums.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("times", "weights", "facts"),
    [
        (None, [[1, 2], [3]], ("2 items", "1 weights", "row 1")),
        ([[1, 2], [3, 4], [5]], None, ("2 rows", "3 of times")),
        (None, [[1, 2], [3, 0]], ("weight 0", "row 1", "position 1")),
        (None, [[1, -2], [3, 4]], ("weight -2", "row 0", "position 1")),
        (None, [[1, 2], [float("nan"), 4]], ("weight nan", "row 1", "position 0")),
        (None, [[1, float("inf")], [3, 4]], ("weight inf", "row 0")),
        (None, [[1, 2], [2 * WEIGHTS[1], 4]], ("weight 2000000", "row 1", "1e+06")),
        (None, [[1, 2], [3, None]], ("weight None", "row 1", "position 1")),
        (None, [[True, True], [True, True]], ("weight True", "row 0")),
        ([[1, 2], [float("nan"), 4]], None, ("time nan", "row 1", "position 0")),
        ([[1, 2], ["yesterday", "now"]], None, ("time", "row")),
    ],
)
def test_what_is_wrong_is_named_with_its_row(folded, times, weights, facts) -> None:
    items = [[4, 9], [2, 7]]
    with pytest.raises(DataError) as caught:
        Histories.from_lists(items, times, weights)
    ids = [[folded.items[i] for i in one] for one in items]
    with pytest.raises(DataError) as of_recommender:
        folded.recommend(history=ids, times=times, weights=weights)
    for cause in (caught, of_recommender):
        assert not [fact for fact in facts if fact not in str(cause.value)], str(cause.value)


# -- formulas ----------------------------------------------------------------


def test_the_weighted_mean_is_that_of_a_user_with_weighted_edges() -> None:
    rng = numpy_rng(0, "test/weighted")
    table, bias = rng.normal(size=(15, 6)), rng.normal(size=6)
    rule = MeanFoldIn(torch.from_numpy(table).float(), torch.from_numpy(bias).float())
    found = fold_in(rule, Histories.from_lists(LISTS, None, GIVEN), torch.empty(15, 6)).numpy()
    for row, items, given in zip(found, LISTS, GIVEN, strict=True):
        expected = given @ table[items] / np.sqrt(np.sum(given)) + bias
        assert np.abs(row - expected).max() <= 1e-5


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("dim", [4, 30])
def test_weights_multiply_the_confidence_of_least_squares(dim, exponent) -> None:
    """In both forms: fewer items than dimensions, and more."""
    items = numpy_rng(0, "test/weighted").normal(size=(15, dim))
    rule = LeastSquaresFoldIn(2.0, 0.1, 0.5, exponent)
    table = torch.from_numpy(items).float()
    found = fold_in(rule, Histories.from_lists(LISTS, None, GIVEN), table).numpy()
    for row, taken, given in zip(found, LISTS, GIVEN, strict=True):
        confidence = np.full(15, 0.1)
        confidence[taken] += 2.0 * np.array(given)
        penalty = 0.5 * (2.0 * np.sum(given) + 0.1 * 15) ** exponent
        left = (items.T * confidence) @ items + penalty * np.eye(dim)
        right = items[taken].T @ confidence[taken]
        assert np.abs(row - np.linalg.solve(left, right)).max() <= 1e-4


@pytest.mark.parametrize("name", SUMMED)
def test_item_weights_are_summed_with_the_weights_of_the_items(catalog, name) -> None:
    data, features = catalog
    model = model_class(name).build(data, features)
    each = model.score(Query(histories=Histories.from_lists([[i] for i in range(data.n_items)]))).double()
    found = model.score(Query(histories=Histories.from_lists(LISTS, None, GIVEN)))
    for row, items, given in zip(found, LISTS, GIVEN, strict=True):
        expected = torch.tensor(given, dtype=torch.float64) @ each[items]
        assert float((row - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", [*FOLDED, *SUMMED])
def test_weights_of_one_change_nothing_and_others_do(catalog, name) -> None:
    data, features = catalog
    model = model_class(name).build(data, features)
    plain = Histories.from_interactions(data.train)
    ones = Histories(plain.items, plain.indptr, weights=np.ones(len(plain.items)))
    scores = model.score(Query(histories=plain))
    assert torch.equal(model.score(Query(histories=ones)), scores)
    random = numpy_rng(0, "test/weights").uniform(0.1, 9, len(plain.items))
    weighted = model.score(Query(histories=Histories(plain.items, plain.indptr, weights=random)))
    assert torch.isfinite(weighted).all()
    assert not torch.allclose(weighted, scores, rtol=1e-3)


@pytest.mark.parametrize("name", ["mf", "lightgcn", "itemknn"])
def test_repeated_items_count_once_without_weights_and_add_up_with_them(catalog, name) -> None:
    data, features = catalog
    model = model_class(name).build(data, features)

    def score(items, weights=None):
        return model.score(Query(histories=Histories.from_lists([items], None, weights and [weights])))

    assert torch.equal(score([3, 5, 3]), score([3, 5]))
    assert torch.equal(score([3, 5, 3], [1, 1, 1]), score([3, 5], [2, 1]))
    assert not torch.equal(score([3, 5, 3], [1, 1, 1]), score([3, 5]))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_extreme_weights_give_finite_scores(catalog, weight) -> None:
    data, features = catalog
    lists = Histories.from_lists([LISTS[2], LISTS[2]], None, [[weight] * 7, [weight, *GIVEN[2][1:]]])
    for name in ("mf", "lightgcn", "ials", "ease"):
        model = model_class(name).build(data, features)
        assert torch.isfinite(model.score(Query(histories=lists))).all(), name


# -- recommenders ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["mf", "lightgcn", "bm3", "ials", "itemknn", "ease"])
def test_a_saved_recommender_answers_weighted_lists_as_the_model_does(catalog, name, tmp_path) -> None:
    data, features = catalog
    model = model_class(name).build(data, features)
    gr.Recommender.from_model(model, data, features, seen=data.train).save(tmp_path / "saved")
    loaded = gr.Recommender.load(tmp_path / "saved")
    scores = model.score(Query(histories=Histories.from_lists(LISTS, None, GIVEN)))
    ids, values = loaded.recommend(history=ids_of(data, LISTS), weights=GIVEN, k=5)
    for row, items in enumerate(LISTS):
        scores[row, items] = -torch.inf
        assert np.allclose(values[row], scores[row].topk(5).values, rtol=1e-5, atol=SCORE)
        single = loaded.recommend(history=ids_of(data, [items])[0], weights=GIVEN[row], k=5)
        assert single[0].tolist() == ids[row].tolist()
        assert np.allclose(single[1], values[row], rtol=1e-5, atol=SCORE)
    ones = [[1] * len(items) for items in LISTS]
    plain = loaded.recommend(history=ids_of(data, LISTS), k=5)
    assert same(loaded.recommend(history=ids_of(data, LISTS), weights=ones, k=5), plain)
    times = [list(range(len(items), 0, -1)) for items in LISTS]
    assert same(loaded.recommend(history=ids_of(data, LISTS), times=times, k=5), plain), "there is no order"


def test_histories_of_sequence_models_are_put_into_order(catalog, monkeypatch, tmp_path) -> None:
    data, _ = catalog
    monkeypatch.setitem(models.MODELS, "last-history", "test_weighted_histories:LastHistory")
    model = LastHistory.build(data)
    gr.Recommender.from_model(model, data, seen=data.train).save(tmp_path / "saved")
    loaded = gr.Recommender.load(tmp_path / "saved")
    lists = ids_of(data, [[3, 8, 5], [6, 2]])
    as_given = loaded.recommend(history=lists, k=4)
    forward = loaded.recommend(history=lists, times=[[1.5, 2, 3], [7, 7]], k=4)
    assert same(forward, as_given), "items of the same time keep their order"
    turned = loaded.recommend(history=[lists[0][::-1], lists[1]], times=[[3, 2, 1.5], [9, 8]], k=4)
    assert turned[0][0].tolist() == as_given[0][0].tolist()
    assert same(loaded.recommend(history=lists[1], times=[9, 8], k=4), (turned[0][1], turned[1][1]))
    assert same(loaded.recommend(history=lists[1][::-1], k=4), (turned[0][1], turned[1][1]))
    assert turned[0][1].tolist() != as_given[0][1].tolist()
    for ask in (
        lambda: loaded.recommend(history=lists, weights=[[1, 1, 1], [1, 1]]),
        lambda: model.score(Query(histories=Histories.from_lists([[1]], None, [[2]]))),
    ):
        with pytest.raises(ConfigError, match=r"last-history.*weights"):
            ask()


def test_items_that_the_model_does_not_know_lose_weight_and_time(catalog) -> None:
    data, features = catalog
    model = model_class("freedom").build(data, features)
    recommender = gr.Recommender.from_model(model, data, features)
    rows = {m: table.numpy(np.float32)[[3]] for m, table in features.items()}
    recommender.add_items(["new"], rows)
    known, options = [data.items[4], data.items[9]], {"exclude": ["new"], "k": 6}
    found = recommender.recommend(
        history=[known[0], "new", known[1]], weights=[2, 500, 3], times=[3, 2, 1], **options
    )
    assert same(found, recommender.recommend(history=known, weights=[2, 3], **options))
    with pytest.raises(UnknownIdError, match="stranger"):
        recommender.recommend(history=[known[0], "stranger"], weights=[2, 3])


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({"weights": 2}, ("weights=2",)),
        ({"weights": [[1, 2]]}, ("weights=", "one number")),
        ({"history": [["a"]], "weights": [1]}, ("weights=", "per user")),
        ({"times": "12"}, ("times='12'",)),
        ({"history": None, "weights": [1]}, ("weights", "no history")),
        ({"history": None, "times": [1]}, ("times", "no history")),
    ],
)
def test_weights_and_times_have_the_form_of_the_history(folded, given, facts) -> None:
    history = [folded.items[0], folded.items[1]]
    if given.get("history"):
        given = {**given, "history": [history]}
    with pytest.raises(ConfigError) as caught:
        folded.recommend("somebody", **{"history": history, **given})
    assert not [fact for fact in facts if fact not in str(caught.value)], str(caught.value)


def test_a_matrix_of_histories_holds_their_weights() -> None:
    matrix = sparse.history_matrix(Histories.from_lists([[3, 1, 3], []], None, [[0.5, 2, 1], []]), 4)
    assert matrix.toarray().tolist() == [[0, 2, 0, 1.5], [0, 0, 0, 0]]
    assert matrix.dtype == np.float32

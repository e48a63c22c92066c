"""Queries, and the four ways in which models answer them, in training, evaluation and serving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from history_encoder import MeanEncoder, MeanHistory
from trie_generator import Trie

from graphrec import (
    Histories,
    Query,
    RankingTask,
    Recommender,
    TrainConfig,
    Trainer,
    evaluate,
    models,
    testing,
)
from graphrec.core.errors import CheckpointError, ConfigError, DataError, UnknownIdError
from graphrec.data import Interactions
from graphrec.models import MF, ItemKNN
from graphrec.runs import open_run, train


@pytest.fixture
def data():
    """Communities with a validation split, and times that run against the order of the items."""
    made, _ = testing.communities(3, 20)
    known = made.train
    held = np.arange(len(known)) % 8 == 7
    times = 10**6 - np.arange(len(known)) * 7
    parts = {}
    for name, mask in (("train", ~held), ("valid", held)):
        parts[name] = Interactions(
            known.users[mask], known.items[mask], made.n_users, made.n_items, times[mask], name
        )
    test = Interactions(
        made.test.users, made.test.items, made.n_users, made.n_items, np.full(len(made.test), 10**7), "test"
    )
    return replace(made, **parts, test=test)


@pytest.fixture
def registered(monkeypatch):
    """The models of the two test files, by name, as a registration makes them."""
    monkeypatch.setitem(models.MODELS, "mean-history", "history_encoder:MeanHistory")
    monkeypatch.setitem(models.MODELS, "trie", "trie_generator:Trie")


# -- queries ----------------------------------------------------------------


def test_histories_are_ordered_by_time(data) -> None:
    histories = Histories.from_interactions(data.train)
    for user in range(data.n_users):
        row = data.train.users == user
        expected = data.train.items[row][np.argsort(data.train.times[row])]
        assert histories[user].tolist() == expected.tolist()
        assert len(expected) > 1
    untimed = Interactions(data.train.users, data.train.items, data.n_users, data.n_items)
    assert Histories.from_interactions(untimed)[3].tolist() == data.train.items_of(3).tolist()


def test_the_forms_of_histories_agree() -> None:
    lists = Histories.from_lists([[5, 2], [], [7, 1, 3]], [[1, 2], [], [3, 4, 5]])
    padded = Histories.from_padded([[5, 2, -1], [-1, -1, -1], [7, 1, 3]], [[1, 2, 0], [0, 0, 0], [3, 4, 5]])
    for one in (lists, padded):
        assert one.items.tolist() == [5, 2, 7, 1, 3]
        assert one.times.tolist() == [1, 2, 3, 4, 5]
        assert one.indptr.tolist() == [0, 2, 2, 5]
    assert lists.padded().tolist() == [[5, 2, -1], [-1, -1, -1], [7, 1, 3]]
    assert lists.padded(2).tolist() == [[5, 2], [-1, -1], [1, 3]], "the latest items are kept"
    some = lists.take([2, 0, 2])
    assert [some[row].tolist() for row in range(3)] == [[7, 1, 3], [5, 2], [7, 1, 3]]
    assert some.times.tolist() == [3, 4, 5, 1, 2, 3, 4, 5]


def test_queries_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError):
        Query()
    with pytest.raises(DataError, match="2 users and 1 histories"):
        Query(np.array([0, 1]), Histories.from_lists([[1]]))
    with pytest.raises(DataError, match="item 9 in row 1"):
        Histories.from_lists([[1], [2, 9]]).check(5)
    with pytest.raises(DataError, match="-3 in row 0, position 1"):
        Histories.from_lists([[1, -3]])


# -- models ----------------------------------------------------------------


@pytest.mark.parametrize("check", testing.CHECKS)
def test_a_model_that_encodes_histories_keeps_the_contract(check: str, registered) -> None:
    testing.CHECKS[check](MeanHistory, MeanHistory.Config())


@pytest.mark.parametrize("check", ["capability", "learns_the_checkerboard", "beats_popularity"])
def test_a_model_that_generates_lists_keeps_the_contract(check: str) -> None:
    testing.CHECKS[check](Trie, Trie.Config())


class MixesRows(MeanEncoder):
    """Subtracts the mean of the batch."""

    def forward(self, query):
        vectors = super().forward(query)
        return vectors - vectors.mean(0)


class EncodesOthersToo(MeanHistory):
    encoder_class = MixesRows

    def __init__(self, train, config):
        super().__init__(train, config)
        mixed = MixesRows(**self.encoder.arguments)
        mixed.load_state_dict(self.encoder.state_dict())
        self.encoder = mixed


class IgnoresWhatIsAllowed(Trie):
    def __init__(self, train, config):
        super().__init__(train, config)
        search = self.generator.generate
        self.generator.generate = lambda query, k, allowed: search(query, k, torch.ones_like(allowed))


class DeclaresTheWrongCapability(MeanHistory):
    capability = "generator"


class WeighsKnownUsersOtherwise(ItemKNN):
    def history_rows(self):
        return self.history.scaled(2.0)


@pytest.mark.parametrize(
    "broken", [EncodesOthersToo, IgnoresWhatIsAllowed, DeclaresTheWrongCapability, WeighsKnownUsersOtherwise]
)
def test_a_capability_that_is_not_kept_is_seen(broken) -> None:
    with pytest.raises(AssertionError):
        testing.CHECKS["capability"](broken, broken.Config())


def test_item_weights_answer_a_history_as_the_user_who_has_it(data) -> None:
    model = ItemKNN.build(data)
    users = np.arange(data.n_users)
    histories = Histories.from_interactions(data.train)
    by_user, by_history = model.score(users), model.score(Query(histories=histories))
    assert torch.equal(by_user, by_history)


def test_known_users_are_looked_up_and_others_folded_in(data) -> None:
    model = MF.build(data)
    histories = Histories.from_interactions(data.train)
    users = np.arange(data.n_users)
    known = model.score(users)
    folded = model.score(Query(histories=histories))
    assert torch.equal(model.score(Query(users, histories)), known)
    assert not torch.allclose(folded, known)
    some = np.where(users % 2, users, -1)
    mixed = model.score(Query(some, histories))
    assert torch.equal(mixed[1::2], known[1::2])
    assert torch.allclose(mixed[::2], folded[::2], atol=1e-6)


# -- evaluation ----------------------------------------------------------------


class Recording(MeanHistory):
    """Notes the histories that it is asked about."""

    def scorer(self):
        score, self.asked = super().scorer(), {}

        def noting(query):
            for user, history in zip(query.users, range(len(query)), strict=True):
                self.asked[int(user)] = query.histories[history].tolist()
            return score(query)

        return noting


def test_histories_hold_what_precedes_the_split(data) -> None:
    model = Recording.build(data)
    everything = Histories.from_interactions(data.train + data.valid)
    evaluate(model, data.test, seen=data.train + data.valid)
    for user, history in model.asked.items():
        assert history == everything[user].tolist()
        assert not set(history) & set(data.test.items_of(user).tolist())
    assert any(set(history) & set(data.valid.items_of(user)) for user, history in model.asked.items())
    RankingTask(data.valid, seen=data.train)(model)
    before = Histories.from_interactions(data.train)
    assert all(history == before[user].tolist() for user, history in model.asked.items())
    with pytest.raises(DataError, match="history="):
        evaluate(model, data.test, seen=data.train, history=data.train + data.test)
    with pytest.raises(DataError, match="was given none"):
        evaluate(model, data.test, seen=None)


def test_a_generator_is_evaluated_as_its_scores_are(data) -> None:
    class Scores(Trie):
        capability = "encoder"  # asked for scores of queries

        def scorer(self):
            return self._generated_scores

    groups = {"few": np.arange(data.n_items) % 2 == 0}
    options = {"seen": data.train + data.valid, "item_groups": groups, "within": True}
    lists = evaluate(Trie.build(data), data.test, **options)
    scores = evaluate(Scores.build(data), data.test, **options)
    assert lists.mean() == scores.mean()
    assert lists.mean()["recall@20"] > 0.2
    for name in lists.groups:
        assert lists.groups[name].mean() == scores.groups[name].mean(), name


def test_a_generator_that_leaves_what_is_allowed_is_refused(data) -> None:
    with pytest.raises(DataError, match="not among the items allowed"):
        evaluate(IgnoresWhatIsAllowed.build(data), data.test, seen=data.train + data.valid)


# -- serving ----------------------------------------------------------------


@pytest.fixture
def trained(data):
    """A trained encoder."""
    options = TrainConfig(epochs=5, batch_size=64, learning_rate=0.01, device="cpu", progress=False)
    return Trainer(options).fit(MeanHistory.build(data), RankingTask(data.valid, seen=data.train)).model


def served(model, data, tmp_path, **options) -> Recommender:
    Recommender.from_model(model, data, **options).save(tmp_path / "recommender")
    return Recommender.load(tmp_path / "recommender")


@pytest.mark.parametrize("kind", ["encoder", "item_weights"])
def test_a_history_is_served_as_the_model_scores_it(data, trained, registered, tmp_path, kind: str) -> None:
    model = trained if kind == "encoder" else ItemKNN.build(data)
    recommender = served(model, data, tmp_path, seen=data.train)
    items = [5, 2, 9]
    scores = model.score(Query(histories=Histories.from_lists([items])))[0]
    scores[items] = -torch.inf
    expected = scores.topk(10)
    ids, values = recommender.recommend(history=[data.items[i] for i in items])
    assert ids.shape == (10,)
    assert np.allclose(values, expected.values, atol=1e-6)
    assert scores[[data.items.index(i) for i in ids]].tolist() == pytest.approx(values.tolist(), abs=1e-6)
    assert not {data.items[i] for i in items} & set(ids)
    nested = recommender.recommend(history=[[data.items[1]], [data.items[i] for i in items]], k=10)
    assert nested[0].shape == (2, 10)
    assert nested[0][1].tolist() == ids.tolist()
    only = [data.items[i] for i in (1, 2, 3)]
    limited, _ = recommender.recommend(history=[data.items[5]], only=only, exclude=[data.items[3]], k=3)
    assert set(limited) == {data.items[1], data.items[2], None}


@pytest.mark.parametrize("kind", ["encoder", "item_weights", "generator"])
def test_known_users_and_those_with_their_history_get_the_same(data, trained, registered, tmp_path, kind):
    made = {"encoder": lambda _: trained, "item_weights": ItemKNN.build, "generator": Trie.build}
    recommender = served(made[kind](data), data, tmp_path, seen=data.train)
    known = Histories.from_interactions(data.train)
    history = [[data.items[i] for i in known[user]] for user in range(data.n_users)]
    ids, scores = recommender.recommend(data.users.ids, 5)
    for users in (data.users.ids, [f"new{u}" for u in range(data.n_users)], None):
        again, values = recommender.recommend(users, 5, history=history)
        assert np.allclose(np.where(np.isfinite(scores), scores, 0), np.where(np.isfinite(values), values, 0))
        assert (again == ids).mean() > 0.99
    assert not np.isin(ids[0], history[0]).any()


def test_a_known_user_with_another_history_keeps_what_is_known(data, trained, registered, tmp_path) -> None:
    recommender = served(trained, data, tmp_path)
    user = data.users[0]
    ids, _ = recommender.recommend(user, data.n_items, history=[data.items[0]])
    known = recommender.seen.items_of(0).tolist()
    assert not {data.items[i] for i in (0, *known)} & set(ids)


def test_histories_that_say_nothing(data, trained, registered, tmp_path) -> None:
    recommender = served(trained, data, tmp_path)
    with pytest.raises(UnknownIdError, match="stranger"):
        recommender.recommend(history=["stranger"])
    with pytest.raises(ConfigError, match="row 1"):
        recommender.recommend(history=[[data.items[0]], []])
    popular, _ = recommender.recommend(history=[[data.items[0]], []], unknown="popularity", k=5)
    expected, _ = recommender.recommend("stranger", unknown="popularity", k=5)
    assert popular[1].tolist() == expected.tolist()
    with pytest.raises(ConfigError, match="2 users and 1 histories"):
        recommender.recommend(["a", "b"], history=[[data.items[0]]])
    with pytest.raises(ConfigError, match="neither"):
        recommender.recommend()


def test_a_recommender_without_a_fold_in_rule_refuses_histories(data, tmp_path) -> None:
    recommender = served(MF.build(data), data, tmp_path)
    recommender.fold_in = None  # as one that was saved before there were such rules
    with pytest.raises(ConfigError, match=r"mf.*cannot answer a history"):
        recommender.recommend(history=[data.items[0]])


def test_a_generator_serves_lists_and_has_no_similar_items(data, registered, tmp_path) -> None:
    recommender = served(Trie.build(data), data, tmp_path)
    ids, scores = recommender.recommend(data.users.ids, 5)
    assert (np.diff(scores[np.isfinite(scores).all(1)], axis=1) <= 0).all()
    seen = recommender.seen
    for user in range(data.n_users):
        assert not {data.items[i] for i in seen.items_of(user)} & set(ids[user])
    assert seen.times is not None, "the order of histories is kept"
    for ask in (
        lambda: recommender.similar_items(data.items[0]),
        lambda: recommender.export_faiss(tmp_path / "faiss"),
        lambda: recommender.build_index(tmp_path / "recommender"),
    ):
        with pytest.raises(ConfigError, match="trie"):
            ask()
    recommender.export(tmp_path / "all.parquet", k=3)
    with pytest.raises(UnknownIdError, match="stranger"):
        recommender.recommend("stranger")


def test_a_saved_encoder_is_loaded_by_the_registered_name_alone(data, trained, registered, tmp_path) -> None:
    served(trained, data, tmp_path)
    models.MODELS.pop("mean-history")
    with pytest.raises(ConfigError, match="'mean-history'"):
        Recommender.load(tmp_path / "recommender")
    models.MODELS["mean-history"] = "graphrec.models.mf:MF"
    with pytest.raises(CheckpointError, match="'mean-history' is no encoder"):
        Recommender.load(tmp_path / "recommender")


def test_a_run_of_an_encoder_is_trained_opened_and_served(data, registered, tmp_path) -> None:
    options = {"epochs": 3, "batch_size": 64, "device": "cpu", "progress": False}
    train("mean-history", data, train_options=options, out=tmp_path / "run")
    opened = open_run(tmp_path / "run")
    report = evaluate(opened.model, data.test, seen=data.train + data.valid)
    assert report.meta["history"] == "train+valid"
    recommender = Recommender.load(tmp_path / "run" / "recommender")
    assert recommender.capability == "encoder"
    ids, _ = recommender.recommend("somebody new", 3, history=[data.items[4]])
    assert len(set(ids)) == 3

"""SCPR's network, memory and training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conversations import catalog, vectors

from graphrec.conversation.belief import Answer
from graphrec.conversation.dialogue import RECOMMEND, REWARDS, Dialogue
from graphrec.conversation.models.scpr import SCPR
from graphrec.conversation.replay import Transitions
from graphrec.conversation.simulator import Simulator
from graphrec.conversation.states import ACTIONS
from graphrec.core import distributed
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.data.attributes import HAS, IN
from graphrec.models.batches import EpochContext
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer


@pytest.fixture(scope="module")
def data() -> Dataset:
    """60 items with 9 attributes in 3 groups, 7 users; pairs at random."""
    items_catalog = catalog()
    chosen = numpy_rng(0, "tests/pairs").permutation(7 * 60)[:150]
    parts = [
        Interactions(p // 60, p % 60, 7, 60, name=n)
        for n, p in zip(("train", "valid", "test"), np.split(chosen, [80, 120]), strict=True)
    ]
    edges = np.stack(
        [np.arange(60).repeat(np.diff(items_catalog.item_offsets)), items_catalog.attributes]
    ).astype(np.int32)
    groups = np.stack([np.arange(9), items_catalog.groups]).astype(np.int32)
    return Dataset(
        "shelf", Vocabulary(map(str, range(7)), "user"), Vocabulary(map(str, range(60))), *parts,
        nodes={"attribute": Vocabulary(items_catalog.names, "attribute"),
               "group": Vocabulary(items_catalog.group_names, "group")},
        relations={HAS: edges, IN: groups},
    )  # fmt: skip


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> str:
    of = vectors(catalog())
    path = tmp_path_factory.mktemp("scorer") / "vectors.npz"
    rows = np.concatenate([of.users, of.items, np.zeros((1, 5), np.float32)])
    pad = np.concatenate([of.attributes, np.zeros((1, 5), np.float32)])
    np.savez(path, ui_emb=rows, feature_emb=pad)
    return str(path)


def small(data: Dataset, scorer: str, **options) -> SCPR:
    given = {"scorer": scorer, "hidden": 16, "memory": 300, "episodes": 30, "parallel": 4, "target_every": 5}
    return SCPR.build(data, None, SCPR.Config(**{**given, **options}))


TRAIN = TrainConfig(epochs=3, batch_size=32, learning_rate=1e-3)


def test_the_state_is_history_and_the_number_of_candidates_in_binary(data, scorer) -> None:
    model = small(data, scorer)
    user = model.simulator("test").users(np.array([3]), 15)[0]
    dialogue = Dialogue(model.setting, 0, user)
    dialogue.belief.n_candidates = 7432
    dialogue.history[1:4] = [-1, 1, -2]
    state = model.state(dialogue)
    assert state.shape == (35,)
    assert state.dtype == np.float32
    assert state[:15].tolist() == [1, -1, 1, -2] + [0] * 11
    assert "".join(str(int(b)) for b in state[15:]) == "00000001110100001000"


@pytest.mark.parametrize("part", ["history", "length", "entropy", "user"])
def test_every_part_of_the_state_can_be_alone(data, scorer, part: str) -> None:
    model = small(data, scorer, state=(part,))
    dialogue = Dialogue(model.setting, 2, model.simulator("test").users(np.array([3]), 15)[0])
    state = model.state(dialogue)
    if part == "entropy":
        assert np.allclose(state, np.maximum(dialogue.belief.question_values, 0))
    if part == "user":
        assert np.array_equal(state, model.setting.vectors.users[2])
    assert len(model.act([dialogue])) == 1
    Trainer(TRAIN.replace(epochs=1)).fit(model)


@pytest.mark.parametrize("double", [False, True])
def test_the_loss_is_the_huber_loss_of_the_temporal_difference(data, scorer, double) -> None:
    model = small(data, scorer, gamma=0.9, double=double)
    rng = numpy_rng(0, "tests/transitions")
    states, after = (torch.from_numpy(rng.normal(size=(8, 35)).astype(np.float32)) for _ in range(2))
    actions, goes_on = torch.arange(8) % 2, torch.tensor([1.0, 0] * 4)
    rewards = torch.linspace(-3, 3, 8)
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    found = model.loss(Transitions(states, actions, rewards, after, goes_on))["td"]
    total, differ = 0.0, 0
    for i in range(8):
        values = model.target(after[i])
        best = int((model.network if double else model.target)(after[i]).argmax())
        differ += best != int(values.argmax())
        q = model.network(states[i])[i % 2].item()
        y = rewards[i].item() + 0.9 * goes_on[i].item() * values[best].item()
        d = abs(q - y)
        total += 0.5 * d * d if d < 1 else d - 0.5
    assert found.item() == pytest.approx(total / 8, rel=1e-5)
    assert bool(differ) == double
    found.backward()
    assert all(p.grad is None for p in model.target.parameters())
    (1e6 * model.loss(Transitions(states, actions, rewards * 9, after, goes_on))["td"]).backward()
    model.zero_grad()
    (1e6 * model.loss(Transitions(states, actions, rewards * 9, after, goes_on))["td"]).backward()
    assert max(p.grad.abs().max().item() for p in model.network.parameters()) == 1  # clamped


def test_what_is_remembered_is_what_happened(data, scorer) -> None:
    model = small(data, scorer)
    list(model.batches(EpochContext(1, 32, 0)))
    assert model.finished == 30
    assert model.replay.seen == model.decided
    memory = model.replay
    n = len(memory)
    states, actions, rewards, after, goes_on = (
        buffer[:n] for buffer in (memory.states, memory.actions, memory.rewards, memory.after, memory.goes_on)
    )
    assert set(np.round(rewards.tolist(), 4)) <= set(REWARDS.values())
    for row in range(n):
        turn = int((states[row, :15] != 0).sum())
        if goes_on[row]:
            assert int((after[row, :15] != 0).sum()) == turn + 1
            code = int(after[row, turn])
            named = {1: "accepted", -1: "rejected", -2: "refused"}[code]
            assert rewards[row] == pytest.approx(REWARDS[named])
            assert actions[row] == (abs(code) == 2)
        else:
            assert rewards[row] == pytest.approx(1) or turn == 15 or rewards[row] == pytest.approx(-0.1)


def test_no_test_pair_and_no_held_pair_is_talked_about(data, scorer, monkeypatch) -> None:
    model = small(data, scorer)
    seen = []
    original = Dialogue.__init__

    def note(self, setting, user, person) -> None:
        seen.append((user, person.target))
        original(self, setting, user, person)

    monkeypatch.setattr(Dialogue, "__init__", note)
    for epoch in (1, 2, 3):
        list(model.batches(EpochContext(epoch, 32, 0)))
    users, targets = np.array(seen).T
    assert len(seen) == 90
    assert model.pairs.contains(users, targets).all()
    for other in (model.holdout, data.test, data.train):
        assert not other.contains(users, targets).any()
    assert len(model.holdout) == round(0.2 * len(data.valid))
    assert data.valid.contains(model.holdout.users, model.holdout.items).all()


def test_every_user_and_every_pair_of_a_user_comes_up_equally_often(data, scorer, monkeypatch) -> None:
    seen: list[int] = []

    def note(self, targets, turns, epoch) -> None:
        seen.extend(targets)
        raise InterruptedError  # they need not be played

    monkeypatch.setattr(Simulator, "users", note)
    model = small(data, scorer, episodes=4000)
    with pytest.raises(InterruptedError):
        list(model.batches(EpochContext(1, 32, 0)))
    expected, pairs = np.zeros(60), model.pairs
    known = np.flatnonzero(pairs.user_degree)
    for user in known:
        items = pairs.items[pairs.indptr[user] : pairs.indptr[user + 1]]
        expected[items] += 4000 / len(known) / len(items)
    assert len(seen) == 4000
    assert np.abs(np.bincount(seen, minlength=60) - expected).max() < 5 * np.sqrt(expected.max())


def test_the_target_network_is_copied_every_so_many_conversations(data, scorer) -> None:
    model, copies = small(data, scorer, parallel=1), []
    before, bias = model.target.first.bias[0].item(), model.network.first.bias
    for _ in model.batches(EpochContext(1, 32, 0)):
        with torch.no_grad():
            bias += 1
        now = model.target.first.bias[0].item()
        if now != before:
            copies.append(int(model.finished))
        before = now
    assert len(copies) >= 4
    assert not set(copies) - {5, 10, 15, 20, 25, 30}


def test_random_actions_become_fewer(data, scorer) -> None:
    model = small(data, scorer)
    rng = numpy_rng(0, "tests/explore")
    states = [np.zeros(35, np.float32)] * 4000
    best = int(model.network(torch.zeros(1, 35)).argmax())
    model.config.__dict__["explore"] = (0.9, 0.05, 1e9)
    early = np.mean(np.array(model.explore(states, rng)) != best)
    model.config.__dict__["explore"] = (0.9, 0.05, 1e-9)
    late = np.mean(np.array(model.explore(states, rng)) != best)
    assert early == pytest.approx(0.45, abs=0.03)
    assert late == pytest.approx(0.025, abs=0.01)


def test_a_resumed_training_is_the_training(data, scorer, tmp_path) -> None:
    straight = Trainer(TRAIN, tmp_path / "straight").fit(
        small(data, scorer), small(data, scorer).task(), "sr@15"
    )
    model = small(data, scorer)
    Trainer(TRAIN.replace(epochs=1), tmp_path / "parts").fit(model, model.task(), "sr@15")
    model = small(data, scorer)
    resumed = Trainer(TRAIN, tmp_path / "parts").fit(model, model.task(), "sr@15", resume=True)
    for key, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    plain = [{k: v for k, v in h.items() if "seconds" not in k} for h in straight.history]
    assert plain == [{k: v for k, v in h.items() if "seconds" not in k} for h in resumed.history]


def test_it_learns_when_to_recommend(data, scorer) -> None:
    model = small(
        data, scorer, k=3, hidden=64, episodes=200, validation_conversations=None, holdout_fraction=0.3
    )
    before = model.task()(model)
    run = Trainer(TRAIN.replace(epochs=6)).fit(model, model.task(), "sr@15")
    assert run.best_value > before["sr@15"] or run.best_value > 0.95


def test_the_posterior_can_be_learned_on(data, scorer) -> None:
    model = small(data, scorer, belief="posterior", questions="enumerated")
    Trainer(TRAIN.replace(epochs=1)).fit(model, model.task(), "sr@15")
    dialogue = Dialogue(model.setting, 0, model.simulator("test").users(np.array([3]), 15)[0])
    dialogue.belief.update(0, Answer(np.array([], int)))
    assert model.act([dialogue])


def test_what_it_cannot_be_built_from_is_said(data, scorer) -> None:
    with pytest.raises(ConfigError, match="graphrec train fm"):
        SCPR.build(data)
    with pytest.raises(ConfigError, match="user"):
        SCPR.Config(state=("histry",))
    plain = Dataset("plain", data.users, data.items, data.train, data.valid, data.test)
    with pytest.raises(DataError, match="attributes"):
        SCPR.build(plain, None, SCPR.Config(scorer=scorer))


def test_each_of_two_processes_leads_its_part_of_a_validation(data, scorer, monkeypatch) -> None:
    model = small(data, scorer, holdout_fraction=0.5)
    with torch.no_grad():
        model.network.second.bias[ACTIONS.index(RECOMMEND)] = 100
    task = model.task()
    whole = task.outcomes(model)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce_array", lambda x: x)  # nobody else is here
    halves, n = [], len(whole)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        halves.append(task.outcomes(model, divided=True).success_turn)
        assert task(model)["sr@15"] == (halves[-1] > 0).mean(), "a validation is divided"
    assert not halves[0][n // 2 :].any()
    assert not halves[1][: n // 2].any()
    assert np.array_equal(halves[0] + halves[1], whole.success_turn)
    assert (whole.success_turn > 0).sum() > 2

"""Sessions by hand, and CODER whose people are nodes for each of theirs."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch
from tolerances import PARITY

from graphrec import testing
from graphrec.code.models.coder import CODER
from graphrec.code.sessions import Sessions
from graphrec.core.random import numpy_rng
from graphrec.data.interactions import Interactions
from graphrec.data.times import SECONDS_PER_DAY
from graphrec.models.batches import EpochContext

WEEK = 7.0


def days(*pairs: tuple[int, int, float], n_users: int = 3, n_items: int = 5) -> Interactions:
    """User, item, day."""
    users, items, times = zip(*pairs, strict=True)
    return Interactions(users, items, n_users, n_items, (np.array(times) * SECONDS_PER_DAY).astype(np.int64))


def test_sessions_are_weeks_of_a_person() -> None:
    train = days((0, 4, 0), (0, 1, 6), (0, 2, 30), (2, 0, 3), (2, 3, 8))
    found = Sessions.from_interactions(train, WEEK)
    assert found.user.tolist() == [0, 0, 1, 2, 2], "by person, then time; who did nothing has one as well"
    assert list(zip(train.users.tolist(), train.items.tolist(), found.session_of.tolist(), strict=True)) == [
        (0, 1, 0), (0, 2, 1), (0, 4, 0), (2, 0, 3), (2, 3, 4),
    ]  # fmt: skip
    assert sorted(zip(found.pairs.users.tolist(), found.pairs.items.tolist(), strict=True)) == [
        (0, 1), (0, 4), (1, 2), (3, 0), (4, 3),
    ]  # fmt: skip
    worth = {day: exp((day - last) / 30) + 0.1 for day, last in ((0, 30), (6, 30), (30, 30), (3, 8), (8, 8))}
    first, second = worth[0] + worth[6], worth[30]
    expected = np.zeros((3, 5))
    expected[0, :2] = np.array([first, second]) / (first + second)
    expected[1, 2] = 1
    expected[2, 3:] = np.array([worth[3], worth[8]]) / (worth[3] + worth[8])
    assert np.allclose(found.weights.dense().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("times", [None, "one moment"])
def test_without_times_each_person_is_one_session(times) -> None:
    data, _ = testing.communities(2, 10)
    train = data.train.where(data.train.users != 4)
    stamps = None if times is None else np.full(len(train), 10**9)
    train = Interactions(train.users, train.items, data.n_users, data.n_items, stamps)
    found = Sessions.from_interactions(train, WEEK)
    assert found.user.tolist() == list(range(data.n_users))
    assert np.array_equal(found.session_of, train.users)
    assert torch.allclose(found.weights.dense(), torch.eye(data.n_users), atol=1e-6)


@pytest.fixture(scope="module")
def timed():
    """Communities, with times over half a year."""
    data, _ = testing.communities(2, 15)
    times = numpy_rng(0, "tests/sessions").integers(0, 180 * int(SECONDS_PER_DAY), len(data.train))
    return replace(
        data, train=Interactions(data.train.users, data.train.items, data.n_users, data.n_items, times)
    )


def built(data, **options) -> CODER:
    return CODER.build(data, None, CODER.Config(semantics=False, dim=8, heads=2, **options))


def test_one_session_each_is_the_model_without(timed) -> None:
    data = replace(
        timed, train=Interactions(timed.train.users, timed.train.items, timed.n_users, timed.n_items)
    )
    plain, cut = built(data, cochange=3.0), built(data, cochange=3.0, session=WEEK)
    assert torch.allclose(plain.score(range(9)), cut.score(range(9)), atol=PARITY)
    for a, b in zip(plain.batches(EpochContext(1, 64, 0)), cut.batches(EpochContext(1, 64, 0)), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for name, value in plain.loss(a).items():
            assert torch.allclose(value, cut.loss(b)[name], atol=PARITY), name


def test_batches_hold_the_session_of_each_contribution_and_no_file_of_the_person(timed) -> None:
    model, train = built(timed, session=WEEK), timed.train
    seen = []
    for batch in model.batches(EpochContext(1, 50, 0)):
        people = model.sessions.user[batch.users.numpy()]
        seen += list(zip(people.tolist(), batch.positives.tolist(), strict=True))
        at = train.positions(people, batch.positives.numpy())
        assert np.array_equal(model.sessions.session_of[at], batch.users.numpy())
        assert not train.contains(people, batch.negatives.numpy()).any(), "also not of another session"
    assert sorted(seen) == sorted(zip(train.users.tolist(), train.items.tolist(), strict=True))


@pytest.mark.parametrize("fusion", ["sum", "mlp"])
def test_people_are_their_sessions_and_sessions_know_their_persons_projects(timed, fusion) -> None:
    model = built(timed, session=WEEK, n_layers=2, fusion=fusion).double()
    found, share = model.propagate(), model.sessions.weights.dense().double()
    users, _ = model.embed()
    assert torch.allclose(users, share @ found.users, atol=PARITY)
    files, repositories = model.files()
    n, own = len(model.sessions.user), model.user_embedding.weight
    a = torch.zeros(n + timed.n_items, n + timed.n_items, dtype=torch.float64)
    pairs = model.sessions.pairs
    a[pairs.users.astype(np.int64), n + pairs.items.astype(np.int64)] = 1
    a += a.T.clone()
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1.0) ** -0.5
    a = scale[:, None] * a * scale
    x = torch.cat([own, files])
    both = (x + a @ x + a @ (a @ x)) / 3
    macro = model.graph_authored.dense().double()
    z = torch.cat([share @ own, repositories])
    done = (z + macro @ z + macro @ (macro @ z)) / 3
    of_person = done[: timed.n_users][model.sessions.user]
    assert torch.allclose(found.by_behavior[0][0], done[: timed.n_users], atol=PARITY)
    together = (
        both[:n] + of_person if fusion == "sum" else model.fuse_users(torch.cat([both[:n], of_person], 1))
    )
    assert torch.allclose(found.users, together, atol=PARITY)


def test_sessions_learn_what_belongs_to_when() -> None:
    """Everybody works on a few files of one half of the project, then of the other; what comes next is of the
    second half, which only the order of time tells.
    """
    rng, n = numpy_rng(0, "tests/halves"), 40
    rows, held = [], []
    for user in range(60):
        halves = [0, 1] if user % 2 else [1, 0]
        for day, half in zip((0, 100), halves, strict=True):
            chosen = rng.choice(np.arange(n)[half::2], 5, replace=False)
            rows += [(user, int(i), day) for i in chosen[:4]]
            if day:
                held.append((user, int(chosen[4])))
    data = testing.dataset([r[:2] for r in rows], held, 60, n, "halves")
    order = sorted(rows)
    times = np.array([day for *_, day in order]) * int(SECONDS_PER_DAY)
    data = replace(data, train=Interactions(data.train.users, data.train.items, 60, n, times))
    ndcg = []
    for session in (0.0, WEEK):
        config = CODER.Config(semantics=False, tree=False, projects=False, fusion="sum", contrast_weight=0,
                              reg_weight=0, n_layers=1, session=session)  # fmt: skip
        ranks = testing.contract._unseen_ranks(testing.train(CODER, config, data, {}, 40), data)
        ndcg.append((1 / np.log2(1 + ranks) * (ranks <= 10)).mean())
    assert ndcg[1] > 1.3 * ndcg[0], ndcg


def test_a_file_has_its_own_vector_beside_what_it_says() -> None:
    data, tables = testing.communities(2, 15)
    tables = {"text": tables["text"]}
    options = {"segments": 1, "dim": 8, "heads": 2, "tree": False, "projects": False}
    both = CODER.build(data, tables, CODER.Config(identity=True, **options))
    content = CODER.build(data, tables, CODER.Config(**options))
    assert torch.allclose(both.files()[0], content.files()[0] + both.item_embedding.weight, atol=PARITY)
    assert not hasattr(content, "item_embedding")


def test_everything_learns_with_sessions_and_own_vectors(timed) -> None:
    _, tables = testing.communities(2, 15)
    options = {"segments": 1, "dim": 8, "heads": 2, "identity": True, "session": WEEK}
    model = CODER.build(timed, {"text": tables["text"]}, CODER.Config(**options))
    model.start_epoch(numpy_rng(0, "tests/start"))
    asked, pairs = model.queries.numpy(), model.sessions.pairs
    assert all(pairs.contains(asked[i], i).all() for i in np.unique(pairs.items)), (
        "sessions in which it was worked on"
    )
    torch.stack(list(model.loss(next(iter(model.batches(EpochContext(1, 64, 0))))).values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name

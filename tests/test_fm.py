"""FM against its formulas written out, its samples, its two optimizer states, its validation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import HAS, planted, with_attributes
from safetensors.torch import load_file
from tolerances import METRIC, PARITY

from graphrec import runs, testing
from graphrec.conversation.models.fm import FM, AttributeBatch, ItemBatch
from graphrec.conversation.samples import Samples
from graphrec.conversation.scoring import ScoringTask
from graphrec.conversation.vectors import DialogueVectors
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.models.batches import EpochContext
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer


@pytest.fixture(scope="module")
def data() -> Dataset:
    return planted()


@pytest.fixture(scope="module")
def table(data) -> np.ndarray:
    found = np.zeros((data.n_items, 24), dtype=bool)
    found[tuple(data.relations[HAS])] = True
    return found


def options(**changes) -> TrainConfig:
    return TrainConfig(
        **{"epochs": 2, "batch_size": 64, "learning_rate": 0.02, "patience": None, "device": "cpu", **changes}
    )


def spread(model: FM) -> FM:
    """With vectors large enough for every part of a loss to show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 40
    return model


def parts(batch: AttributeBatch) -> list[tuple[list[int], list[int], list[int]]]:
    """Of every sample: prefix, other attributes of the positive, attributes it does not have."""
    ends = [*batch.offsets.tolist(), len(batch.attributes)]
    ids, sign = batch.attributes.tolist(), batch.signs.tolist()
    found = []
    for begin, middle, end in zip(ends[:-2:2], ends[1:-1:2], ends[2::2], strict=True):
        rest = [ids[i] for i in range(middle, end) if sign[i] == 1]
        none = [ids[i] for i in range(middle, end) if sign[i] == -1]
        found.append((ids[begin:middle], rest, none))
    return found


# -- formulas ------------------------------------------------------------------------------------------------


def test_item_loss_and_gradients_are_those_of_the_formulas(data) -> None:
    """The score as a sum over pairs of vectors, each dimension kept or not; one sample after the other."""
    model = spread(FM.build(data, None, FM.Config(dim=6, dropout=0.25, reg_weight=0.3)))
    item, attribute = (b for b, _ in zip(model.batches(EpochContext(1, 64, 0)), range(2), strict=False))
    item = item._replace(
        negative_mask=torch.where(torch.arange(64)[:, None] % torch.tensor([5, 3]) > 0, 1.0, 0.0)
    )
    leaves = list(model.parameters())
    found = model.loss(item)
    gradients = torch.autograd.grad(sum(found.values()), leaves)

    users, items, attributes = leaves
    loss = reg = torch.zeros(())
    for row, (said, _, _) in enumerate(parts(attribute)):
        u, p = users[item.users[row]], [attributes[a] for a in said]
        score = []
        for v, kept in zip(items[item.items[row]], item.dropout_mask[row], strict=True):
            together = [u, v, *p]
            pairs = sum(one * other for i, one in enumerate(together) for other in together[i + 1 :]) - sum(
                (one * other for i, one in enumerate(p) for other in p[i + 1 :]), torch.zeros(6)
            )
            score.append((pairs * kept).sum() / 0.75)
        for negative in range(2):
            if item.negative_mask[row, negative]:
                loss = loss - torch.log(torch.sigmoid(score[0] - score[negative + 1]))
        for v in items[item.items[row, : 1 + int(item.negative_mask[row, 0])]]:
            reg = reg + v.square().sum()
        reg = reg + 2 * sum(x.square().sum() for x in [u, *p])
    assert set(found) == {"item", "reg"}
    assert torch.allclose(found["item"], loss, rtol=PARITY)
    assert torch.allclose(found["reg"], 0.3 * reg, rtol=PARITY)
    for one, other in zip(gradients, torch.autograd.grad(loss + 0.3 * reg, leaves), strict=True):
        assert torch.allclose(one, other, atol=PARITY * float(other.abs().max()))


def test_attribute_loss_and_gradients_are_those_of_the_formulas(data) -> None:
    model = spread(FM.build(data, None, FM.Config(dim=6)))
    batch = next(b for b in model.batches(EpochContext(1, 64, 0)) if isinstance(b, AttributeBatch))
    users, attributes = model.user_embedding.weight, model.attribute_embedding.weight
    found = model.loss(batch)
    (gradient,) = torch.autograd.grad(found["attribute"], [attributes])
    loss = torch.zeros(())
    for row, (said, rest, none) in enumerate(parts(batch)):
        assert len(rest) == len(none)
        a = users[batch.users[row]].detach() + sum(attributes[p] for p in said)
        yes, no = (sum((a @ attributes[q] for q in qs), torch.zeros(())) for qs in (rest, none))
        loss = loss - torch.log(torch.sigmoid(yes - no))
    (expected,) = torch.autograd.grad(loss, [attributes])
    assert set(found) == {"attribute"}
    assert torch.allclose(found["attribute"], loss, rtol=PARITY)
    assert torch.allclose(gradient, expected, atol=PARITY * float(expected.abs().max()))


def test_sparse_gradients_train_like_dense_ones(data, monkeypatch) -> None:
    found = []
    for sparse in (True, False):
        model = FM.build(data, None, FM.Config(dim=8))
        if not sparse:
            made = model.optimizer

            def dense(config, made=made, model=model):
                model.sparse = False
                return made(config.replace(clip_norm=1e9))

            monkeypatch.setattr(model, "optimizer", dense)
        Trainer(options()).fit(model)
        assert model.sparse == sparse
        found.append(model.state_dict())
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=PARITY * float(value.abs().max())), name


@pytest.mark.parametrize("changes", [{"weight_decay": 0.01}, {"clip_norm": 1.0}])
def test_options_that_need_dense_gradients_train(data, changes) -> None:
    run = Trainer(options(**changes)).fit(FM.build(data, None, FM.Config(dim=8)))
    assert all(math.isfinite(v) for h in run.history for v in h.values())


# -- two states for one table --------------------------------------------------------------------------------


def test_each_kind_of_step_moves_its_own_state_alone(data) -> None:
    model = FM.build(data, None, FM.Config(dim=8))
    optimizer = model.optimizer(options())
    item, attribute = (b for b, _ in zip(model.batches(EpochContext(1, 64, 0)), range(2), strict=False))
    names = {id(p): n for n, p in model.named_parameters()} | {id(model.alias): "alias"}

    def now():
        state = {names[id(p)]: s["sum"].clone() for p, s in optimizer.state.items()}
        return state | {f"weight of {n}": p.detach().clone() for n, p in model.named_parameters()}

    def moved(batch) -> set[str]:
        before = now()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {name for name, value in now().items() if not torch.equal(value, before[name])}

    tables = {f"{n}_embedding.weight" for n in ("user", "item", "attribute")}
    assert moved(item) == tables | {f"weight of {t}" for t in tables}
    assert moved(attribute) == {"alias", "weight of attribute_embedding.weight"}


def test_both_learning_rates_follow_the_schedule(data, monkeypatch) -> None:
    seen = []
    made = FM.optimizer
    monkeypatch.setattr(FM, "optimizer", lambda self, config: seen.append(made(self, config)) or seen[-1])
    config = FM.Config(dim=4, attribute_learning_rate=1e-3)
    Trainer(options(schedule="linear", learning_rate=0.05, epochs=4)).fit(FM.build(data, None, config))
    assert [g["lr"] for g in seen[0].param_groups] == pytest.approx([0.05 / 4, 1e-3 / 4])


def test_resuming_equals_a_straight_run(data, tmp_path) -> None:
    task = ScoringTask(data, candidates=20)
    for name, sittings in (("straight", (4,)), ("resumed", (2, 4))):
        for epochs in sittings:
            model = FM.build(data, None, FM.Config(dim=8))
            Trainer(options(epochs=epochs), tmp_path / name).fit(model, task, resume=True)
    states = [
        {p.name.split("-")[0]: load_file(p) for p in (tmp_path / name / "last").glob("*.safetensors")}
        for name in ("straight", "resumed")
    ]
    assert set(states[0]) == {"model", "optimizer"}
    assert {k for k in states[0]["optimizer"] if k.endswith(".sum")} == {f"{i}.sum" for i in range(4)}
    for part, tensors in states[0].items():
        for key, value in tensors.items():
            assert torch.equal(value, states[1][part][key]), f"{part} {key}"


# -- samples -------------------------------------------------------------------------------------------------


def test_every_sample_is_what_it_says(data, table) -> None:
    """Negatives are new to the user, the second has all that was said; nothing held out is a positive."""
    model = FM.build(data, None, FM.Config(dim=4))
    seen, missing = [], 0
    for epoch in range(1, 6):
        batches = list(model.batches(EpochContext(epoch, 64, 0)))
        assert len(batches) == 2 * (len(data.train) // 64)
        for item, attribute in zip(batches[::2], batches[1::2], strict=True):
            assert isinstance(item, ItemBatch)
            assert torch.equal(item.users, attribute.users)
            ends = [*item.prefix_offsets.tolist(), len(item.prefix_attributes)]
            users, (positives, first, second) = item.users.numpy(), item.items.numpy().T
            assert data.train.contains(users, positives).all()
            assert not (data.valid.contains(users, positives) | data.test.contains(users, positives)).any()
            assert item.negative_mask[:, 0].all()
            assert not data.train.contains(users, first).any()
            there = item.negative_mask[:, 1].numpy() > 0
            assert not data.train.contains(users[there], second[there]).any()
            missing += (~there).sum()
            for row, (said, rest, none) in enumerate(parts(attribute)):
                assert said == item.prefix_attributes[ends[row] : ends[row + 1]].tolist()
                own = set(np.flatnonzero(table[positives[row]]))
                assert set(said) | set(rest) == own
                assert len(said) + len(rest) == len(own)
                assert len(none) == len(rest)
                assert not set(none) & own
                if there[row]:
                    assert second[row] != positives[row]
                    assert table[second[row], said].all()
            seen.append((users * data.n_items + positives)[:, None])
    whole = len(data.train) // 64 * 64
    assert len(np.unique(np.concatenate(seen)[:whole])) == whole
    assert missing < 0.05 * 5 * whole


def test_epochs_differ_and_repeat_bit_for_bit(data) -> None:
    model = FM.build(data, None, FM.Config(dim=4))
    again, one, two = (
        [v for b in made.batches(EpochContext(epoch, 64, 0)) for v in b]
        for made, epoch in ((FM.build(data, None, FM.Config(dim=4)), 1), (model, 1), (model, 2))
    )
    assert all(torch.equal(a, b) for a, b in zip(again, one, strict=True))
    assert not torch.equal(one[5], two[5]), "what dropout leaves"
    # Every interaction of one user, or with one item, is as good as another: these do not differ by order.
    table = numpy_rng(0, "tests/alike").random((200, 5)) < 0.5
    for pairs, n_users, column in (([(0, i) for i in range(40)], 1, 1), ([(u, 3) for u in range(40)], 40, 2)):
        samples = Samples.from_dataset(
            with_attributes(testing.dataset(pairs, [], n_users, 200, "alike"), table), 0
        )
        first, second = (samples.draw(EpochContext(epoch, 64, 0)) for epoch in (1, 2))
        assert (first.items[:, column] != second.items[:, column]).mean() > 0.5
    assert len(first.prefix_attributes) != len(second.prefix_attributes), "prefixes of one item"


def test_what_no_negative_exists_for_is_left_out() -> None:
    """User 0 has all items but the last; item 0 has all attributes, item 1 none, item 2 one of its own."""
    pairs = [(0, i) for i in range(5)] + [(1, i) for i in range(6)]
    table = np.zeros((6, 4), dtype=bool)
    table[0], table[2, 3], table[3:, 1] = [True, True, True, False], True, True
    data = with_attributes(testing.dataset(pairs, [], 2, 6, "gaps"), table)
    drawn = Samples.from_dataset(data, 0).draw(EpochContext(1, 64, 0))
    assert (drawn.items[drawn.users == 1, 1:] == -1).all(), "user 1 has every item"
    assert (drawn.items[drawn.users == 0, 1] == 5).all()
    second = dict(zip(drawn.items[drawn.users == 0, 0], drawn.items[drawn.users == 0, 2], strict=True))
    assert second[1] == second[2] == -1
    assert second[3] == second[4] == 5
    length = np.diff(drawn.prefix_offsets)
    assert (length[np.isin(drawn.items[:, 0], [1, 2])] == 0).all(), "no prefix leaves another item"
    run = Trainer(options()).fit(FM.build(data, None, FM.Config(dim=4)))
    assert all(math.isfinite(v) for h in run.history for v in h.values())


def test_an_item_with_all_attributes_has_no_negative_ones() -> None:
    data = with_attributes(testing.dataset([(0, 0)], [], 1, 3, "all"), np.ones((3, 2), dtype=bool))
    drawn = Samples.from_dataset(data, 0).draw(EpochContext(1, 64, 0))
    assert sorted(set(drawn.signs.tolist())) in ([0, 1], [1])
    assert -1 not in drawn.signs


def test_without_attributes_it_is_matrix_factorization() -> None:
    data, _ = testing.communities(2, 20)
    model = FM.build(data, None, FM.Config(dim=4))
    assert {type(b) for b in model.batches(EpochContext(1, 64, 0))} == {ItemBatch}
    assert [n for n, _ in model.named_parameters()] == ["user_embedding.weight", "item_embedding.weight"]
    assert model.vectors().attributes.shape == (0, 4)


# -- validation ----------------------------------------------------------------------------------------------


def test_areas_are_those_of_all_comparisons(data, table) -> None:
    task = ScoringTask(data, candidates=25, seed=3)
    model = spread(FM.build(data, None, FM.Config(dim=3)))
    vectors = DialogueVectors(*(np.round(2 * v) for v in model.vectors()))  # exact, and some scores equal
    model.vectors = lambda: vectors
    items, attributes, equal = [], [], 0
    for row, (user, item) in enumerate(zip(data.valid.users, data.valid.items, strict=True)):
        said = task.prefix_attributes[task.prefix_offsets[row] : task.prefix_offsets[row + 1]]
        fit = set(np.flatnonzero(table[:, said].all(1))) - {item} if len(said) else set()
        others = [v for v in task.candidates[row] if v >= 0]
        assert len(others) == len(set(others)) == min(25, len(fit))
        assert set(others) <= fit
        a = vectors.users[user] + vectors.attributes[said].sum(0)
        own = set(np.flatnonzero(table[item]))
        for compared, mine, among, tab in (
            (items, [item], others, vectors.items),
            (attributes, own - set(said), set(range(24)) - own, vectors.attributes),
        ):
            scores = [(a @ tab[x], a @ tab[y]) for x in mine for y in among]
            equal += sum(x == y for x, y in scores)
            if scores:
                compared.append(np.mean([0.5 if x == y else x > y for x, y in scores]))
    found = task(model)
    assert equal > 0
    assert found["auc/items"] == pytest.approx(np.mean(items), abs=METRIC)
    assert found["auc/attributes"] == pytest.approx(np.mean(attributes), abs=METRIC)
    assert found["auc"] == pytest.approx((found["auc/items"] + found["auc/attributes"]) / 2)
    assert ScoringTask(data, candidates=25, seed=3)(model) == found


def test_it_learns_what_users_like_and_which_attributes_go_together(data) -> None:
    task = ScoringTask(data)
    model = FM.build(data, None, FM.Config(dim=16))
    before = task(model)
    assert all(abs(v - 0.5) < 0.1 for v in before.values())
    run = Trainer(options(epochs=30, learning_rate=0.05, validate_every=10)).fit(model, task)
    found = task(run.model)
    assert min(found.values()) > 0.8, found
    assert run.best_value == pytest.approx(found["auc"])


def test_validation_without_anything_to_compare_is_refused(data) -> None:
    bare, _ = testing.communities(2, 20)
    with pytest.raises(DataError, match="valid split is empty"):
        ScoringTask(with_attributes(bare, np.ones((40, 2))))
    with pytest.raises(DataError, match="no item has an attribute"):
        ScoringTask(replace(data, nodes={}, relations={}))
    with pytest.raises(DataError, match="nothing to compare"):
        ScoringTask(with_attributes(data, np.eye(data.n_items)[:, :1]))


# -- options and vectors -------------------------------------------------------------------------------------


def test_training_options_are_its_own_unless_they_are_set() -> None:
    config = runs.configure("fm")[2]
    assert (config.learning_rate, config.batch_size) == (0.02, 64)
    config = runs.configure("fm", None, {"learning_rate": 0.1, "seed": 5})[2]
    assert (config.learning_rate, config.batch_size, config.seed) == (0.1, 64, 5)
    assert runs.configure("mf")[2] == TrainConfig()
    with pytest.raises(ConfigError, match="learning_rat "):
        runs.configure("fm", None, {"learning_rat": 0.1})

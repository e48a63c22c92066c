"""CODER: attention and tree by hand, the two propagations against dense matrices, switches, co-change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tolerances import PARITY, SCORE
from torch.nn.functional import elu, leaky_relu, normalize

from graphrec import testing
from graphrec.code.models.cochange import CoChange
from graphrec.code.models.coder import CODER, CoAttention, TreeLayer, contrast
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng, torch_rng
from graphrec.data.repositories import Repositories, tree_of
from graphrec.features import FeatureTable
from graphrec.models.batches import EpochContext
from graphrec.models.lightgcn import LightGCN


@pytest.fixture(scope="module")
def fixtures():
    """Communities whose files have four segments of five values; some lack the last ones, item 3 all."""
    data, _ = testing.communities(2, 15)
    values = numpy_rng(0, "tests/code").normal(size=(data.n_items, 4, 5)).astype(np.float32)
    values[1, 2:] = values[2, 1:] = values[3] = 0
    present = np.arange(data.n_items) != 3
    table = FeatureTable.from_array(values.reshape(data.n_items, -1), data, "code", present=present)
    return data, {"code": table}


def built(fixtures, **options) -> CODER:
    data, tables = fixtures
    model = CODER.build(data, tables, CODER.Config(segments=4, dim=8, heads=2, **options))
    model.start_epoch(numpy_rng(0, "tests/start"))
    return model


# -- files ---------------------------------------------------------------------------------------------------


def test_attention_is_that_of_the_equations() -> None:
    rng = torch_rng(0, "tests/attention")
    layer = CoAttention(6, 5, rng)
    code, people = torch.randn(7, 4, 6, generator=rng), torch.randn(7, 3, 6, generator=rng)
    segment_mask = torch.ones(7, 4, dtype=torch.bool)
    segment_mask[1, 2:] = segment_mask[2] = False
    weights = layer.weights(code, people, segment_mask)
    for v in range(7):
        c, q = code[v], people[v]
        affinity = torch.tanh(c @ layer.between.weight.T @ q.T)
        hidden = torch.tanh(c @ layer.of_code.weight.T + (affinity @ q) @ layer.of_people.weight.T)
        worth = (hidden @ layer.worth.weight.T)[:, 0]
        n = int(segment_mask[v].sum())
        expected = torch.cat([worth[:n].softmax(0), torch.zeros(4 - n)])
        assert torch.allclose(weights[v], expected, atol=PARITY)
        assert torch.allclose(layer(code, people, segment_mask)[v], expected @ c, atol=PARITY)
    assert torch.allclose(weights.sum(1), segment_mask.any(1).float(), atol=PARITY)


def test_attention_ignores_padding_and_nobody_changes_nothing() -> None:
    rng = torch_rng(1, "tests/attention")
    layer = CoAttention(6, 5, rng)
    code, segment_mask = torch.randn(2, 4, 6, generator=rng), torch.tensor([[True, True, False, False]] * 2)
    other = code.clone()
    other[:, 2:] = 1e3
    nobody = torch.zeros(2, 3, 6)
    assert torch.equal(layer.weights(code, nobody, segment_mask), layer.weights(other, nobody, segment_mask))
    alone = torch.tanh(layer.of_code(code))
    expected = layer.worth(alone)[:, :2, 0].softmax(1)
    assert torch.allclose(layer.weights(code, nobody, segment_mask)[:, :2], expected, atol=PARITY)
    somebody = torch.randn(2, 3, 6, generator=rng)
    assert not torch.allclose(
        layer.weights(code, somebody, segment_mask), layer.weights(code, nobody, segment_mask)
    )


def test_a_tree_of_one_file_is_attended_to_by_hand() -> None:
    """A file, its repository and PyG's loops: two nodes that see each other and themselves."""
    rng = torch_rng(0, "tests/tree")
    layer = TreeLayer(4, 2, rng)
    x, edges = torch.randn(2, 4, generator=rng), torch.tensor([[0, 1], [1, 0]])
    gat = layer.attention
    h = (x @ gat.lin.weight.T).view(2, 2, 2)  # node, head, value
    to = (h * gat.att_dst).sum(-1)
    come = (h * gat.att_src).sum(-1)
    expected = []
    for node in range(2):
        share = leaky_relu(come + to[node], 0.2).softmax(0)  # over both nodes, a column a head
        expected.append((share[:, :, None] * h).sum(0).reshape(-1))
    found = layer(x, edges)
    assert torch.allclose(found, x + elu(torch.stack(expected)), atol=PARITY)


def test_a_repository_of_one_file_trains_and_scores() -> None:
    data = testing.dataset([(0, 0), (1, 0)], [], 2, 2, "two")
    nodes, relations = tree_of([(0, ["only.py"]), (1, ["a", "b.py"])], ["x", "y"])
    data = replace(data, nodes=nodes, relations=relations)
    model = CODER.build(data, None, CODER.Config(semantics=False))
    assert torch.isfinite(model.score([0, 1])).all()


def test_people_are_drawn_from_those_who_worked_on_the_file(fixtures) -> None:
    data, _ = fixtures
    model = built(fixtures)
    first = model.queries.clone()
    for item in range(data.n_items):
        who = set(data.train.users[data.train.items == item].tolist())
        drawn = set(first[item].tolist())
        assert drawn <= who if who else not model.has_users[item]
    model.start_epoch(numpy_rng(0, "tests/again"))
    assert not torch.equal(first, model.queries), "drawn anew every epoch"


def test_of_a_file_that_nobody_worked_on_nobody_is_asked(fixtures) -> None:
    data, tables = fixtures
    rest = data.train.where(data.train.items != 5)
    model = built((data.with_splits(rest, data.valid, data.test), tables), tree=False)
    before, _ = model.files()
    with torch.no_grad():
        model.user_embedding.weight.mul_(-3)
    after, _ = model.files()
    assert torch.equal(before[5], after[5])
    assert not torch.allclose(before[6], after[6], atol=1e-4)


def test_what_stands_in_a_row_without_contents_is_not_read(fixtures) -> None:
    data, tables = fixtures
    table = tables["code"]
    values = table.numpy().copy()
    values[3] = 7
    other = FeatureTable(values, table.present, table.meta)
    for a, b in zip(built(fixtures).files(), built((data, {"code": other})).files(), strict=True):
        assert torch.equal(a, b)


def test_a_file_without_contents_is_nowhere_before_the_tree(fixtures) -> None:
    files, _ = built(fixtures, tree=False).files()
    assert not files[3].any()
    assert files[[0, 1, 2]].any(1).all()


# -- people and projects -------------------------------------------------------------------------------------


def dense(graph) -> torch.Tensor:
    return graph.dense().double()


def test_propagation_is_that_of_the_equations(fixtures) -> None:
    data, _ = fixtures
    model = built(fixtures, n_layers=3).double()
    files, repositories = model.files()
    found = model.propagate()
    place = Repositories.from_dataset(data)
    n = data.n_users

    def walk(pairs, n_right, right):
        a = torch.zeros(n + n_right, n + n_right, dtype=torch.float64)
        a[pairs.users.astype(np.int64), n + pairs.items.astype(np.int64)] = 1
        a += a.T.clone()
        scale = torch.where(a.sum(1) > 0, a.sum(1), 1.0) ** -0.5
        a = scale[:, None] * a * scale
        x = torch.cat([model.user_embedding.weight, right])
        layers = [x]
        for _ in range(3):
            layers.append(a @ layers[-1])
        return layers

    micro = walk(data.train, data.n_items, files)
    macro = walk(place.behaviors["authored"], 2, repositories)
    both, done = torch.stack(micro).mean(0), torch.stack(macro).mean(0)
    users = model.fuse_users(torch.cat([both[:n], done[:n]], 1))
    items = model.fuse_items(torch.cat([both[n:], done[n:][place.repository]], 1))
    assert torch.allclose(found.users, users, atol=PARITY)
    assert torch.allclose(found.items, items, atol=PARITY)
    assert torch.allclose(found.by_behavior[0][0], done[:n], atol=PARITY)
    assert torch.allclose(found.contrast_layer, micro[2], atol=PARITY)
    summed = built(fixtures, n_layers=3, fusion="sum").double().propagate()
    assert torch.allclose(summed.users, both[:n] + done[:n], atol=PARITY)
    assert torch.allclose(summed.items, both[n:] + done[n:][place.repository], atol=PARITY)


def test_with_everything_switched_off_it_is_lightgcn(fixtures) -> None:
    data, _ = fixtures
    config = CODER.Config(dim=8, heads=2, semantics=False, tree=False, projects=False, fusion="sum",
                          n_layers=2, contrast_weight=0)  # fmt: skip
    model = CODER.build(data, None, config)
    other = LightGCN.build(data, None, LightGCN.Config(dim=8, n_layers=2))
    with torch.no_grad():
        other.user_embedding.weight.copy_(model.user_embedding.weight)
        other.item_embedding.weight.copy_(model.item_embedding.weight)
    assert torch.allclose(model.score(range(data.n_users)), other.score(range(data.n_users)), atol=SCORE)
    assert set(model.state_dict()) == {"user_embedding.weight", "item_embedding.weight"}


def test_losses_are_those_of_the_equations(fixtures) -> None:
    data, _ = fixtures
    model = built(fixtures, project_weight=0.5, contrast_weight=0.1, reg_weight=0.01, temperature=0.2)
    batch = next(iter(model.batches(EpochContext(1, 10_000, 0))))
    found, losses = model.propagate(), model.loss(batch)
    u, v = found.users, found.items
    difference = (u[batch.users] * (v[batch.positives] - v[batch.negatives])).sum(1)
    assert torch.allclose(losses["bpr"], torch.log1p(torch.exp(-difference)).mean(), atol=PARITY)
    z, r = found.by_behavior[0]
    difference = (z[batch.behavior_users] * (r[batch.positive_repos] - r[batch.negative_repos])).sum(1)
    assert torch.allclose(losses["projects"], 0.5 * torch.log1p(torch.exp(-difference)).mean(), atol=PARITY)
    n = data.n_users
    total = 0.0
    for part, index in ((slice(0, n), batch.users), (slice(n, None), batch.positives)):
        cosine = normalize(found.contrast_layer[part]) @ normalize(found.first_layer[part]).T / 0.2
        total += sum(float(-cosine[i].detach().log_softmax(0)[i]) for i in index.unique())
    assert losses["contrast"].item() == pytest.approx(0.1 * total, rel=1e-4)
    squares = sum(p.detach().double().square().sum().item() for p in model.parameters())
    assert losses["reg"].item() == pytest.approx(0.01 * squares, rel=1e-5)


def test_a_contrast_among_the_batch_is_that_among_all_where_the_batch_is_all() -> None:
    rng = torch_rng(0, "tests/contrast")
    later, first = torch.randn(6, 3, generator=rng), torch.randn(6, 3, generator=rng)
    index = torch.tensor([5, 0, 1, 2, 3, 4, 4])
    assert torch.allclose(contrast(later, first, index, 0.5, False), contrast(later, first, index, 0.5, True))
    few = torch.tensor([4, 1])
    alone = contrast(later[few.sort()[0]], first[few.sort()[0]], torch.arange(2), 0.5, True)
    assert torch.allclose(contrast(later, first, few, 0.5, False), alone)


@pytest.mark.parametrize("among_all", [True, False])
def test_a_contrast_and_its_gradient_are_those_of_the_whole_matrix(monkeypatch, among_all) -> None:
    monkeypatch.setattr("graphrec.code.models.coder.BLOCK_SIZE", 100)  # several parts of rows
    rng = torch_rng(0, "tests/contrast")
    later, first = (torch.randn(50, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    index = torch.arange(40).flip(0)
    tables = [(a.clone().requires_grad_(), b.clone().requires_grad_()) for a, b in ((later, first),) * 2]
    found = contrast(*tables[0], index, 0.1, among_all)
    cosine = normalize(tables[1][0])[:40] @ normalize(tables[1][1])[: 50 if among_all else 40].T / 0.1
    expected = -cosine.log_softmax(1).diagonal().sum()
    assert torch.allclose(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    for a, b in zip(*tables, strict=True):
        assert torch.allclose(a.grad, b.grad)


def test_each_behavior_has_its_own_loss(fixtures) -> None:
    data, tables = fixtures
    tested = np.array([[0, 1, 2], [0, 0, 1]], dtype=np.int32)
    data = replace(data, relations={**data.relations, ("user", "tested", "repository"): tested})
    model = built((data, tables), project_weight=1.0)
    assert model.behaviors == ["authored", "tested"]
    batch = next(iter(model.batches(EpochContext(1, 10_000, 0))))
    found, total = model.propagate(), 0.0
    for t, (z, r) in enumerate(found.by_behavior):
        mine = batch.behavior == t
        doers, done, others = (
            part[mine] for part in (batch.behavior_users, batch.positive_repos, batch.negative_repos)
        )
        difference = (z[doers] * (r[done] - r[others])).sum(1)
        total += torch.log1p(torch.exp(-difference)).mean()
    assert sorted(batch.behavior_users[batch.behavior == 1].tolist()) == [0, 1, 2]
    assert torch.allclose(model.loss(batch)["projects"], total, atol=PARITY)


def test_negatives_of_projects_are_where_it_was_not_done(fixtures) -> None:
    data, _ = fixtures
    model = built(fixtures)
    done = Repositories.from_dataset(data).behaviors["authored"]
    batches = list(model.batches(EpochContext(1, 64, 0)))
    doers, others = (
        torch.cat([getattr(b, name) for b in batches]).numpy()
        for name in ("behavior_users", "negative_repos")
    )
    assert len(batches) > 1
    assert not done.contains(doers, others).any()
    some = np.isin(done.users, np.flatnonzero(done.user_degree < 2))  # the others have worked everywhere
    assert sorted(doers.tolist()) == sorted(done.users[some].tolist()), "all that was done, once"
    again = [b.behavior_users for b in model.batches(EpochContext(2, 64, 0))]
    assert sorted(torch.cat(again).tolist()) == sorted(doers.tolist())
    assert torch.cat(again).tolist() != doers.tolist(), "in another order every epoch"
    assert all(len(b.users) <= 64 for b in batches)


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ({"semantics": False}, "project."), ({"tree": False}, "layers."), ({"projects": False}, "graph_"),
        ({"fusion": "sum"}, "fuse_"), ({"semantics": False}, "attention."),
    ],
)  # fmt: skip
def test_each_part_can_be_switched_off(fixtures, off, gone) -> None:
    model = built(fixtures, **off)
    assert not any(name.startswith(gone) for name in {**dict(model.named_parameters()), **vars(model)})
    losses = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
    assert ("projects" in losses) == off.get("projects", True)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_shuffled_tree_changes_files_and_a_renumbered_one_does_not(fixtures) -> None:
    """Files are told apart by where they stand: with another place another vector."""
    data, _ = fixtures
    model = built(fixtures)
    before, _ = model.files()
    order = torch.from_numpy(numpy_rng(0, "tests/tree").permutation(data.n_items))
    edges = model.tree_edges.clone()
    files = edges < data.n_items
    edges[files] = order[edges[files]]
    shuffled = built(fixtures)
    shuffled.tree_edges = edges
    assert not torch.allclose(shuffled.files()[0], before, atol=1e-3)
    again = built(fixtures)
    again.tree_edges = model.tree_edges[:, torch.randperm(model.tree_edges.shape[1])]
    assert torch.allclose(again.files()[0], before, atol=1e-5)


def test_shuffled_trees_hurt() -> None:
    """Who works where the directories say, with no file that two people share: only the tree can tell.

    One dataset decides nothing, since ranks of 60 people differ by more than the effect between processors;
    the mean of four does.
    """
    n = 120
    place = np.arange(n) % 6  # six directories of twenty files
    ndcg: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(4):
        rng = numpy_rng(seed, "tests/places")
        pairs = [
            (u, i) for u in range(60) for i in rng.choice(np.flatnonzero(place == u % 6), 5, replace=False)
        ]
        train = [p for k, p in enumerate(pairs) if k % 5]
        data = testing.dataset(train, [p for k, p in enumerate(pairs) if not k % 5], 60, n, "places")
        for shuffled in (False, True):
            at = rng.permutation(place) if shuffled else place
            nodes, relations = tree_of([(0, [f"d{at[i]}", f"f{i}.py"]) for i in range(n)], ["only"])
            placed = replace(data, nodes=nodes, relations=relations)
            config = CODER.Config(semantics=False, contrast_weight=0, reg_weight=0)
            model = testing.train(CODER, config, placed, {}, 25)
            ranks = testing.contract._unseen_ranks(model, placed)
            ndcg[shuffled].append(float((1 / np.log2(1 + ranks) * (ranks <= 10)).mean()))
    assert np.mean(ndcg[False]) > 1.1 * np.mean(ndcg[True]), ndcg


def test_between_refreshes_files_are_as_they_were(fixtures) -> None:
    model = built(fixtures, refresh_every=3)
    batch = next(iter(model.batches(EpochContext(1, 64, 0))))
    learned = []
    for _ in range(4):
        model.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        gradient = model.names.weight.grad
        learned.append(
            gradient is not None and bool((gradient - 2e-4 * model.names.weight).abs().sum() > 1e-3)
        )
    assert learned == [True, False, False, True]
    model.start_epoch(numpy_rng(0, "tests/next"))
    model.zero_grad()
    model.loss(batch)["bpr"].backward()
    assert model.names.weight.grad.abs().sum() > 0, "every epoch begins with a look at the files"
    users = np.arange(5)
    with torch.no_grad():
        scores = model.score(users)
        model.names.weight.mul_(-1)
    assert not torch.allclose(model.score(users), scores, atol=1e-6), "scores are of what files are now"


# -- co-change, and what is wrong ----------------------------------------------------------------------------


def test_with_cochange_scores_are_the_sum_of_both(fixtures) -> None:
    data, _ = fixtures
    plain, beside = built(fixtures), built(fixtures, cochange=7.0)
    users = np.arange(data.n_users)
    other = CoChange.build(data, None, CoChange.Config())
    expected = plain.score(users) + 7.0 * other.score(users)
    assert torch.allclose(beside.score(users), expected, atol=10 * SCORE)


def test_the_weight_of_cochange_is_learned_and_not_pulled_to_one(fixtures) -> None:
    model = built(fixtures, cochange=7.0)
    losses = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
    (gradient,) = torch.autograd.grad(losses["bpr"], model.log_weight, retain_graph=True)
    assert gradient.abs() > 0
    assert torch.autograd.grad(losses["reg"], model.log_weight, allow_unused=True)[0] is None


def test_what_does_not_fit_is_said(fixtures) -> None:
    data, tables = fixtures
    with pytest.raises(ConfigError, match="--text code-segments"):
        CODER.build(data, {}, CODER.Config())
    with pytest.raises(ConfigError, match=r"20 values.*segments=3"):
        CODER.build(data, tables, CODER.Config(segments=3))
    with pytest.raises(DataError, match="graphrec data git"):
        CODER.build(replace(data, relations={}), tables, CODER.Config(segments=4))
    with pytest.raises(ConfigError, match="heads"):
        CODER.Config(dim=30, heads=4)
    with pytest.raises(ConfigError, match="contrast_layer"):
        CODER.Config(n_layers=1)

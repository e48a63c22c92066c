"""LGMRec against the reference implementation, and what it does beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from content_reference import ContentReference
from gaps import users_and_items_with_gaps
from reference import MODALITIES, assert_close
from torch import Tensor
from torch.nn.functional import normalize

from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.models.batches import EpochContext
from graphrec.models.lgmrec import Draws, LGMRec
from graphrec.models.losses import InfoNCE


@pytest.fixture(scope="module")
def reference() -> ContentReference:
    return ContentReference("lgmrec")


def parameters(model: LGMRec, gradients: bool = False) -> dict[str, Tensor]:
    """Ours, or their gradients, by the reference's names; its maps are the transposes of ours."""
    layers = {"user_embedding": model.user_embedding, "item_embedding": model.item_embedding}
    for m in MODALITIES:
        layers |= {f"project.{m}": model.projections[m], f"hyperedge.{m}": model.hyperedges[m]}
    found = {name: x.weight.grad if gradients else x.weight.data for name, x in layers.items()}
    return {name: x if "embedding" in name else x.T for name, x in found.items()}


def reference_model(reference: ContentReference, **options: Any) -> LGMRec:
    """The model with the reference's parameters. The reference sums its contrast over the batch."""
    c = reference.config
    same = ("dim", "n_ui_layers", "n_mm_layers", "n_hyper_layers", "n_hyperedges", "alpha", "reg_weight")
    config = LGMRec.Config(
        **{name: c[name] for name in (*same, "temperature")},
        keep=c["keep_rate"],
        cl_weight=c["cl_weight"] * len(reference.batch.users),
        cold_items="as_trained",
        **options,
    )
    model = LGMRec.build(reference.data, reference.tables, config)
    reference.load(parameters(model))
    return model


def drawn(reference: ContentReference, name: str) -> list[Tensor]:
    """Of each modality, users before items: the reference draws items first."""
    tables = [torch.from_numpy(reference[f"{name}.{number}"]) for number in range(4)]
    return [torch.cat([tables[1], tables[0]]), torch.cat([tables[3], tables[2]])]


def training_draws(reference: ContentReference) -> Draws:
    keep = reference.config["keep_rate"]
    return Draws(drawn(reference, "noise.gumbel"), [x / keep for x in drawn(reference, "noise.dropout_keep")])


def test_graphs_and_parts(reference) -> None:
    model = reference_model(reference)
    assert_close(model.graph.dense(), reference["graph.user_item"], "user-item graph")
    assert_close(model.sums.dense(), reference["graph.interactions"], "interactions")
    step = model.propagate(training_draws(reference))
    assert_close(step.behavior, reference["mid.cge"], "by behavior")
    for m, content, hyper in zip(MODALITIES, step.content, step.hyper, strict=True):
        assert_close(content, reference[f"mid.mge_{m}"], f"by content of {m}")
        users, items = hyper.split([model.n_users, model.n_items])
        assert_close(users, reference[f"mid.hyper_user_{m}"], f"users by hyperedges of {m}")
        assert_close(items, reference[f"mid.hyper_item_{m}"], f"items by hyperedges of {m}")
    for side, found in zip(("user", "item"), model.final(step), strict=True):
        assert_close(found, reference[f"{side}_out_train"], f"{side}s while training")


def test_losses_and_gradients(reference, monkeypatch) -> None:
    model = reference_model(reference)
    monkeypatch.setattr(model, "draw", lambda key: training_draws(reference))
    losses = model.loss(reference.batch)
    assert set(losses) == {"bpr", "reg", "contrast_users", "contrast_items"}
    for name, value in losses.items():
        assert_close(value, reference[f"loss.{name}"], name)
    total = torch.stack(list(losses.values())).sum()
    assert_close(total, reference["loss"], "total")
    total.backward()
    found = parameters(model, gradients=True)
    assert len(found) == len(list(model.parameters()))
    reference.check_gradients(found)


def test_noisy_scores(reference, monkeypatch) -> None:
    model = reference_model(reference, noisy_scores=True)
    draws = Draws(drawn(reference, "noise_eval.gumbel"))
    monkeypatch.setattr(model, "draw", lambda key, dropout: draws)
    assert_close(model.score(reference["score_users"]), reference["scores"], "scores")


def test_scores_are_without_noise_unless_it_is_asked_for(reference) -> None:
    model, noisy = (reference_model(reference, noisy_scores=noise) for noise in (False, True))
    users = reference["score_users"]
    silent = model.score(users)
    step = model.propagate(Draws([torch.zeros(90, 4)] * 2))
    users_out, items_out = model.final(step)
    assert torch.equal(silent, users_out[torch.from_numpy(users)] @ items_out.T)
    assert not torch.allclose(silent, noisy.score(users), atol=1e-3)
    assert torch.equal(noisy.score(users), noisy.score(users))
    other = reference_model(reference, noisy_scores=True, seed=1)
    assert not torch.equal(noisy.score(users), other.score(users))


def test_draws_follow_from_the_seed(reference) -> None:
    model = reference_model(reference)
    draws = model.draw(torch.tensor(5))
    again, other = model.draw(torch.tensor(5)), model.draw(torch.tensor(6))
    tables = [*draws.noise, *draws.factors]
    assert len(tables) == 4
    assert all(map(torch.equal, tables, [*again.noise, *again.factors]))
    assert not any(map(torch.equal, tables, [*other.noise, *other.factors]))
    assert torch.stack(draws.noise).mean().item() == pytest.approx(0.577, abs=0.15)  # Euler's constant
    assert torch.stack(draws.factors).unique().tolist() == [0.0, 2.0]
    assert torch.stack(draws.factors).mean().item() == pytest.approx(1, abs=0.15)
    assert model.draw(torch.tensor(5), dropout=False).factors is None
    assert torch.equal(model.draw(torch.tensor(5), dropout=False).noise[0], draws.noise[0])
    losses = [model.loss(reference.batch._replace(key=torch.tensor(key)))["bpr"].item() for key in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.fixture(scope="module")
def catalog():
    return users_and_items_with_gaps()


def test_a_modality_that_is_missing_adds_nothing(catalog) -> None:
    data, tables = catalog
    model = LGMRec.build(data, tables, LGMRec.Config(dim=8, n_mm_layers=0, n_hyper_layers=2))
    step = model.propagate(None)
    image, text = 0, 1
    items = data.n_users + np.array([0, 1, 2, 3])
    assert step.hyper[image][items].any(1).tolist() == [True, False, False, False]
    assert step.hyper[text][items].any(1).tolist() == [True, True, False, False]
    assert step.content[image][items].any(1).tolist() == [True, False, False, False]
    for rows, expected in ((step.hyper, [False, True]), (step.content, [False, True])):
        assert [bool(x[0].any()) for x in rows] == expected  # user 0 has taken item 1
        assert not any(x[1].any() or x[2].any() for x in rows)
    # A user's content is the mean over the items that have some.
    user = int(np.flatnonzero(data.train.user_degree > 2)[0])
    taken = [i for i in data.train.items_of(user) if i not in (1, 2, 3)]
    values = torch.from_numpy(tables["image"].numpy(np.float32))[taken]
    assert torch.allclose(step.content[image][user], (values @ model.projections["image"].weight.T).mean(0))
    assert LGMRec.build(data, tables, LGMRec.Config(dim=8, fill="mean")).known[data.n_users :].all()


def test_nothing_is_asked_of_nodes_that_lack_a_modality(catalog) -> None:
    data, tables = catalog
    model = LGMRec.build(data, tables, LGMRec.Config(dim=8))
    rng = torch.Generator().manual_seed(0)
    hyper = [torch.randn(data.n_users + data.n_items, 8, generator=rng) for _ in range(2)]
    ids = torch.tensor([0, 1, 2, 5, 5, 7])  # items; 1 and 2 lack one modality or both
    found = model.agreement(hyper, "items", ids)
    one, other = (normalize(x[data.n_users :], dim=1) for x in hyper)
    whole = [i for i in range(data.n_items) if i not in (1, 2, 3)]
    logits = one[[0, 5, 5, 7]] @ other[whole].T / 0.2
    own = [whole.index(i) for i in (0, 5, 5, 7)]
    expected = (logits.logsumexp(1) - logits[range(4), own]).mean()
    assert torch.allclose(found, expected, atol=1e-6)
    assert model.agreement(hyper, "items", torch.tensor([1, 2])) == 0


def test_three_modalities_agree_in_pairs(catalog) -> None:
    data, _ = catalog
    complete = testing.features_of(data, numpy_rng(0, "tests/complete").normal(size=(data.n_items, 6)))
    values = complete["image"]
    model = LGMRec.build(data, dict.fromkeys(("a", "b", "sound"), values), LGMRec.Config(dim=8))
    rng = torch.Generator().manual_seed(0)
    hyper = [torch.randn(data.n_users + data.n_items, 8, generator=rng) for _ in range(3)]
    ids = torch.tensor([4, 9])
    a, b, c = (x[data.n_users :] for x in hyper)
    pairs = [InfoNCE(0.2)(x[ids], y, ids) for x, y in ((a, b), (a, c), (b, c))]
    assert torch.allclose(model.agreement(hyper, "items", ids), torch.stack(pairs).mean(), atol=1e-6)


@pytest.mark.parametrize("names", [["sound"], ["a", "b", "sound"]])
def test_any_modalities_will_do(catalog, names: list[str]) -> None:
    data, tables = catalog
    model = LGMRec.build(data, dict.fromkeys(names, tables["text"]), LGMRec.Config(dim=8))
    losses = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
    assert ("contrast_users" in losses) == (len(names) > 1)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert torch.isfinite(model.embed()[1]).all()


def test_cold_items_are_placed_by_their_neighbors(catalog) -> None:
    data, tables = catalog
    model, as_trained = (
        LGMRec.build(data, tables, LGMRec.Config(dim=8, cold_items=how))
        for how in ("neighbors", "as_trained")
    )
    cold = data.train.item_degree == 0
    items, trained = model.embed()[1], as_trained.embed()[1]
    assert torch.equal(items[~cold], trained[~cold])
    assert {3, 8, 9} <= set(np.flatnonzero(cold))
    assert not (items[cold] == trained[cold]).all(1).any()
    assert not items[3].any()  # it has no content
    assert items[[8, 9]].any(1).all()

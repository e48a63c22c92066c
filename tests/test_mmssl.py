"""MMSSL against the reference implementation, and what it does beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from content_reference import ContentReference
from gaps import items_with_gaps, users_and_items_with_gaps
from reference import MODALITIES, assert_close
from torch import Tensor
from torch.nn.functional import normalize

from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.models.batches import EpochContext, SeededTriplets
from graphrec.models.discriminator import BatchNorm, Discriminator
from graphrec.models.mmssl import MMSSL, Judged, Step
from graphrec.models.train_config import TrainConfig


@pytest.fixture(scope="module")
def reference() -> ContentReference:
    return ContentReference("mmssl")


def reference_model(reference: ContentReference, **options: Any) -> MMSSL:
    """The model with the reference's parameters and graphs, in the form of its code.

    Its attention is the sum of the heads' blocks of one of its matrices; the others change nothing.
    """
    c = reference.config
    scale = len(reference.batch.users) / c["batch_size"]  # it divides by the configured size
    given = {
        "dim": c["dim"], "n_ui_layers": c["n_ui_layers"], "feature_dropout": c["feature_dropout"],
        "graph_k": 2, "view_weight": c["id_rate"], "feature_weight": c["feature_rate"],
        "cl_weight": c["cl_weight"], "temperature": c["temperature"], "contrast_repeats": True,
        "reg_weight": c["reg_weight"] * scale, "feature_reg_weight": c["feature_reg_weight"],
        "adversarial_weight": c["adversarial_weight"], "penalty_weight": c["penalty"],
        "discriminator_slope": 1, "cold_items": "as_trained",
    }  # fmt: skip
    model = MMSSL.build(reference.data, reference.tables, MMSSL.Config(**given | options))
    with torch.no_grad():
        for name, p in parameters(model).items():
            p.copy_(torch.from_numpy(reference[f"param.{name}"]))
        model.view_map.weight.copy_(blocks(reference, "param").sum(0).T)
        for name, p in judges(model).items():
            p.copy_(torch.from_numpy(reference[f"discriminator.param.{name}"]))
        for number, m in enumerate(MODALITIES):
            users, items = reference[f"graph.{m}_edges"]
            assert np.array_equal(np.unique(users), np.arange(model.n_users))
            lists = items[np.argsort(users, kind="stable")].reshape(-1, 2)
            model.neighbors[number] = torch.from_numpy(lists)
    return model


def parameters(model: MMSSL) -> dict[str, Tensor]:
    """Ours by the reference's names, but for the map of views."""
    found = {"user_embedding": model.user_embedding.weight, "item_embedding": model.item_embedding.weight}
    for m in MODALITIES:
        layer = model.content[m].projection
        found |= {f"project.{m}.weight": layer.weight, f"project.{m}.bias": layer.bias}
    return found


def judges(model: MMSSL) -> dict[str, Tensor]:
    """The discriminator's, by the reference's names."""
    layers = {str(n): layer for n, layer in enumerate(model.discriminator.layers, 1)}
    layers |= {f"norm{n}": norm for n, norm in enumerate(model.discriminator.norms, 1)}
    return {f"{name}.{part}": p for name, layer in layers.items() for part, p in layer.named_parameters()}


def blocks(reference: ContentReference, of: str) -> Tensor:
    """The parts of the reference's matrix that belong to its heads ``(n_heads, d, d)``."""
    dim = reference.config["dim"]
    return torch.from_numpy(reference[f"{of}.attention.out"]).view(-1, dim, dim)


def factors(reference: ContentReference, which: str) -> list[Tensor]:
    """What dropout of the discriminator leaves out, or scales by."""
    shares = reference.config["discriminator_dropout"]
    name = f"noise.discriminator_{which}.dropout_keep"
    return [torch.from_numpy(reference[f"{name}.{n}"]) / (1 - p) for n, p in enumerate(shares)]


def training_step(reference: ContentReference, model: MMSSL) -> Step:
    keep = 1 - reference.config["feature_dropout"]
    kept = [torch.from_numpy(reference[f"noise.dropout_keep.{n}"]) / keep for n in range(2)]
    return model.propagate(model.modality_graphs(), kept)


def test_graphs(reference) -> None:
    model = reference_model(reference)
    for graph, name in zip(model.graph, ("user_from_item", "item_from_user"), strict=True):
        assert_close(graph.dense(), reference[f"graph.{name}"], name)
    for m, graphs in zip(MODALITIES, model.modality_graphs(), strict=True):
        for graph, name in zip(graphs, ("user_from_item", "item_from_user"), strict=True):
            assert_close(graph.dense(), reference[f"graph.{name}_{m}"], f"{name} of {m}")


def test_parts_embeddings_and_scores(reference) -> None:
    model = reference_model(reference)
    step = training_step(reference, model)
    for number, side in enumerate(("user", "item")):
        assert_close(step.final[number], reference[f"{side}_out_train"], f"{side}s while training")
        for m, features, views in zip(MODALITIES, step.features, step.views, strict=True):
            assert_close(features[number], reference[f"mid.{side}_feature_{m}"], f"{m} of {side}s")
            assert_close(views[number], reference[f"mid.{side}_id_{m}"], f"view by {m} of {side}s")
    reference.check_embeddings(model)


def test_losses_and_gradients(reference, monkeypatch) -> None:
    model = reference_model(reference)
    monkeypatch.setattr(model, "training_step", lambda rng: training_step(reference, model))
    monkeypatch.setattr(model.discriminator, "draw", lambda n, rng: factors(reference, "generator"))
    losses = model.loss(reference.batch)
    contrasts = {f"contrast_{m}" for m in MODALITIES}
    assert set(losses) == {"bpr", "reg", "feature_reg", "adversarial"} | contrasts
    for name, value in losses.items():
        assert_close(value, reference[f"loss.{name}"], name)
    total = torch.stack(list(losses.values())).sum()
    assert_close(total, reference["loss"], "total")
    total.backward()
    for name, p in parameters(model).items():
        assert_close(p.grad, reference[f"grad.{name}"], f"gradient of {name}")
    for block in blocks(reference, "grad"):
        assert_close(model.view_map.weight.grad.T, block.numpy(), "gradient of the map")
    assert all(p.grad is None for p in model.discriminator.parameters())


def test_the_discriminators_losses_and_gradients(reference, monkeypatch) -> None:
    model = reference_model(reference)
    step = training_step(reference, model)
    users = reference.batch.users
    uniforms = iter([reference["noise.real_uniform"], reference["noise.interpolation"]])
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.from_numpy(next(uniforms)))
    order = iter(("interpolated", "fake", "real"))
    monkeypatch.setattr(model.discriminator, "draw", lambda n, rng: factors(reference, next(order)))
    rng = torch.Generator()
    with torch.no_grad():
        suggested, real = model.suggestions(step, users), model.real_rows(step, users, rng)
    for m, rows in zip(MODALITIES, suggested.split(len(users)), strict=True):
        assert_close(rows, reference[f"mid.similarity_{m}"], f"similarities by {m}")
    for rows in real.split(len(users)):
        assert_close(rows, reference["mid.real_rows"], "real rows")
    losses = model.judgement(suggested, real, rng)
    for ours, theirs in (("judged_suggested", "fake"), ("judged_real", "real"), ("penalty", "penalty")):
        assert_close(losses[ours], reference[f"discriminator.loss.{theirs}"], ours)
    total = torch.stack(list(losses.values())).sum()
    assert_close(total, reference["discriminator.loss"], "total")
    total.backward()
    largest = max(float(p.grad.abs().max()) for p in model.discriminator.parameters())
    for name, p in judges(model).items():
        expected = reference[f"discriminator.grad.{name}"]
        if name in ("1.bias", "2.bias"):  # zero in exact arithmetic
            assert max(np.abs(expected).max(), float(p.grad.abs().max())) <= 1e-5 * largest, name
        else:
            assert_close(p.grad, expected, f"gradient of {name}")


AUTHORS = {"graph_k": 0, "adversarial_weight": 1e-4, "discriminator_slope": 1}
SMALL = {"dim": 8, "graph_k": 3}
REPEATED = (
    "repeats_bit_for_bit", "resume_equals_a_straight_run", "saves_and_loads", "every_parameter_learns",
    "missing_content_is_not_read", "processes",
)  # fmt: skip


@pytest.mark.parametrize("check", REPEATED)
def test_the_contract_holds_with_a_discriminator(check: str) -> None:
    testing.CHECKS[check](MMSSL, MMSSL.Config(**SMALL, adversarial_weight=0.01))


@pytest.mark.parametrize("check", ["every_parameter_learns", "beats_popularity", "gaps"])
def test_the_contract_holds_in_the_authors_form(check: str) -> None:
    testing.CHECKS[check](MMSSL, MMSSL.Config(dim=8, **AUTHORS))


@pytest.fixture(scope="module")
def catalog():
    return items_with_gaps()


def small_model(catalog, **options: Any) -> MMSSL:
    return MMSSL.build(*catalog, MMSSL.Config(**SMALL | options))


def batches(model: MMSSL, size: int = 16) -> list[Any]:
    return list(model.batches(EpochContext(1, size, 0)))


def started(model: MMSSL, epoch: int = 1) -> MMSSL:
    model.start_epoch(numpy_rng(0, "start_epoch", epoch))
    return model


def test_lists_hold_the_new_items_of_most_similar_content(catalog, monkeypatch) -> None:
    data, tables = catalog
    model = small_model(catalog)
    assert (model.neighbors == -1).all()
    started(model)
    for number, m in enumerate(MODALITIES):
        present = torch.from_numpy(tables[m].present & (data.train.item_degree > 0))
        layer = model.content[m].projection
        x = layer(torch.from_numpy(tables[m].numpy(np.float32).copy())).detach() * present[:, None]
        dense = torch.zeros(data.n_users, data.n_items)
        dense[data.train.users.copy(), data.train.items.copy()] = 1
        users = dense @ x / dense.sum(1, keepdim=True).clamp(min=1).sqrt()
        items = dense.T @ users / dense.sum(0)[:, None].clamp(min=1).sqrt()
        scores = torch.where(present & (dense == 0), users @ items.T, -1).numpy()
        for user, found in enumerate(model.neighbors[number].tolist()):
            best = [i for i in np.argsort(-scores[user], kind="stable")[:3] if scores[user, i] > 0]
            assert [i for i in found if i >= 0] == best
    whole = model.neighbors.clone()
    monkeypatch.setattr("graphrec.models.mmssl.USER_BLOCK", 7)
    assert torch.equal(started(model).neighbors, whole)


def test_graphs_are_found_once_an_epoch(catalog) -> None:
    model = started(small_model(catalog))
    lists = model.neighbors.clone()
    for batch in batches(model)[:2]:
        model.loss(batch)
    graphs = model.view_graphs
    with torch.no_grad():
        for content in model.content.values():
            content.projection.weight.normal_(generator=torch.Generator().manual_seed(0))
    model.loss(batch)
    assert model.view_graphs is graphs
    assert torch.equal(model.neighbors, lists)
    started(model, 2)
    assert model.view_graphs is None
    assert not torch.equal(model.neighbors, lists)


def test_without_graphs_there_are_no_views(catalog) -> None:
    model = started(small_model(catalog, graph_k=0))
    assert model.view_map is None
    step = model.propagate(model.modality_graphs(), None)
    assert step.views == []
    (batch, *_) = batches(model)
    assert set(model.loss(batch)) == {"bpr", "reg", "feature_reg"}
    plain = small_model(catalog, view_weight=0)
    plain.load_state_dict(
        model.state_dict() | {k: plain.state_dict()[k] for k in ("neighbors", "view_map.weight")}
    )
    for found, expected in zip(model.embed(), started(plain).embed(), strict=True):
        assert torch.equal(found, expected)
    unmapped = started(small_model(catalog, view_map=False))
    assert not any("view_map" in name for name, _ in unmapped.named_parameters())
    assert not torch.equal(unmapped.embed()[0], model.embed()[0])


def test_repeats_and_users_without_neighbors_take_no_part_in_the_contrast(catalog) -> None:
    rows = torch.tensor([3, 5, 3, 7])
    own = torch.eye(4, dtype=torch.bool)
    for repeats in (True, False):
        model = started(small_model(catalog, contrast_repeats=repeats))
        step = model.propagate(model.modality_graphs(), None)
        model.neighbors[0, 4] = -1
        found = model.contrast_with_final(step, 0, torch.tensor([3, 5, 4, 3, 7]))
        a, b = (normalize(x[rows].double(), dim=1) for x in (step.views[0][0], step.final[0]))
        across, within = (a @ b.T / 0.5).exp(), (a @ a.T / 0.5).exp()
        others = ~own if repeats else rows != rows[:, None]
        below = across.diagonal() + ((across + within) * others).sum(1)
        expected = -(across.diagonal() / below).log().mean()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_modality_that_is_missing_adds_nothing() -> None:
    """User 0 has taken item 1 alone, which lacks its image, user 1 item 2, which lacks both."""
    data, tables = users_and_items_with_gaps()
    model = started(small_model((data, tables)))
    image, text = model.propagated_content(None)
    assert [x[0][:3].any(1).tolist() for x in (image, text)] == [[False] * 3, [True, False, False]]
    lists = model.neighbors
    for number, missing in ((0, [1, 2, 3]), (1, [2, 3])):
        assert not np.isin(lists[number], [*missing, 8, 9]).any()
        assert (lists[number][2] == -1).all()
    for batch in batches(model):
        torch.stack(list(model.loss(batch).values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_what_makes_an_epoch(catalog) -> None:
    data, _ = catalog
    n = len(data.train)
    by_user = batches(small_model(catalog))
    assert len(by_user) == n // 16 + 1
    assert all(len(b.users.unique()) == len(b.users) == 16 for b in by_user)
    every = batches(small_model(catalog, sampling="interactions"))
    pairs = torch.cat([torch.stack([b.users, b.positives], 1) for b in every])
    assert len(pairs) == len(pairs.unique(dim=0)) == n
    judged = batches(small_model(catalog, adversarial_weight=1))
    assert [type(b) for b in judged] == [Judged, SeededTriplets] * len(by_user)
    for users, batch, alone in zip(judged[::2], judged[1::2], by_user, strict=True):
        assert torch.equal(users.users, batch.users)
        assert all(map(torch.equal, batch, alone))
    assert len({int(b.key) for b in judged}) == len(judged)


def test_two_optimizers_in_one(catalog) -> None:
    """AdamW for the recommender and Adam with other decay rates for the discriminator, in turn."""
    models = [started(small_model(catalog, adversarial_weight=1)) for _ in range(2)]
    settings = TrainConfig(learning_rate=5e-3, weight_decay=0.1)
    ours = models[0].optimizer(settings)
    rest = [p for name, p in models[1].named_parameters() if not name.startswith("discriminator")]
    theirs = {
        Judged: torch.optim.Adam(models[1].discriminator.parameters(), 3e-4, betas=(0.5, 0.9)),
        SeededTriplets: torch.optim.AdamW(rest, 5e-3, weight_decay=0.1),
    }
    for batch in batches(models[0])[:6]:
        before = {name: p.detach().clone() for name, p in models[0].named_parameters()}
        for model, optimizer in zip(models, (ours, theirs[type(batch)]), strict=True):
            model.zero_grad()
            torch.stack(list(model.loss(batch).values())).sum().backward()
            optimizer.step()
        for (name, p), q in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-5, atol=1e-7), name
            trained = name.startswith("discriminator") == isinstance(batch, Judged)
            assert torch.equal(p, before[name]) != trained, name


def test_batch_norm_is_that_of_the_rows_at_hand() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(BatchNorm(4)(x), torch.nn.BatchNorm1d(4)(x), atol=1e-6)
    assert not BatchNorm(4)(x[:1]).any()


def test_the_discriminator_has_a_gradient_to_rows_or_to_its_parameters() -> None:
    rng = torch.Generator().manual_seed(0)
    judge = Discriminator(20, 0.01, rng)
    rows = torch.rand(6, 20, generator=rng).requires_grad_()
    kept = judge.draw(6, rng)
    assert [tuple(x.shape) for x in kept] == [(6, 5), (6, 2)]
    found = judge.frozen(rows, kept)
    assert torch.equal(found, judge(rows, kept))
    found.sum().backward()
    assert rows.grad.any()
    assert all(p.grad is None for p in judge.parameters())
    # The gradient that is penalized, by differences in double precision.
    judge.double()
    steps = 1e-6 * torch.eye(20, dtype=torch.float64)
    judge.norms = torch.nn.ModuleList([Identity(5), Identity(2)])
    x = rows.detach().double()
    slopes = torch.stack([(judge(x + s, kept) - judge(x - s, kept)).squeeze(1) for s in steps], 1) / 2e-6
    expected = (slopes.norm(dim=1) - 1).square().mean()
    assert judge.penalty(rows.double(), kept).item() == pytest.approx(expected.item(), rel=1e-4)


class Identity(BatchNorm):
    """Rows do not depend on one another."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("names", [["sound"], ["a", "b", "sound"]])
@pytest.mark.parametrize("options", [{}, {"adversarial_weight": 0.1}])
def test_any_modalities_will_do(catalog, names: list[str], options: dict[str, float]) -> None:
    data, tables = catalog
    model = started(small_model((data, dict.fromkeys(names, tables["text"])), **options))
    for batch in batches(model)[:2]:
        losses = model.loss(batch)
        torch.stack(list(losses.values())).sum().backward()
    assert {f"contrast_{name}" for name in names} < set(losses)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.isfinite(model.embed()[1]).all()


def test_mixed_precision() -> None:
    data, tables = testing.communities(2, 20)
    model = started(small_model((data, tables), adversarial_weight=0.1))
    for batch in batches(model)[:2]:
        exact = {name: value.detach() for name, value in model.loss(batch).items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.loss(batch)
        for name, value in found.items():
            if name != "penalty":  # a norm of slopes that are far from 1
                assert torch.allclose(value.float(), exact[name], rtol=0.05, atol=1e-4), name


def test_cold_items_are_placed_by_their_neighbors(catalog) -> None:
    data, _ = catalog
    model, as_trained = (started(small_model(catalog, cold_items=how)) for how in ("neighbors", "as_trained"))
    cold = data.train.item_degree == 0
    items, trained = model.embed()[1], as_trained.embed()[1]
    assert torch.equal(items[~cold], trained[~cold])
    assert set(range(4, 8)) <= set(np.flatnonzero(cold))
    assert not (items[cold] == trained[cold]).all(1).any()

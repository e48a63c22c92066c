"""DiffMM against the reference implementation, and what it does beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from content_reference import ContentReference
from gaps import items_with_gaps
from reference import MODALITIES, assert_close
from torch import Tensor
from torch.nn.functional import normalize

from graphrec import testing
from graphrec.core.errors import DataError
from graphrec.core.random import numpy_rng
from graphrec.graphs.augmentation import keep_entries
from graphrec.graphs.user_lists import listed
from graphrec.models.batches import EpochContext, Triplets
from graphrec.models.diffmm import DiffMM, Rows
from graphrec.models.diffusion import NoiseDraws
from graphrec.models.losses import InfoNCE


@pytest.fixture(scope="module")
def reference() -> ContentReference:
    return ContentReference("diffmm")


def parameters(model: DiffMM) -> dict[str, Tensor]:
    """Ours by the reference's names; its maps are the transposes of ours."""
    found = {"user_embedding": model.user_embedding.weight, "item_embedding": model.item_embedding.weight}
    found["modality_weight"] = model.modality_weights
    return found | {f"project.{m}": model.content[m].projection.weight for m in MODALITIES}


def transposed(name: str, x: Tensor) -> Tensor:
    return x.T if name.startswith("project") else x


def reference_model(reference: ContentReference, **options: Any) -> DiffMM:
    """The model with the reference's parameters, those of its denoisers included."""
    c = reference.config
    given = {
        "dim": c["dim"], "n_layers": c["n_layers"], "rebuilt_k": c["rebuild_k"], "keep": c["keep_rate"],
        "denoiser_dim": c["hidden"], "content_loss": c["e_loss"], "cl_weight": c["cl_weight"],
        "temperature": c["temperature"], "reg_weight": c["reg_weight"], "cold_items": "as_trained",
    }  # fmt: skip
    model = DiffMM.build(reference.data, reference.tables, DiffMM.Config(**given | options))
    reference.load({name: transposed(name, p.data) for name, p in parameters(model).items()})
    with torch.no_grad():
        for m in MODALITIES:
            for name, p in model.denoisers[m].named_parameters():
                p.copy_(torch.from_numpy(reference[f"diffusion.param.{m}.{name}"]))
    return model


def drawn(reference: ContentReference) -> list[NoiseDraws]:
    keep = 1 - reference.config["denoiser_dropout"]
    found = []
    for m in MODALITIES:
        parts = (reference[f"noise.diffusion_{name}.{m}"] for name in ("step", "gauss", "dropout_keep"))
        step, noise, kept = map(torch.from_numpy, parts)
        found.append(NoiseDraws(step, noise, kept / keep))
    return found


def dropped_graphs(reference: ContentReference, model: DiffMM) -> list[Any]:
    """The rebuilt graphs with the entries that the reference keeps."""
    keep, graphs = reference.config["keep_rate"], []
    for m, graph in zip(MODALITIES, model.rebuilt_graphs(), strict=True):
        kept = torch.from_numpy(reference[f"noise.edge_keep.{m}"])[graph.target, graph.col.long()] > 0
        graphs.append(keep_entries(graph, kept, 1 / keep))
    return graphs


def test_the_schedule(reference) -> None:
    schedule = reference_model(reference).denoisers["image"].schedule
    assert_close(schedule.beta, reference["diffusion.betas"], "betas")
    assert_close(schedule.cumulative, reference["diffusion.alphas_cumprod"], "products")
    assert_close(schedule.from_estimate, reference["diffusion.posterior_mean_coef1"], "of the estimate")
    assert_close(schedule.from_current, reference["diffusion.posterior_mean_coef2"], "of the current rows")
    snr = reference["diffusion.snr"].astype(np.float64)
    assert_close(schedule.weight[1:], snr[:-1] - snr[1:], "weights")
    assert schedule.weight[0] == 1


def test_the_denoisers_losses_and_gradients(reference, monkeypatch) -> None:
    model = reference_model(reference)
    monkeypatch.setattr(model, "draw", lambda batch: drawn(reference))
    losses = model.loss(Rows(torch.from_numpy(reference["diffusion.users"]), torch.tensor(0)))
    assert set(losses) == {f"{part}_{m}" for part in ("denoising", "content") for m in MODALITIES}
    for m in MODALITIES:
        assert_close(losses[f"denoising_{m}"], reference[f"diffusion.loss.{m}.elbo"], f"elbo of {m}")
        assert_close(losses[f"content_{m}"], reference[f"diffusion.loss.{m}.graph"], f"content of {m}")
    torch.stack(list(losses.values())).sum().backward()
    for m in MODALITIES:
        for name, p in model.denoisers[m].named_parameters():
            assert_close(p.grad, reference[f"diffusion.grad.{m}.{name}"], f"gradient of {m} {name}")
    assert all(p.grad is None for p in parameters(model).values())


def test_rebuilt_graphs(reference) -> None:
    model = reference_model(reference)
    assert_close(model.graph.dense(), reference["graph.user_item"], "graph")
    every = torch.arange(model.n_users)
    model.rebuild()
    graphs = model.rebuilt_graphs()
    dropped = dropped_graphs(reference, model)
    for number, m in enumerate(MODALITIES):
        denoised = model.denoisers[m].denoising()(model.rows(every))
        assert_close(denoised, reference[f"diffusion.denoised.{m}"], f"rows of {m}")
        top = np.sort(reference[f"diffusion.top.{m}"], 1)
        assert np.array_equal(np.sort(model.rebuilt[number], 1), top)
        assert_close(graphs[number].dense(), reference[f"graph.rebuilt_{m}"], f"graph of {m}")
        assert_close(dropped[number].dense(), reference[f"graph.dropped_{m}"], f"entries of {m}")


def test_losses_and_gradients(reference) -> None:
    model = reference_model(reference)
    model.rebuild()
    model.epoch_graphs = dropped_graphs(reference, model)
    losses = model.loss(Triplets(*reference.batch[:3]))
    assert set(losses) == {"bpr", "reg", "contrast_users", "contrast_items"}
    # The reference divides by the configured size of a batch.
    losses["bpr"] = losses["bpr"] * len(reference.batch.users) / reference.config["batch_size"]
    assert_close(losses["bpr"], reference["loss.bpr"], "bpr")
    assert_close(losses["reg"], reference["loss.reg"], "reg")
    assert_close(losses["contrast_users"] + losses["contrast_items"], reference["loss.contrast"], "contrast")
    total = torch.stack(list(losses.values())).sum()
    assert_close(total, reference["loss"], "total")
    total.backward()
    reference.check_gradients({name: transposed(name, p.grad) for name, p in parameters(model).items()})
    assert all(p.grad is None for p in model.denoisers.parameters())


def test_the_contrast_with_final_embeddings(reference) -> None:
    model = reference_model(reference, contrast="final")
    model.rebuild()
    model.epoch_graphs = dropped_graphs(reference, model)
    losses = model.loss(Triplets(*reference.batch[:3]))
    found = losses["contrast_users"] + losses["contrast_items"]
    assert_close(found, reference["contrast_with_main"], "contrast")


def test_views_embeddings_and_scores(reference, monkeypatch) -> None:
    model = reference_model(reference)
    model.rebuild()
    graphs = dropped_graphs(reference, model)
    step = model.propagate(graphs)
    for m, view in zip(MODALITIES, step.views, strict=True):
        users, items = view.split([model.n_users, model.n_items])
        assert_close(users, reference[f"mid.user_{m}"], f"users by {m}")
        assert_close(items, reference[f"mid.item_{m}"], f"items by {m}")
    monkeypatch.setattr(model, "rebuilt_graphs", lambda: graphs)
    reference.check_embeddings(model)


@pytest.fixture(scope="module")
def catalog():
    return items_with_gaps()


SMALL = {"dim": 8, "denoiser_dim": 16}


def small_model(catalog, **options: Any) -> DiffMM:
    return DiffMM.build(*catalog, DiffMM.Config(**SMALL | options))


def triplets(model: DiffMM) -> Triplets:
    return next(b for b in model.batches(EpochContext(1, 64, 0)) if isinstance(b, Triplets))


def test_an_epoch_is_all_users_and_then_all_interactions(catalog) -> None:
    data, _ = catalog
    batches = list(small_model(catalog).batches(EpochContext(1, 16, 0)))
    n_rows = -(-data.n_users // 16)
    assert [type(b) for b in batches] == [Rows] * n_rows + [Triplets] * (len(batches) - n_rows)
    assert sorted(torch.cat([b.users for b in batches[:n_rows]]).tolist()) == list(range(data.n_users))
    pairs = torch.cat([torch.stack(b[:2], 1) for b in batches[n_rows:]])
    assert len(pairs) == len(pairs.unique(dim=0)) == len(data.train)
    assert len({int(b.key) for b in batches[:n_rows]}) == n_rows


def test_a_step_trains_denoisers_or_the_recommender(catalog) -> None:
    """One optimizer leaves parameters without a gradient alone, whatever its weight decay."""
    model = small_model(catalog)
    optimizer = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    for batch in (next(iter(model.batches(EpochContext(1, 64, 0)))), triplets(model)):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        optimizer.step()
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name]) == (name.startswith("denoisers") != isinstance(batch, Rows))


def test_rows_are_dense_for_a_block_of_users(catalog, monkeypatch) -> None:
    data, _ = catalog
    model = small_model(catalog, rebuilt_k=4)
    model.rebuild()
    whole, sizes, rows = model.rebuilt.clone(), [], model.rows
    dense = torch.zeros(data.n_users, data.n_items)
    dense[data.train.users.copy(), data.train.items.copy()] = 1
    assert torch.equal(rows(torch.arange(data.n_users)), dense)
    monkeypatch.setattr("graphrec.models.diffmm.USER_BLOCK", 7)
    monkeypatch.setattr(model, "rows", lambda users: sizes.append(len(users)) or rows(users))
    model.rebuilt.fill_(-1)
    model.rebuild()
    assert torch.equal(model.rebuilt, whole)
    assert max(sizes) == 7
    assert sum(sizes) == data.n_users
    every = small_model(catalog, rebuilt_k=10**6)
    assert every.rebuilt.shape == (2, data.n_users, data.n_items)


def test_all_steps_at_once_are_one_after_the_other(catalog) -> None:
    model = small_model(catalog, noise_scale=1)
    denoiser, users = model.denoisers["text"], torch.arange(model.n_users)
    schedule = denoiser.schedule
    for first in (1, 0):  # nothing of the rows is left where they are estimated without any noise
        schedule.from_current[0] = 0.5 * first
        rows = model.rows(users)
        for t in reversed(range(len(schedule))):
            estimate = denoiser(rows, torch.full((len(rows),), t))
            rows = schedule.from_estimate[t] * estimate + schedule.from_current[t] * rows
        assert torch.allclose(denoiser.denoising()(model.rows(users)), rows, atol=1e-6)


def test_lists_become_graphs() -> None:
    pairs = listed(torch.tensor([[3, 1], [-1, -1], [0, -1]], dtype=torch.int32), 5)
    assert (pairs.n_users, pairs.n_items) == (3, 5)
    assert list(zip(pairs.users, pairs.items, strict=True)) == [(0, 1), (0, 3), (2, 0)]
    with pytest.raises(DataError, match=r"user 1.*item 2"):
        listed(torch.tensor([[0, 1], [2, 2]]), 5)


def test_entries_are_dropped_once_an_epoch_and_never_for_scores(catalog) -> None:
    model = small_model(catalog, keep=0.7, rebuilt_k=5)
    model.start_epoch(numpy_rng(0, "start_epoch", 1))
    model.loss(triplets(model))
    whole, first = model.rebuilt_graphs()[0], model.epoch_graphs[0]
    assert 0.5 * len(whole) < len(first) < 0.9 * len(whole)
    kept = first.dense() > 0
    assert torch.allclose(first.dense()[kept], whole.dense()[kept] / 0.7)
    model.loss(triplets(model))
    assert model.epoch_graphs[0] is first
    model.start_epoch(numpy_rng(0, "start_epoch", 2))
    assert model.epoch_graphs is None
    assert not torch.equal(model.training_graphs()[0].dense(), first.dense())
    expected = model.propagate(model.rebuilt_graphs()).final[: model.n_users]
    assert torch.equal(model.embed()[0], expected)


def test_items_without_a_modality_take_no_part_in_its_contrast(catalog) -> None:
    """Item 1 lacks its image, item 2 both."""
    data, _ = catalog
    rng = torch.Generator().manual_seed(0)
    n = data.n_users + data.n_items
    model = small_model(catalog)
    step = model.propagate(model.rebuilt_graphs())
    step = step._replace(views=[torch.randn(n, 8, generator=rng) for _ in range(2)])
    one, other = (normalize(x[data.n_users :], dim=1) for x in step.views)
    whole = [i for i in range(data.n_items) if i not in (1, 2)]
    own = [0, 5, 5]
    logits = one[own] @ other[whole].T / 0.5
    expected = (logits.logsumexp(1) - logits[range(3), [whole.index(i) for i in own]]).mean()
    found = model.agreement(step, "items", torch.tensor([0, 1, 2, 5, 5]))
    assert torch.allclose(found, expected, atol=1e-6)
    assert model.agreement(step, "items", torch.tensor([1, 2])) == 0
    for content, rows in zip(model.projected(), ([1, 2], [2]), strict=True):
        assert [i for i in range(data.n_items) if not content[i].any()] == rows


def test_three_modalities_agree_in_pairs() -> None:
    data, _ = testing.communities(2, 15)
    table = testing.features_of(data, numpy_rng(0, "tests/complete").normal(size=(data.n_items, 6)))["text"]
    model = DiffMM.build(data, dict.fromkeys(("a", "b", "sound"), table), DiffMM.Config(**SMALL))
    step = model.propagate(model.rebuilt_graphs())
    rng = torch.Generator().manual_seed(0)
    views = [torch.randn(data.n_users + data.n_items, 8, generator=rng) for _ in range(3)]
    ids = torch.tensor([4, 9])
    a, b, c = (x[: data.n_users] for x in views)
    pairs = [InfoNCE(0.5)(x[ids], y, ids) for x, y in ((a, b), (a, c), (b, c))]
    found = model.agreement(step._replace(views=views), "users", ids)
    assert torch.allclose(found, torch.stack(pairs).mean(), atol=1e-6)


@pytest.mark.parametrize("names", [["sound"], ["a", "b", "sound"]])
@pytest.mark.parametrize("options", [{}, {"contrast": "final", "content_map": "linear"}])
def test_any_modalities_will_do(catalog, names: list[str], options: dict[str, str]) -> None:
    data, tables = catalog
    model = small_model((data, dict.fromkeys(names, tables["text"])), **options)
    for batch in (next(iter(model.batches(EpochContext(1, 64, 0)))), triplets(model)):
        losses = model.loss(batch)
        torch.stack(list(losses.values())).sum().backward()
    assert ("contrast_users" in losses) == (len(names) > 1 or "contrast" in options)
    gradients = [p.grad for p in model.parameters()]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert torch.isfinite(model.embed()[1]).all()


def test_mixed_precision() -> None:
    data, tables = testing.communities(2, 20)
    model = small_model((data, tables))
    for batch in (next(iter(model.batches(EpochContext(1, 64, 0)))), triplets(model)):
        exact = {name: value.detach() for name, value in model.loss(batch).items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.loss(batch)
        for name, value in found.items():
            assert torch.allclose(value.float(), exact[name], rtol=0.05, atol=1e-4), name


def test_cold_items_are_placed_by_their_neighbors(catalog) -> None:
    data, _ = catalog
    model, as_trained = (small_model(catalog, cold_items=how) for how in ("neighbors", "as_trained"))
    cold = data.train.item_degree == 0
    items, trained = model.embed()[1], as_trained.embed()[1]
    assert torch.equal(items[~cold], trained[~cold])
    assert set(range(4, 8)) <= set(np.flatnonzero(cold))
    assert not (items[cold] == trained[cold]).all(1).any()

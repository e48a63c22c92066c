"""SLMRec against the authors' code, its heads, repeats in a batch, and missing content."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cold_catalog import cold_catalog
from reference import MODALITIES, assert_close
from tolerances import PROPAGATION
from torch.nn.functional import cross_entropy, normalize
from zoo import Zoo

from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.models.batches import EpochContext, Pairs
from graphrec.models.slmrec import SLMRec
from graphrec.serving import Recommender

NAMES = {f"{side}_embedding": f"{side}_embedding.weight" for side in ("user", "item")}
for part in ("weight", "bias"):
    NAMES |= {
        f"fuse.users.{part}": f"user_fusion.{part}",
        f"fuse.items.{part}": f"item_fusion.{part}",
        f"head.id.{part}": f"query_heads.image.0.{part}",
        f"head.joint1.{part}": f"query_heads.text.0.{part}",
        f"head.joint2.{part}": f"query_heads.text.1.{part}",
    }
    NAMES |= {f"project.{m}.{part}": f"content.{m}.projection.{part}" for m in MODALITIES}
NAMES |= {f"head.{m}.weight": f"key_heads.{m}.weight" for m in MODALITIES}


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return Zoo("slmrec")


def of_the_reference(zoo: Zoo, **options) -> SLMRec:
    c = zoo.config
    config = {
        "dim": c["dim"], "n_layers": c["n_layers"], "temperature": c["temperature"],
        "contrast_weight": c["ssl_weight"], "contrast_temperature": c["ssl_temperature"], **options,
    }  # fmt: skip
    model = SLMRec.build(zoo.data, zoo.tables, SLMRec.Config(**config))
    zoo.load(model, NAMES)
    return model


def pairs(zoo: Zoo) -> Pairs:
    return Pairs(zoo.batch.users, zoo.batch.positives)


def test_losses_and_gradients(zoo) -> None:
    model = of_the_reference(zoo)
    assert_close(model.graph.dense(), zoo["graph.user_item"], "graph")
    views = torch.cat(model.propagate()).split(16, 1)
    for name, view in zip(("id", *MODALITIES), views, strict=True):
        assert_close(view, zoo[f"mid.{name}"], name)
    losses = model.loss(pairs(zoo))
    contrasts = losses.pop("contrast_image") + losses.pop("contrast_text")
    assert set(losses) == {"softmax"}
    zoo.check_losses(model, losses | {"fac": contrasts}, {"softmax": "main", "fac": "fac"})
    zoo.check_gradients(model, NAMES, zero=[f"head.{m}.bias" for m in MODALITIES])


def test_embeddings_and_scores(zoo) -> None:
    model = of_the_reference(zoo, cold_items="as_trained")
    users, items = model.embed()
    assert_close(users, zoo["user_out"], "users")
    assert_close(items, zoo["item_out"], "items")
    assert_close(model.score(zoo["score_users"]).sigmoid(), zoo["scores"], "scores")


def test_an_item_is_its_own_negative_unless_repeats_are_masked(zoo) -> None:
    plain, masked = (of_the_reference(zoo, mask_repeats=mask) for mask in (False, True))
    batch = pairs(zoo)
    assert len(batch.items.unique()) < len(batch.items)
    users, _ = masked.embed()
    u = normalize(users[batch.users], dim=1)
    i = normalize(masked.item_fusion(masked.propagate()[1])[batch.items], dim=1)
    logits = u @ i.T / 0.3
    same = (batch.items == batch.items[:, None]) & ~torch.eye(len(i), dtype=torch.bool)
    expected = cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(i)))
    found = masked.loss(batch)
    assert torch.allclose(found["softmax"], expected, atol=1e-5)
    for name, value in plain.loss(batch).items():
        assert value > found[name] + 1e-3


def test_an_epoch_visits_every_interaction_once() -> None:
    data, tables = testing.communities(2, 20)
    batches = list(SLMRec.build(data, tables).batches(EpochContext(3, 64, 0)))
    seen = np.concatenate([np.stack(b, 1) for b in batches])
    assert sorted(map(tuple, seen)) == sorted(zip(data.train.users, data.train.items, strict=True))


def test_any_number_of_any_modalities_will_do() -> None:
    """Each further modality is compared at half the width of the one before."""
    data, tables = testing.communities(2, 20)
    for names, widths in ((["audio"], [8]), (["video", "audio", "text", "image"], [8, 4, 2, 1])):
        given = dict.fromkeys(names, tables["text"])
        model = testing.train(SLMRec, SLMRec.Config(dim=8), data, given, 1)
        assert [model.key_heads[m].out_features for m in sorted(names)] == widths
        assert [model.query_heads[m][-1].out_features for m in sorted(names)] == widths
        batch = next(iter(model.batches(EpochContext(1, 32, 0))))
        assert set(model.loss(batch)) == {"softmax", *(f"contrast_{m}" for m in names)}
    alone = SLMRec.build(data, tables, SLMRec.Config(contrast_weight=0))
    assert set(alone.loss(batch)) == {"softmax"}
    assert not any("head" in name for name, _ in alone.named_parameters())


def test_items_without_a_modality_take_no_part_in_its_contrast() -> None:
    data, _ = testing.communities(2, 20)
    vectors = numpy_rng(0, "tests/slmrec").normal(size=(data.n_items, 6))
    tables = testing.features_of(data, vectors, missing=(1, 2, 3))
    model = SLMRec.build(data, tables, SLMRec.Config(dim=8, mask_repeats=True))
    some, alone = (
        Pairs(torch.arange(6), torch.tensor([10, 1, 11, 2, 12, 10])),
        Pairs(torch.arange(4), torch.tensor([10, 11, 12, 10])),
    )
    found, expected = model.loss(some), model.loss(alone)
    for m in MODALITIES:
        assert torch.allclose(found[f"contrast_{m}"], expected[f"contrast_{m}"], atol=1e-6)
    assert not torch.allclose(found["softmax"], expected["softmax"], atol=1e-3)
    nothing = model.loss(Pairs(torch.arange(3), torch.tensor([1, 2, 3])))
    assert nothing["softmax"] > 0
    assert not any(nothing[f"contrast_{m}"] for m in MODALITIES)
    torch.stack(list(nothing.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_known_users_items_give_the_users_embedding_but_for_their_own() -> None:
    data, tables = testing.communities(2, 20)
    model = SLMRec.build(data, tables, SLMRec.Config(dim=8))
    table, bias = model.fold_in()
    views = model.propagate()[0]
    own = model.user_embedding.weight.repeat(1, 3) / 4
    for user in (0, 5, 11):
        items = torch.from_numpy(data.train.items_of(user).astype(np.int64))
        folded = table[items].sum(0) / len(items) ** 0.5 + bias
        expected = model.user_fusion(views[user] - own[user])
        assert torch.allclose(folded, expected, atol=PROPAGATION)


def test_cold_items_are_placed_as_the_recommender_places_new_ones() -> None:
    data, tables, _ = cold_catalog()
    model = testing.train(SLMRec, SLMRec.Config(dim=8, knn_k=5), data, tables, 2)
    items = model.embed()[1].detach()
    trained = model.item_fusion(model.propagate()[1]).detach()
    warm, rows = data.train.item_degree > 0, [i for i in data.cold_items if i != 33]  # 33 has no content
    assert torch.equal(items[warm], trained[warm])
    new = [f"new-{i}" for i in rows]
    rec = Recommender.from_model(model, data, tables).add_items(
        new, {m: t.take(rows) for m, t in tables.items()}
    )
    placed = rec.item_vectors[rec.items.indices(new)]
    assert np.abs(placed - items[rows].numpy()).max() <= PROPAGATION * float(items[rows].abs().max())
    assert (items[rows] - trained[rows]).abs().max() > 1e-4

"""LLMRec against the reference implementation's numbers, the short way of channels against the long one,
pruning, masking, restoring, preferences.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import PARITY
from torch.nn.functional import normalize

from graphrec import testing
from graphrec.core.errors import FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.models.batches import EpochContext, Preferences, triplets_of_users
from graphrec.models.layers import distinct_rows
from graphrec.models.llmrec import Batch, LLMRec
from graphrec.models.train_config import TrainConfig

TOY = json.loads((Path(__file__).parent / "fixtures" / "llmrec_toy.json").read_text())
ATTRIBUTES = list(TOY["features"]["attributes"])


def of_users(values: np.ndarray, present: np.ndarray | None = None) -> FeatureTable:
    return FeatureTable(values, present, {"of": "user"})


def toy(**options) -> tuple[LLMRec, Batch]:
    """The reference's toy graph, features and parameters, and its batch."""
    pairs = [(int(u), i) for u, items in TOY["train"].items() for i in items]
    users, items = zip(*pairs, strict=True)
    dims = TOY["dims"]
    train = Interactions(users, items, dims["users"], dims["items"])
    arrays = {f: np.array(TOY["features"][f], np.float32) for f in ("image", "text", "profile")}
    features = {f: of_users(a) if f == "profile" else FeatureTable(a) for f, a in arrays.items()}
    for name, values in TOY["features"]["attributes"].items():
        features[f"attribute_{name}"] = FeatureTable(np.array(values, np.float32))
    model = LLMRec(train, features, LLMRec.Config(dim=dims["d"], n_layers=dims["layers"], **options))
    names = {"image_trans": "projections.image", "text_trans": "projections.text",
             "user_trans": "projections.profile", "item_trans": "projections.attributes",
             "user_id_embedding": "user_embedding", "item_id_embedding": "item_embedding"}  # fmt: skip
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in TOY["parameters"].items():
            module, _, part = name.rpartition(".")
            parameters[f"{names[module]}.{part}"].copy_(torch.tensor(values))
    index = [torch.tensor(TOY["batch"][part]) for part in ("users", "pos", "neg")]
    none = torch.empty(0, dtype=torch.int64)
    n = torch.tensor(TOY["batch"]["batch_size_used_in_regulariser"])
    return model, Batch(*index, n, none, none, torch.tensor(5))


def expected(name: str) -> torch.Tensor:
    return torch.tensor(TOY["expected"][name])


def test_graphs_channels_and_embeddings_are_the_references() -> None:
    model, _ = toy()
    assert torch.allclose(model.to_users.dense(), expected("ui_norm"), atol=PARITY)
    assert torch.allclose(model.to_items.dense(), expected("iu_norm"), atol=PARITY)
    sides = model.all_sides(None)
    for f in ("image", "text", "profile"):
        assert torch.allclose(sides[f][0], expected(f"{f}_user"), atol=PARITY), f
        assert torch.allclose(sides[f][1], expected(f"{f}_item"), atol=PARITY), f
    for name in ATTRIBUTES:
        users, items = sides[f"attribute_{name}"]
        assert torch.allclose(users, torch.tensor(TOY["expected"]["attr_user"][name]), atol=PARITY), name
        assert torch.allclose(items, torch.tensor(TOY["expected"]["attr_item"][name]), atol=PARITY), name
    users, items = model.embed()
    assert torch.allclose(users, expected("user_final"), atol=PARITY)
    assert torch.allclose(items, expected("item_final"), atol=PARITY)
    assert torch.allclose(model.score(range(5)), expected("scores"), atol=PARITY)


@pytest.mark.parametrize("long_way", [False, True])
def test_every_loss_term_is_the_references(long_way) -> None:
    # With nothing to mask the long way is taken and changes nothing: a rate below one row of seven.
    model, batch = toy(reference_compat=True, **({"mask": 0.1} if long_way else {}))
    assert model.whole == long_way
    losses = {name: value.item() for name, value in model.loss(batch).items()}
    config = model.config
    found = {
        "loss_main": losses["bpr"], "reg_main": losses["reg"], "feat_reg": losses["features"],
        "loss_image": losses["bpr_image"] / config.content_loss,
        "loss_text": losses["bpr_text"] / config.content_loss,
        "loss_aug": losses["bpr_attributes"] / config.attribute_loss, "total": sum(losses.values()),
    }  # fmt: skip
    for name, value in found.items():
        assert value == pytest.approx(TOY["expected"][name], rel=1e-5, abs=1e-12), name


# -- channels ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def material():
    """Communities with profiles, two attributes and preferences; some have none of each, user 3 and item 5 no
    interactions.
    """
    data, tables = testing.communities(2, 15)
    train = data.train.where((data.train.users != 3) & (data.train.items != 5))
    data = data.with_splits(train, data.valid, data.test)
    rng = numpy_rng(0, "tests/llmrec")
    present = np.arange(data.n_users) % 7 != 2
    values = rng.normal(size=(data.n_users, 6)).astype(np.float32) + 1
    tables = {
        **tables,
        "profile": FeatureTable.from_array(values, data, "profile", present=present, entity="user"),
    }
    for k, name in enumerate(("director", "year")):
        values = rng.normal(size=(data.n_items, 5)).astype(np.float32) + 1
        there = np.arange(data.n_items) % 5 != k
        tables[f"attribute_{name}"] = FeatureTable.from_array(values, data, name, present=there)
    values = values[np.arange(data.n_items) % 2]
    tables["attribute_country"] = FeatureTable.from_array(values, data, "country", present=there)
    pairs = rng.permuted(np.tile(np.arange(data.n_items), (data.n_users, 1)), axis=1)[:, :2].astype(np.int32)
    said = np.arange(data.n_users) % 3 != 0
    tables["preferences"] = FeatureTable(pairs, said, {"of": "user", "items": data.users.fingerprint})
    return data, tables


def built(material, **options) -> LLMRec:
    data, tables = material
    return LLMRec.build(data, tables, LLMRec.Config(dim=8, **options))


def first_batch(model: LLMRec, size: int = 16) -> Batch:
    return next(iter(model.batches(EpochContext(1, size, 0))))


def gradients(losses: dict[str, torch.Tensor], model: LLMRec) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_short_way_is_the_long_one(material) -> None:
    """Projected rows of what was propagated once against what is projected and propagated in every step."""
    short, long = built(material, mask=0, feature_reg=0.5), built(material, mask=0.001, feature_reg=0.5)
    assert long.whole
    assert not short.whole
    batch = first_batch(short)
    assert not len(first_batch(long).masked_items), "nothing is masked at such a rate"
    one, other = short.loss(batch), long.loss(first_batch(long))
    assert set(one) == set(other) == {"bpr", "bpr_image", "bpr_text", "bpr_attributes", "features", "reg"}
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-5), name
    there, here = gradients(one, short), gradients(other, long)
    assert set(there) == set(here) == {name for name, _ in short.named_parameters()}
    for name, gradient in there.items():
        assert torch.allclose(gradient, here[name], atol=1e-6), name
        assert gradient.abs().sum() > 0, name
    for a, b in zip(short.embed(), long.embed(), strict=True):
        assert torch.allclose(a, b, atol=PARITY)


def test_a_channel_is_what_the_equations_say(material) -> None:
    data, tables = material
    model = built(material)
    a = torch.zeros(data.n_users, data.n_items)
    a[data.train.users.astype(int), data.train.items.astype(int)] = 1
    r = a / a.sum(1, keepdim=True).clamp(min=1).sqrt()
    c = a.T / a.sum(0)[:, None].clamp(min=1).sqrt()
    whole = model.all_sides(None)
    for f, table in tables.items():
        if f == "preferences":
            continue
        layer = model.projections[model.shared(f)]
        x = (torch.from_numpy(table.numpy()) @ layer.weight.T + layer.bias) * torch.from_numpy(
            np.array(table.present)
        )[:, None]
        users, items = (r @ c @ x, c @ x) if f == "profile" else (r @ x, c @ r @ x)
        assert torch.allclose(whole[f][0], users, atol=1e-5), f
        assert torch.allclose(whole[f][1], items, atol=1e-5), f
        squares = users.square().sum() + items.square().sum()
        assert model.channels[f].squares(model.weight(f)).item() == pytest.approx(squares.item(), rel=1e-5)
    assert not whole["image"][1][5].any(), "an item nobody has is nothing to any channel"
    assert not whole["profile"][0][3].any(), "and a user who has nothing"


def test_of_few_distinct_rows_only_those_are_projected(material) -> None:
    channels = built(material).channels
    assert channels["attribute_country"].distinct.shape == (3, 6), "two countries and none"
    assert channels["attribute_country"].users.values.shape[1] == 3
    assert channels["attribute_director"].distinct is None
    x = torch.tensor([[5.0, 6], [1, 2], [5, 6], [1, 2]])
    found, which = distinct_rows(x, 2)
    assert torch.equal(found, x[:2])
    assert which.tolist() == [0, 1, 0, 1]
    assert distinct_rows(x, 1) is None


def test_the_regularizer_is_half_the_squares_over_what_was_sampled(material) -> None:
    model = built(material, reg_weight=0.5)
    batch = first_batch(model)
    users, items = model.embed()
    parts = users[batch.users], items[batch.positives], items[batch.negatives]
    assert len(batch.users) > batch.n
    expected = 0.5 * sum(part.square().sum() for part in parts) / 2 / batch.n
    assert torch.allclose(model.loss(batch)["reg"], expected, rtol=1e-5)


def test_attributes_share_one_projection_and_must_be_alike(material) -> None:
    data, tables = material
    model = built(material)
    assert set(model.projections) == {"image", "text", "profile", "attributes"}
    other = FeatureTable(np.ones((data.n_items, 3), np.float32))
    with pytest.raises(FeatureError, match="'attribute_year': 3"):
        LLMRec.build(data, {**tables, "attribute_year": other}, LLMRec.Config())
    with pytest.raises(FeatureError, match="7 rows, communities has 30 users"):
        LLMRec.build(
            data, {**tables, "profile": FeatureTable(np.ones((7, 3), np.float32), None, {"of": "user"})}
        )


# -- pruning, preferences, sampling --------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "kept"), [("hard", [2.0, 3.0]), ("easy", [0.1, 0.5])])
def test_half_the_triplets_are_pruned(material, keep, kept) -> None:
    model = built(material, prune=0.5, prune_keep=keep)
    losses = torch.tensor([0.5, 3.0, 0.1, 2.0], dtype=torch.float64)
    difference = -torch.log(torch.expm1(losses))  # log(1 + e^-x) is the loss
    assert model.pruned(difference).item() == pytest.approx(np.mean(kept), rel=1e-6)


def test_nothing_is_pruned_at_rate_zero_and_one_is_left_at_any(material) -> None:
    difference = torch.tensor([1.0, -2.0, 0.5])
    assert torch.allclose(
        built(material, prune=0).pruned(difference), torch.log1p(torch.exp(-difference)).mean()
    )
    assert torch.isfinite(built(material, prune=0.9).pruned(difference[:1]))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_preferences_come_after_what_is_sampled(material, share) -> None:
    _, tables = material
    model = built(material, augmented=share)
    pairs, said = tables["preferences"].numpy(np.int64), np.array(tables["preferences"].present)
    seen = 0
    for batch in model.batches(EpochContext(1, 20, 0)):
        n = int(batch.n)
        users = batch.users[n:].numpy()
        assert n == 20
        assert len(users) <= int(share * n)
        assert said[users].all()
        assert len(set(users.tolist())) == len(users), "each of the batch's users at most once"
        assert set(users.tolist()) <= set(batch.users[:n].tolist())
        assert np.array_equal(batch.positives[n:], pairs[users, 0])
        assert np.array_equal(batch.negatives[n:], pairs[users, 1])
        if share == 1:
            assert len(users) == said[batch.users[:n].numpy()].sum()
        seen += len(users)
    assert bool(seen) == bool(share)


@pytest.mark.parametrize(
    "table",
    [
        FeatureTable(np.zeros((30, 2), np.int32)),  # of items
        FeatureTable(np.zeros((30, 3), np.int32), None, {"of": "user"}),
        FeatureTable(np.zeros((30, 2), np.float32), None, {"of": "user"}),
    ],
    ids=["of items", "three", "float32"],
)
def test_what_is_no_preferences_is_refused(material, table) -> None:
    data, _ = material
    assert data.n_users == data.n_items == len(table)
    with pytest.raises(FeatureError, match="holds no preferences"):
        Preferences.from_features(data, {"preferences": table}, 0.1)


def test_without_preferences_there_are_none(material) -> None:
    data, tables = material
    rest = {f: t for f, t in tables.items() if f != "preferences"}
    batch = first_batch(LLMRec.build(data, rest, LLMRec.Config(augmented=0.5)))
    assert len(batch.users) == int(batch.n) == 16


def test_every_user_counts_alike(material) -> None:
    data, _ = material
    train = data.train
    batches = list(triplets_of_users(train, EpochContext(1, 10, 0)))
    assert len(batches) == len(train) // 10 + 1
    for batch in batches:
        assert len(set(batch.users.tolist())) == 10
        assert train.contains(batch.users.numpy(), batch.positives.numpy()).all()
        assert not train.contains(batch.users.numpy(), batch.negatives.numpy()).any()
        assert (train.item_degree[batch.negatives.numpy()] > 0).all()
    many = np.concatenate(
        [b.users for e in range(40) for b in triplets_of_users(train, EpochContext(e, 10, 0))]
    )
    counts = np.bincount(many, minlength=data.n_users)
    assert not counts[3]
    active = np.delete(counts, 3)
    assert active.min() > 0.8 * active.mean()
    items = np.concatenate(
        [b.positives for e in range(300) for b in triplets_of_users(train, EpochContext(e, 10, 0))]
    )
    users = np.concatenate(
        [b.users for e in range(300) for b in triplets_of_users(train, EpochContext(e, 10, 0))]
    )
    own = np.bincount(items[users == 4], minlength=data.n_items)[train.items_of(4)]
    assert own.min() > 0.7 * own.mean(), "each of a user's items as often"
    assert len(next(triplets_of_users(train, EpochContext(1, 100, 0))).users) == 100, (
        "fewer users than a batch: repeated"
    )


# -- masking and restoring -----------------------------------------------------------------------------------


def test_what_is_masked_is_the_mean_for_one_step(material) -> None:
    model = built(material, mask=0.4)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    batch = first_batch(model)
    assert len(batch.masked_users) == int(0.4 * model.n_users)
    whole = model.all_sides(batch)
    channel, weight = model.channels["attribute_year"], model.weight("attribute_year")
    x = channel.own.clone()
    x[batch.masked_items] = x[x[:, -1] > 0].mean(0)
    users = model.to_users @ (x @ weight.T)
    assert torch.allclose(whole["attribute_year"][0], users, atol=PARITY)
    untouched = model.channels["image"]
    assert torch.allclose(whole["image"][0], untouched.users.values @ model.weight("image").T, atol=PARITY)
    torch.stack(list(model.loss(batch).values())).sum().backward()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_restoring_trains_decoders_and_reaches_the_projections(material) -> None:
    model = built(material, mask=0.4, restore_weight=1.0)
    losses = model.loss(first_batch(model))
    found = gradients({"restore": losses["restore"]}, model)
    for name in ("projections.profile", "projections.attributes", "decoders.profile", "decoders.attributes"):
        assert found[f"{name}.weight"].abs().sum() > 0, name
    optimizer = model.optimizer(TrainConfig(learning_rate=1e-2, weight_decay=0.01))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    assert not torch.equal(model.decoders["profile"].weight, before["decoders.profile.weight"])
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, 2e-4]


@pytest.mark.parametrize("kind", ["sce", "mse"])
def test_restoring_is_as_far_as_the_equation_says(material, kind) -> None:
    _, tables = material
    model = built(material, mask=0.4, restore_weight=1.0, restore_loss=kind, restore_power=3.0)
    batch = first_batch(model)
    whole, total = model.all_sides(batch), 0.0
    for f, index, side in (("profile", batch.masked_users, 0), ("attribute_director", batch.masked_items, 1),
                           ("attribute_year", batch.masked_items, 1),
                           ("attribute_country", batch.masked_items, 1)):  # fmt: skip
        decoder = model.decoders[model.shared(f)]
        decoded = normalize(torch.nn.functional.leaky_relu(decoder(whole[f][side][index]), 0.01))
        target = normalize(torch.from_numpy(tables[f].numpy() * np.array(tables[f].present)[:, None])[index])
        if kind == "sce":
            total += ((1 - (decoded * target).sum(1)) ** 3).mean()
        else:
            total += ((decoded - target) ** 2).mean()
    assert torch.allclose(model.loss(batch)["restore"], total, rtol=1e-5)


def test_compat_damages_features_and_trains_no_decoder(material) -> None:
    model = built(material, mask=0.2, restore_weight=1.0, reference_compat=True)
    batches = list(model.batches(EpochContext(1, 60, 0)))
    optimizer = model.optimizer(TrainConfig(learning_rate=1e-2, weight_decay=0.01))
    decoder = model.decoders["profile"].weight.detach().clone()
    damaged = []
    for batch in batches[:3]:
        losses = model.loss(batch)
        found = gradients({"restore": losses["restore"]}, model)
        assert "projections.profile.weight" not in found, "the profiles' input was cut off"
        optimizer.step()
        channel = model.channels["profile"]
        damaged.append(int((channel.damaged != channel.own).any(1).sum()))
    assert torch.equal(model.decoders["profile"].weight, decoder)
    assert damaged[0] < damaged[1] < damaged[2], "more of them every step"
    index, side = batch.masked_users, model.all_sides(batch)["profile"]
    decoded = normalize(model.decoders["profile"](side[0][index]))  # a LeakyReLU of slope 1 is none
    target = normalize(model.channels["profile"].own[index][:, :-1])
    expected = (1 - (decoded * target).sum(1)).square().mean()
    assert torch.allclose(model.restored(batch, {"profile": side}), expected, rtol=1e-5)
    assert torch.isfinite(model.score(range(5))).all()


def test_dropout_is_of_what_is_projected_and_kept_in_proportion(material) -> None:
    model = built(material, dropout=0.5)
    batch = first_batch(model)
    whole, plain = model.all_sides(batch), model.all_sides(None)
    assert not torch.allclose(whole["image"][0], plain["image"][0], atol=1e-3)
    again = model.all_sides(batch)
    assert torch.equal(whole["image"][0], again["image"][0]), "the same for the same key"
    data, tables = material
    alike = built((data, {**tables, "attribute_year": tables["attribute_director"]}), dropout=0.5)
    whole_of_both = alike.all_sides(first_batch(alike))
    one, other = (whole_of_both[f"attribute_{name}"][0] for name in ("year", "director"))
    assert not torch.allclose(one, other, atol=1e-3), "each channel has a mask of its own"
    keys = [batch._replace(key=torch.tensor(k)) for k in range(400)]
    many = torch.stack([model.all_sides(key)["image"][0].detach() for key in keys])
    usual = plain["image"][0].detach()
    assert torch.allclose(many.mean(0), usual, atol=0.2 * float(usual.abs().max()))

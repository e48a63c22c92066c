"""RLMRec against the reference implementation, its bases, its text vectors, and what it does without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import Reference, assert_close
from torch.nn.functional import embedding

from graphrec import testing
from graphrec.core.errors import ConfigError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.graphs.augmentation import keep_entries
from graphrec.models import model as model_class, rlmrec, simgcl
from graphrec.models.batches import EpochContext
from graphrec.models.losses import InfoNCE
from graphrec.models.multimodal import user_means
from graphrec.models.rlmrec import RLMRecCon, RLMRecGen

CLASSES = {"con": RLMRecCon, "gen": RLMRecGen}
VARIANTS = ("con_lightgcn", "gen_lightgcn", "con_simgcl", "gen_simgcl")
OTHER_BASES = ("sgl", "simgcl", "xsimgcl")


def text_of(reference: Reference) -> dict[str, FeatureTable]:
    """The reference's text vectors."""
    users, items = (reference[f".language_{side}"] for side in ("users", "items"))
    return {
        "profile": FeatureTable.from_array(users, reference.data, "profile", entity="user"),
        "text": FeatureTable.from_array(items, reference.data, "text"),
    }


def model_of(reference: Reference, **options: Any) -> Any:
    """With the reference's options and parameters."""
    align, base = reference.variant.split("_")
    given = reference.config
    base_options = {"dim": 16, "n_layers": given["layer_num"], "reg_weight": given["reg_weight"]}
    if base == "simgcl":
        base_options |= {
            "readout": "sum", "pool": "all", "regularizer": "all_squares", "noise": given["eps"],
            "contrast_weight": given["cl_weight"], "temperature": given["cl_temperature"],
        }  # fmt: skip
    if align == "con":
        weight, temperature = given["kd_weight"], given["kd_temperature"]
    else:
        weight, temperature = given["recon_weight"], given["re_temperature"]
        options["mask"] = given["mask_ratio"]
    cls = CLASSES[align]
    config = cls.Config(
        base=base, base_options=base_options, language_weight=weight, language_temperature=temperature,
        **options,
    )  # fmt: skip
    model = cls.build(reference.data, text_of(reference), config)
    model.contrast = InfoNCE(temperature, eps=1e-8)
    if base == "simgcl":
        model.base.contrast = InfoNCE(given["cl_temperature"], eps=1e-8)
    with torch.no_grad():
        for name, parameter in parameters_of(model).items():
            parameter.copy_(torch.from_numpy(reference[f".param.{name}"]))
    return model


def parameters_of(model: Any) -> dict[str, torch.Tensor]:
    """By the reference's names; all there are."""
    found = {
        "user_embedding": model.base.user_embedding.weight,
        "item_embedding": model.base.item_embedding.weight,
        **dict(model.projectors["both"].named_parameters()),
    }
    if isinstance(model, RLMRecGen):
        found["mask_token"] = model.mask_token
    assert {id(p) for p in model.parameters()} == {id(p) for p in found.values()}
    return found


def with_draws_of(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the reference drew in place of what follows from the batch's seed."""
    if reference.variant.endswith("lightgcn"):
        target, source = reference[".adj_indices"]
        order = torch.from_numpy(np.lexsort((source, target)))
        kept = torch.from_numpy(reference[".draw.kept_mask"])[order]
        monkeypatch.setattr(rlmrec, "drop_entries", lambda graph, rate, rng: keep_entries(graph, kept))
    else:
        names = [f".draw.uniform_{view}_layer{layer}" for view in (1, 2) for layer in (1, 2)]
        noise = [torch.from_numpy(reference[name]) for name in names]
        monkeypatch.setattr(simgcl, "uniform_noise", lambda key, n, shape: noise)
    if reference.variant.startswith("gen"):
        masked = torch.from_numpy(reference[".draw.masked_nodes"])
        monkeypatch.setattr(RLMRecGen, "draw", lambda model, key: masked)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_reference_implementation(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference("rlmrec", variant)
    with_draws_of(reference, monkeypatch)
    model = model_of(reference)
    losses = model.loss(reference.batch)
    language = "kd" if variant.startswith("con") else "recon"
    expected = {"bpr": "bpr_loss", "reg": "reg_loss", "language": f"{language}_loss"}
    if variant.endswith("simgcl"):
        expected["contrast"] = "cl_loss"
    assert set(expected) == set(losses)
    reference.check(model.base, losses, expected)
    for name, parameter in parameters_of(model).items():
        assert_close(parameter.grad, reference[f".grad.{name}"], f"gradient of {name}")
    for side, found in zip(("user", "item"), model.embed(), strict=True):
        assert_close(found, reference[f".{side}_out"], f"{side}s, without masks or dropout")
    assert_close(model.score(reference.all["score_users"]), reference[".scores"], "scores")


# -- pools of RLMRec-Con -------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_pool", ["all", "rows", "distinct"])
@pytest.mark.parametrize("item_pool", ["all", "rows", "distinct"])
def test_pools_of_texts(user_pool: str, item_pool: str) -> None:
    reference = Reference("rlmrec", "con_lightgcn")
    model = model_of(reference, user_pool=user_pool, item_pool=item_pool)
    batch = reference.batch
    step = model.base.step(batch)
    expected = 0.0
    for of, ids, table, pool in (
        ("users", batch.users, step.users, user_pool),
        ("items", batch.positives, step.items, item_pool),
        ("items", batch.negatives, step.items, item_pool),
    ):
        assert len(ids.unique()) < len(ids), "a row twice in the batch tells rows from distinct ones"
        texts = torch.from_numpy(reference[f".language_{of}"])
        projected = torch.nn.functional.normalize(model.projectors["both"](texts))
        own = torch.nn.functional.normalize(embedding(ids, table))
        rows = {"all": torch.arange(len(texts)), "rows": ids, "distinct": ids.unique()}[pool]
        cosine = own @ projected.T / model.config.language_temperature
        values = cosine[:, rows].logsumexp(1) - cosine[torch.arange(len(ids)), ids]
        expected = expected + values.mean()
    found = model.loss(batch)["language"] / model.config.language_weight
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


# -- bases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", ["learns_the_checkerboard", "repeats_bit_for_bit", "processes", "folds_in"])
@pytest.mark.parametrize("base", OTHER_BASES)
@pytest.mark.parametrize("align", CLASSES)
def test_other_bases_keep_the_contract(align: str, base: str, check: str) -> None:
    cls = CLASSES[align]
    testing.CHECKS[check](cls, cls.Config(base=base))


@pytest.mark.parametrize("base", OTHER_BASES)
def test_without_weight_it_is_the_base(base: str) -> None:
    data, features = testing.communities(2, 20)
    cls = model_class(base)
    alone = testing.train(cls, cls.Config(n_layers=2), data, features, 2)
    config = RLMRecCon.Config(base=base, base_options={"n_layers": 2}, language_weight=0.0)
    wrapped = testing.train(RLMRecCon, config, data, features, 2)
    users = np.arange(data.n_users)
    assert torch.equal(alone.score(users), wrapped.score(users))
    config = config.replace(language_weight=1.0)
    aligned = testing.train(RLMRecCon, config, data, features, 2)
    assert not torch.equal(alone.score(users), aligned.score(users))


def test_options_of_the_base_are_its_own() -> None:
    with pytest.raises(ConfigError, match=r"base_options of sgl: n_layer is not an option.*'n_layers'"):
        RLMRecCon.Config(base="sgl", base_options={"n_layer": 2})
    with pytest.raises(ConfigError, match="base_options of lightgcn: n_layers = 0"):
        RLMRecGen.Config(base_options={"n_layers": 0})
    with pytest.raises(ConfigError, match="noise"):
        RLMRecGen.Config(base_options={"noise": 0.1})
    with pytest.raises(ConfigError, match="base_options holds seed"):
        RLMRecGen.Config(base_options={"seed": 1})
    with pytest.raises(ConfigError, match="base"):
        RLMRecGen.Config(base="mf")
    assert [cls.Config().base_config().n_layers for cls in (RLMRecCon, RLMRecGen)] == [3, 2]
    assert RLMRecGen.Config(base_options={"n_layers": 4}).base_config().n_layers == 4
    config = RLMRecGen.Config(base="simgcl", base_options={"noise": 0.3}, seed=4)
    assert (config.base_config().noise, config.base_config().seed) == (0.3, 4)


def test_the_base_lightgcn_drops_other_entries_in_each_step() -> None:
    reference = Reference("rlmrec", "con_lightgcn")
    model = model_of(reference)
    batch = reference.batch
    keys = [torch.tensor(key) for key in (1, 1, 2)]
    values = [float(model.loss(batch._replace(key=key))["bpr"].detach()) for key in keys]
    assert values[0] == values[1] != values[2]


# -- masks of RLMRec-Gen -------------------------------------------------------------------------------------


def test_masks_follow_from_the_seed_of_the_batch_and_leave_no_trace() -> None:
    reference = Reference("rlmrec", "gen_lightgcn")
    model = model_of(reference)
    one, same, other = (model.draw(torch.tensor(key)) for key in (1, 1, 2))
    assert torch.equal(one, same)
    assert set(one.tolist()) != set(other.tolist())
    assert len(one.unique()) == len(one) == int(0.15 * 100)
    before = model.base.id_embeddings
    model.loss(reference.batch)
    assert all(a is b for a, b in zip(before, model.base.id_embeddings, strict=True))
    users, items = (table.detach() + 1 for table in before)
    with model.base.replaced_id_embeddings(users, items):
        assert model.base.id_embeddings[0] is users
        found, _ = model.base.embed()
    assert not torch.equal(found, model.base.embed()[0])
    assert model.base.id_embeddings[0] is before[0]


def test_at_least_one_node_is_masked() -> None:
    reference = Reference("rlmrec", "gen_lightgcn")
    cls = RLMRecGen
    model = cls.build(reference.data, text_of(reference), cls.Config(mask=1e-6))
    assert len(model.draw(torch.tensor(1))) == 1


# -- text vectors --------------------------------------------------------------------------------------------


def test_means_of_users() -> None:
    data = testing.dataset([(0, 0), (0, 1), (0, 2), (1, 2), (2, 3)], [], 4, 4, "means")
    rng = numpy_rng(0, "means")
    values = rng.normal(size=(4, 3)).astype(np.float32)
    values[3] = np.nan  # a missing row is never read
    means, has = user_means(data.train, torch.from_numpy(values), np.array([True, True, True, False]))
    assert has.tolist() == [True, True, False, False]
    assert np.allclose(means[0], values[:3].mean(0), atol=1e-6)
    assert np.allclose(means[1], values[2])
    assert not means[2:].any()


def test_projections_repeat_and_differ_by_side() -> None:
    data, features = testing.communities(2, 20)
    one, same = (RLMRecCon.build(data, features, RLMRecCon.Config()).projectors["both"] for _ in range(2))
    assert [tuple(p.shape) for p in one.parameters()] == [(24, 16), (24,), (32, 24), (32,)]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    inner = x @ one[0].weight.T + one[0].bias
    expected = torch.where(inner > 0, inner, 0.01 * inner) @ one[2].weight.T + one[2].bias
    assert torch.allclose(one(x), expected, atol=1e-6)
    other = RLMRecCon.build(data, features, RLMRecCon.Config(seed=1)).projectors["both"]
    assert not torch.equal(one[0].weight, other[0].weight)


def test_modalities_stand_side_by_side_and_profiles_replace_means() -> None:
    data, features = testing.communities(2, 20)
    model = RLMRecCon.build(data, features, RLMRecCon.Config())
    texts = model.texts["item"].values
    assert torch.equal(texts[:, :8], torch.from_numpy(features["image"].numpy()))
    assert torch.equal(texts[:, 8:], torch.from_numpy(features["text"].numpy()))
    mean = texts[torch.from_numpy(data.train.items_of(7).astype(np.int64))].mean(0)
    assert torch.allclose(model.texts["user"].values[7], mean, atol=1e-6)
    assert set(model.projectors) == {"both"}
    rng = numpy_rng(0, "profiles")
    profiles = rng.normal(size=(data.n_users, 5)).astype(np.float32)
    table = FeatureTable.from_array(profiles, data, "profile", entity="user")
    for cls in (RLMRecCon, RLMRecGen):
        model = cls.build(data, {**features, "profile": table}, cls.Config())
        assert torch.equal(model.texts["user"].values, torch.from_numpy(profiles))
        assert set(model.projectors) == {"user", "item"}, "one for each size"
        batch = next(iter(model.batches(EpochContext(1, 64, 0))))
        torch.stack(list(model.loss(batch).values())).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_texts_of_two_sizes_are_restored_in_two_pools() -> None:
    data, features = testing.communities(2, 20)
    vectors = numpy_rng(0, "profiles").normal(size=(data.n_users, 5)).astype(np.float32)
    profiles = FeatureTable.from_array(vectors, data, "profile", entity="user")
    model = RLMRecGen.build(data, {"text": features["text"], "profile": profiles}, RLMRecGen.Config())
    masked = torch.tensor([3, 70, 5, 44, 41])  # two users and three items
    step = model.base.step(next(iter(model.batches(EpochContext(1, 64, 0)))))
    expected = 0.0
    for of, table, ids in (("user", step.users, [3, 5]), ("item", step.items, [30, 4, 1])):
        restored = model.projectors[of](table[ids])
        targets = model.texts[of].values[ids]
        cosine = torch.cosine_similarity(restored[:, None], targets[None], dim=2)
        logits = cosine / model.config.language_temperature
        expected = expected + (logits.logsumexp(1) - logits.diagonal()).sum() / 5
    assert torch.allclose(model.restoration(masked, step), expected, rtol=1e-5)


@pytest.mark.parametrize("align", CLASSES)
def test_nodes_without_text_take_no_part(align: str) -> None:
    data, features = testing.communities(2, 20)
    present = np.zeros(data.n_items, bool)
    present[:10] = True
    table = FeatureTable.from_array(features["text"].numpy() * present[:, None], data, "text", present)
    cls = CLASSES[align]
    model = cls.build(data, {"text": table}, cls.Config(base_options={"dropout": 0.0, "reg_weight": 0.0}))
    assert model.texts["item"].values.shape == (10, 8)
    if align == "gen":
        drawn = {int(n) for key in range(50) for n in model.draw(torch.tensor(key))}
        assert drawn <= set(model.described.tolist())
        assert not drawn & set(range(data.n_users + 10, data.n_users + data.n_items))
        return
    table = torch.randn(data.n_items, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids = torch.tensor([3, 12, 5, 30, 3])
    found = model.alignment("item", ids, table, "rows")
    assert torch.equal(found, model.alignment("item", ids[ids < 10], table, "rows"))
    (gradient,) = torch.autograd.grad(found, table)
    assert gradient.any(1).nonzero().squeeze(1).tolist() == [3, 5]
    nothing = model.alignment("item", torch.tensor([12, 30]), table, "rows")
    assert float(nothing) == 0


def test_text_is_needed() -> None:
    data, features = testing.communities(2, 20)
    with pytest.raises(FeatureError, match="RLMRecCon needs features"):
        RLMRecCon.build(data, {}, RLMRecCon.Config())
    nobody = np.zeros(data.n_items, bool)
    empty = FeatureTable(np.zeros((data.n_items, 3), np.float32), nobody, {"field": "text"})
    with pytest.raises(FeatureError, match="nothing to align with"):
        RLMRecCon.build(data, {"text": empty}, RLMRecCon.Config())
    profiles = FeatureTable(
        np.zeros((data.n_users, 3), np.float32), nobody, {"field": "profile", "of": "user"}
    )
    with pytest.raises(FeatureError, match="no user has a vector"):
        RLMRecCon.build(data, {**features, "profile": profiles}, RLMRecCon.Config())
    with pytest.raises(FeatureError, match="expected a table of users"):
        RLMRecCon.build(data, {**features, "profile": features["text"]}, RLMRecCon.Config())

"""The contract suite over every registered model: registering a model is enough to be held to it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from graphrec import testing
from graphrec.cli.training import grows
from graphrec.core.errors import ConfigError
from graphrec.models import MODELS, model
from graphrec.models.base import Ranker
from graphrec.models.lightgcn import LightGCN
from graphrec.models.mf import MF
from graphrec.models.vbpr import VBPR
from graphrec.testing.repetition import sources_of_randomness


@pytest.mark.parametrize("check", testing.CHECKS)
@pytest.mark.parametrize("name", MODELS)
def test_contract(name: str, check: str) -> None:
    model_class = model(name)
    if not issubclass(model_class, Ranker) and check not in testing.FOR_ANY_MODEL:
        pytest.skip("a check for rankers, and this is none")
    testing.CHECKS[check](model_class, model_class.Config())


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'lightgcn'"):
        model("lightgnc")


class SwapsPositiveAndNegative(MF):
    def loss(self, batch):
        return super().loss(batch._replace(positives=batch.negatives, negatives=batch.positives))


class ForgetsAParameter(MF):
    def __init__(self, train, config):
        super().__init__(train, config)
        self.unused = torch.nn.Parameter(torch.ones(3))


class DrawsFromGlobalState(MF):
    def start_epoch(self, rng):
        with torch.no_grad():
            self.user_embedding.weight += 0.01 * torch.randn_like(self.user_embedding.weight)


class SkipsNormalization(LightGCN):
    def __init__(self, train, config):
        super().__init__(train, config)
        self.graph = self.graph.scaled(float("inf"))


class KeepsStateOutside(MF):
    """Depends on how many epochs this object has seen, which no checkpoint records."""

    epochs = 0

    def start_epoch(self, rng):
        self.epochs += 1
        with torch.no_grad():
            self.user_embedding.weight *= 1 + 0.1 * self.epochs


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (SwapsPositiveAndNegative, "learns_the_checkerboard"),
        (SwapsPositiveAndNegative, "beats_popularity"),
        (ForgetsAParameter, "every_parameter_learns"),
        (DrawsFromGlobalState, "repeats_bit_for_bit"),
        (KeepsStateOutside, "resume_equals_a_straight_run"),
        (SkipsNormalization, "every_parameter_learns"),
    ],
)
def test_the_contract_bites(broken: type[Ranker], check: str) -> None:
    with pytest.raises(AssertionError):
        testing.CHECKS[check](broken, broken.Config())


def test_check_model_names_what_fails() -> None:
    with pytest.raises(AssertionError, match=r"SwapsPositiveAndNegative fails 'learns_the_checkerboard'"):
        testing.check_model(SwapsPositiveAndNegative)


def entry(message: str, check: str) -> str:
    """The part of the error about one check, up to the next one."""
    (found,) = (part for part in message.split(" fails ")[1:] if f"'{check}'" in part.split(":")[0])
    return found


class HasThreeFaults(MF):
    """Layers from global generators, a parameter without use, and a division by zero for an empty user."""

    def __init__(self, train, config):
        super().__init__(train, config)
        self.scale = torch.nn.Linear(1, config.dim)
        self.register_buffer("noise", torch.from_numpy(np.random.normal(size=config.dim)).float())  # noqa: NPY002
        self.unused = torch.nn.Sequential(torch.nn.Linear(2, 2))
        degree = torch.from_numpy(train.user_degree.copy()).float()
        self.register_buffer("inverse_degree", 1 / degree)

    def loss(self, batch):
        terms = super().loss(batch)
        scale = self.scale.weight[:, 0] + self.scale.bias - self.noise
        return {**terms, "scale": 1e-3 * scale.pow(2).sum()}

    def embed(self):
        users, items = super().embed()
        return users * self.inverse_degree[:, None] * self.scale.weight.norm(), items


def test_check_model_reports_every_fault_with_its_hint() -> None:
    with pytest.raises(AssertionError) as caught:
        testing.check_model(HasThreeFaults)
    message = str(caught.value)
    drawn = entry(message, "builds_repeat")
    for name, module, source in [
        ("scale.weight", "scale, a Linear", "torch's"),
        ("scale.bias", "scale, a Linear", "torch's"),
        ("unused.0.weight", "unused.0, a Linear", "torch's"),
        ("noise", "the model itself, a HasThreeFaults", "NumPy's"),
    ]:
        assert f"{name} (of {module}), drawn from {source} global random generator" in drawn
    assert "user_embedding" not in drawn
    unused = entry(message, "every_parameter_learns")
    assert "unused.0.weight (of unused.0, a Linear) gets no gradient" in unused
    assert "unused.0.bias (of unused.0, a Linear) gets no gradient" in unused
    assert "scale.weight" not in unused
    for check in ("builds_repeat", "every_parameter_learns", "gaps"):
        assert f"hint: {testing.HINTS[check]}" in entry(message, check)
    following = entry(message, "repeats_bit_for_bit")
    assert "hint" not in following
    assert "builds_repeat" in following
    assert "Style:" not in message


def test_an_unrepeatable_training_names_the_generator() -> None:
    with pytest.raises(AssertionError) as caught:
        testing.CHECKS["repeats_bit_for_bit"](DrawsFromGlobalState, MF.Config())
    assert "user_embedding.weight" in str(caught.value)
    assert "torch's global random generator" in str(caught.value)
    assert "NumPy" not in str(caught.value)
    testing.CHECKS["builds_repeat"](DrawsFromGlobalState, MF.Config())


def test_looking_for_a_generator_leaves_its_state() -> None:
    state = torch.get_rng_state()
    expected = torch.rand(2)
    torch.set_rng_state(state)
    sources = sources_of_randomness(
        lambda: {"x": torch.rand(1), "y": torch.tensor(random.random())}, ["x", "y"]
    )
    assert torch.equal(torch.rand(2), expected)
    assert "torch" in sources["x"]
    assert "Python" in sources["y"]


class RaisesInEmbed(MF):
    def embed(self):
        raise LookupError("no such table")


def test_an_error_of_the_model_is_reported_once_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {n: testing.CHECKS[n] for n in ("builds_repeat", "capability", "batch_equals_single", "gaps")}
    monkeypatch.setattr(testing, "CHECKS", checks)
    with pytest.raises(AssertionError) as caught:
        testing.check_model(RaisesInEmbed)
    message = str(caught.value)
    assert "3 of 4 checks" in message
    assert message.count("LookupError: no such table") == 1
    line = RaisesInEmbed.embed.__code__.co_firstlineno + 1
    assert f"{__file__}:{line}, in embed" in entry(message, "gaps")
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [type(error) for error in caught.value.__cause__.exceptions] == [LookupError]


class Undocumented(MF):
    class Config(MF.Config):
        margin: float = 1.0


def test_rules_of_style_are_reported_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {n: testing.CHECKS[n] for n in ("options_have_docstrings", "config_is_strict", "builds_repeat")}
    monkeypatch.setattr(testing, "CHECKS", checks)
    with pytest.warns(UserWarning, match="margin") as warned:
        testing.check_model(Undocumented)
    assert "Style:" in str(warned[0].message)
    monkeypatch.setattr(Undocumented.Config, "__init__", lambda self, **_: None)
    with pytest.raises(AssertionError) as caught:
        testing.check_model(Undocumented, MF.Config())
    failures, style = str(caught.value).split("Style:")
    assert "1 of 3 checks" in failures
    assert "no_such_option" not in failures
    assert "config_is_strict" in failures
    assert "margin" in style
    assert "margin" not in failures


def test_every_check_has_a_hint() -> None:
    assert set(testing.HINTS) == set(testing.CHECKS)
    assert set(testing.CHECKS) > testing.STYLE
    assert set(testing.CHECKS) > testing.COMPARE_BUILDS


def test_the_command_says_of_each_model_how_it_grows(graphrec) -> None:
    printed = graphrec("models", "--scale").out
    for name in MODELS:
        line = next(line for line in printed.splitlines() if line.split()[:1] == [name])
        assert line.split()[1:] == [cell for cell in grows(model(name)) if cell]


class SaysItDivides(MF):
    """Takes the mean of its own rows for that of the batch."""

    def loss(self, batch):
        u, p, n = self.user_embedding(batch.users), *map(self.item_embedding, batch[1:])
        return {"bpr": -torch.nn.functional.logsigmoid((u * (p - n)).sum(1)).mean()}


class DividesAndSaysNothing(MF):
    data_parallel = None

    def loss(self, batch):
        return super().loss(batch)


class ForgetsWeightsOfTheSampled(LightGCN):
    def loss(self, batch):
        terms = super().loss(batch)
        return {**terms, "bpr": 0.9 * terms["bpr"]} if self.config.fanouts else terms


class KeepsACopy(VBPR):
    def __init__(self, train, tables, config):
        super().__init__(train, tables, config)
        self.register_buffer("copy", torch.from_numpy(tables["image"].numpy()), persistent=False)


class ReadsOtherRows(VBPR):
    def __init__(self, train, tables, config):
        super().__init__(train, tables, config)
        for features in self.features.values():
            if features.disk is not None:
                block = features.disk.block
                features.disk.block = lambda rows, block=block: block(rows) * 1.01


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (SaysItDivides, "processes"),
        (ForgetsWeightsOfTheSampled, "sampled_subgraphs"),
        (KeepsACopy, "features_on_disk"),
        (ReadsOtherRows, "features_on_disk"),
    ],
)
def test_what_a_model_wrongly_says_of_its_growth_is_seen(broken, check: str) -> None:
    with pytest.raises(AssertionError):
        testing.CHECKS[check](broken, broken.Config())


def test_a_model_that_does_not_say_it_divides_is_refused_in_two_processes() -> None:
    testing.CHECKS["processes"](DividesAndSaysNothing, MF.Config())

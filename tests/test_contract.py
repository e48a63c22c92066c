"""The contract suite over every registered model: registering a model is enough to be held to it."""

from __future__ import annotations

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

"""The contract suite over every registered model: registering a model is enough to be held to it."""

from __future__ import annotations

import pytest
import torch

from graphrec import testing
from graphrec.errors import ConfigError
from graphrec.model import Ranker
from graphrec.models import MODELS, model
from graphrec.models.lightgcn import LightGCN
from graphrec.models.mf import MF


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


class SkipsNormalisation(LightGCN):
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
        (SkipsNormalisation, "every_parameter_learns"),
    ],
)
def test_the_contract_bites(broken: type[Ranker], check: str) -> None:
    with pytest.raises(AssertionError):
        testing.CHECKS[check](broken, broken.Config())


def test_check_model_names_what_fails() -> None:
    with pytest.raises(AssertionError, match=r"SwapsPositiveAndNegative fails 'learns_the_checkerboard'"):
        testing.check_model(SwapsPositiveAndNegative)

"""The contract suite: checks that every model passes, for models of other packages, too.

    from graphrec.testing import check_model
    check_model(MyModel)                       # or check_model(MyModel, MyModel.Config(dim=16))

Each check is a function ``check_*(model_class, config)`` that raises ``AssertionError`` with what is wrong.
The tests of this project run all of them over every registered model. A model that is not a ranker has to
pass the checks of training only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphrec.models.base import Model, ModelConfig, Ranker
from graphrec.testing import contract, scale
from graphrec.testing.contract import SCORE_TOLERANCE, train
from graphrec.testing.datasets import (
    checkerboard,
    communities,
    conversations,
    dataset,
    features_of,
    fixtures,
    select_features,
)

__all__ = [
    "CHECKS",
    "FOR_ANY_MODEL",
    "SCORE_TOLERANCE",
    "check_model",
    "checkerboard",
    "communities",
    "conversations",
    "dataset",
    "features_of",
    "fixtures",
    "select_features",
    "train",
]  # fmt: skip

CHECKS: dict[str, Callable[[Any, Any], None]] = {
    name.removeprefix("check_"): check
    for name, check in [*vars(contract).items(), *vars(scale).items()]
    if name.startswith("check_") and callable(check)
}
"""Name -> check, a function of a model class and a config."""

FOR_ANY_MODEL = {
    "repeats_bit_for_bit", "resume_equals_a_straight_run", "saves_and_loads", "every_parameter_learns",
    "features_stay_frozen", "config_is_strict", "processes", "sampled_subgraphs", "features_on_disk",
}  # fmt: skip
"""Names of the checks that models which are not rankers have to pass, too."""


def check_model(model_class: type[Model], config: ModelConfig | None = None) -> None:
    """Runs every check that applies to a model.

    Args:
        model_class: a subclass of :class:`graphrec.Model`.
        config: options to check with; default: the model's defaults.

    Raises:
        AssertionError: names the first check that fails and the reason.
    """
    for name, check in CHECKS.items():
        if issubclass(model_class, Ranker) or name in FOR_ANY_MODEL:
            try:
                check(model_class, config or model_class.Config())
            except AssertionError as error:
                raise AssertionError(f"{model_class.__name__} fails {name!r}: {error}") from error

"""The contract every model keeps, as functions anybody can run on a model of their own.

    from graphrec.testing import check_model
    check_model(MyModel)                       # or check_model(MyModel, MyModel.Config(dim=16))

Each check is one function ``check_*(model_class, config)`` that raises ``AssertionError`` saying what is
wrong. The project's own tests run all of them over every registered model. Models that are no rankers are
held to the checks of training alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphrec.models.base import Model, ModelConfig, Ranker
from graphrec.testing import contract, scale
from graphrec.testing.contract import SCORE_TOLERANCE, train
from graphrec.testing.fixtures import (
    checkerboard,
    chosen,
    communities,
    conversations,
    dataset,
    features_of,
    material,
)

__all__ = [
    "CHECKS", "FOR_ANY_MODEL", "SCORE_TOLERANCE", "check_model", "checkerboard", "chosen", "communities",
    "conversations", "dataset", "features_of", "material", "train",
]  # fmt: skip

CHECKS: dict[str, Callable[[Any, Any], None]] = {
    name.removeprefix("check_"): check
    for name, check in [*vars(contract).items(), *vars(scale).items()]
    if name.startswith("check_") and callable(check)
}
"""Name -> check; all of them take a model class and a config."""

FOR_ANY_MODEL = {
    "repeats_bit_for_bit", "resume_equals_a_straight_run", "saves_and_loads", "every_parameter_learns",
    "features_stay_frozen", "config_is_strict", "processes", "sampled_subgraphs", "features_on_disk",
}  # fmt: skip


def check_model(model_class: type[Model], config: ModelConfig | None = None) -> None:
    """Runs every check that applies to the model; raises at the first that fails, naming it.

    Args:
        model_class: a subclass of :class:`graphrec.Model`.
        config: options to check with; default: the model's defaults.
    """
    for name, check in CHECKS.items():
        if issubclass(model_class, Ranker) or name in FOR_ANY_MODEL:
            try:
                check(model_class, config or model_class.Config())
            except AssertionError as error:
                raise AssertionError(f"{model_class.__name__} fails {name!r}: {error}") from error

"""The contract suite: checks that every model passes, for models of other packages, too.

    from graphrec.testing import check_model
    check_model(MyModel)                       # or check_model(MyModel, MyModel.Config(dim=16))

Each check is a function ``check_*(model_class, config)`` that raises ``AssertionError`` with what is wrong;
:func:`check_model` runs all that apply and reports every failure with a hint. The tests of this project run
all of them over every registered model. A model that is not a ranker has to pass the checks of training only.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from graphrec.models.base import Model, ModelConfig, Ranker
from graphrec.testing import contract, leaks, repetition, scale
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
    "STYLE",
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
    for module in (repetition, leaks, contract, scale)
    for name, check in vars(module).items()
    if name.startswith("check_") and callable(check)
}
"""Name -> check, a function of a model class and a config."""

FOR_ANY_MODEL = {
    "builds_repeat", "options_have_docstrings",
    "repeats_bit_for_bit", "resume_equals_a_straight_run", "saves_and_loads", "every_parameter_learns",
    "features_stay_frozen", "config_is_strict", "processes", "sampled_subgraphs", "features_on_disk",
    "learns_from_train_alone",
}  # fmt: skip
"""Names of the checks that models which are not rankers have to pass, too."""


FOLDER = Path(__file__).parent

STYLE = {"options_have_docstrings"}
"""Names of the checks of style, which :func:`check_model` reports apart."""

COMPARE_BUILDS = {
    "repeats_bit_for_bit", "resume_equals_a_straight_run", "processes", "sampled_subgraphs",
    "features_on_disk", "missing_content_is_not_read",
}  # fmt: skip
"""Names of the checks that compare models built one after the other, and fail if builds do not repeat."""

HINTS = {
    "builds_repeat": "draw initial values with a generator of the seed, for example "
    "torch.nn.init.normal_(layer.weight, generator=self.rng('layer')); torch.nn.Linear, Embedding and other "
    "layers draw theirs from the global generator, so initialize them again, biases included",
    "learns_from_train_alone": "read data.train only, in build() and wherever the dataset is kept; a model "
    "that learns from validation pairs says so with reads_valid = True, and none reads data.test",
    "learns_the_checkerboard": "the loss should score positives above negatives; look for a wrong sign, "
    "exchanged positives and negatives, and an embed() that returns what the loss does not train",
    "beats_popularity": "the loss should score positives above negatives; look for a wrong sign, and for "
    "scores that are the same for all users",
    "repeats_bit_for_bit": "draw only from the generators that start_epoch(rng) and batches(plan) are given, "
    "or from self.rng(purpose); torch.nn.Dropout draws from the global generator",
    "resume_equals_a_straight_run": "keep what changes during training in parameters or registered buffers, "
    "and what is redrawn each epoch a function of start_epoch's rng or of plan.epoch",
    "saves_and_loads": "keep what scores depend on in parameters or registered buffers, "
    "or compute it in build() from the training split",
    "batch_equals_single": "the scores of a user should not depend on the other users of a batch; "
    "look for batch normalization and for means or softmax over the batch",
    "capability": "compare the class attribute capability with graphrec.models.capabilities",
    "folds_in": "state in fold_in() how a list of items becomes a user's vector; the default, least squares "
    "on the item embeddings, suits models whose scores are inner products of learned embeddings",
    "every_parameter_learns": "use the parameter in loss(), remove it, or set requires_grad=False; "
    "look for .detach(), .data, torch.no_grad() and values that are always multiplied by zero",
    "gaps": "look for divisions by a degree or a norm of zero; clamp them",
    "missing_content_is_not_read": "fill or mask the rows where FeatureTable.present is False",
    "features_stay_frozen": "copy the values before changing them in place",
    "config_is_strict": "derive Config from graphrec.models.base.ModelConfig and leave its model_config",
    "options_have_docstrings": "write a string below each field of Config",
    "processes": "set data_parallel to None, or take means over the whole batch as graphrec.models.losses do",
    "sampled_subgraphs": "weight the terms of the loss as without fanouts, or leave the option out",
    "features_on_disk": "read features by rows of a batch, or leave the option out",
}
"""Name of a check -> what to do where it fails."""


def check_model(model_class: type[Model], config: ModelConfig | None = None) -> None:
    """Runs every check that applies to a model, all of them even if some fail.

    Args:
        model_class: a subclass of :class:`graphrec.Model`.
        config: options to check with; default: the model's defaults.

    Raises:
        AssertionError: names every check that fails, with the reason and a hint; rules of style come last.
            Its cause holds the tracebacks of errors that the model itself raised.

    Warns:
        UserWarning: only rules of style are broken.
    """
    config = config or model_class.Config()
    names = [n for n in CHECKS if issubclass(model_class, Ranker) or n in FOR_ANY_MODEL]
    failures: dict[str, str] = {}
    raised: dict[str, Exception] = {}
    for name in names:
        try:
            CHECKS[name](model_class, config)
        except Exception as error:  # the other checks are to run as well
            frames = traceback.extract_tb(error.__traceback__)
            if isinstance(error, AssertionError) and Path(frames[-1].filename).parent == FOLDER:
                failures[name] = f"{error}\n    hint: {HINTS[name]}"
            else:
                failures[name] = (
                    f"{type(error).__name__}: {error}\n    raised at {_place(model_class, frames)}"
                )
                raised[name] = error
    if not failures:
        return
    broken = [name for name in failures if name not in STYLE]
    following = [n for n in broken if n in COMPARE_BUILDS and "builds_repeat" in failures]
    lines = []
    if broken:
        lines.append(f"{model_class.__name__}: {len(broken)} of {len(names)} checks fail")
        lines += _describe(model_class, {n: failures[n] for n in broken if n not in following})
    if following:
        text = "these compare builds with each other; mend 'builds_repeat' first"
        lines.append(f"{model_class.__name__} fails {_quoted(following)}: {text}")
    if style := {n: text for n, text in failures.items() if n in STYLE}:
        lines.append("Style:")
        lines += _describe(model_class, style)
    if not broken:
        warnings.warn("\n".join(lines), stacklevel=2)
        return
    causes = {failures[name]: error for name, error in raised.items()}
    group = ExceptionGroup(f"raised in {model_class.__name__}", list(causes.values())) if causes else None
    raise AssertionError("\n".join(lines)) from group


def _describe(model_class: type[Model], failures: dict[str, str]) -> list[str]:
    """One entry for each message; checks that fail with the same one share it."""
    checks: dict[str, list[str]] = {}
    for name, message in failures.items():
        checks.setdefault(message, []).append(name)
    return [f"{model_class.__name__} fails {_quoted(names)}: {text}" for text, names in checks.items()]


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _place(model_class: type[Model], frames: traceback.StackSummary) -> str:
    """File, line and function where an error was raised: the innermost of the model's own files, if any."""
    files = set()
    for base in model_class.__mro__:
        if issubclass(base, Model) and base not in (Model, Ranker):
            functions = (getattr(value, "__func__", value) for value in vars(base).values())
            files |= {f.__code__.co_filename for f in functions if isinstance(f, FunctionType)}
    frame = next((f for f in reversed(frames) if f.filename in files), frames[-1])
    return f"{frame.filename}:{frame.lineno}, in {frame.name}"

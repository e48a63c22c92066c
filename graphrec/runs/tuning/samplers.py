"""Suggests the options of the next trial from the study's seed, the trial's number and the trials before it.

The samplers are Optuna's: random draws, or the tree-structured Parzen estimator (Bergstra et al., "Algorithms
for Hyper-Parameter Optimization", NeurIPS 2011,
https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization). Optuna stores no random state
of a sampler, so each suggestion comes from a new sampler, seeded by the study's seed and the trial's number:
a study that was interrupted goes on with the options it would have tried anyway.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from typing import Any, NamedTuple

from graphrec.core.errors import missing_dependency
from graphrec.core.random import derive_seed
from graphrec.models.search_space import Choice, Integers, Space, Uniform

SAMPLERS = ("tpe", "random", "coordinate")
STARTUP = 5
"""Trials, the defaults among them, before the first that takes into account what the others reached."""
STEPS = 5
"""Values of a range that ``"coordinate"`` tries, both ends among them."""
DIGITS = 4
"""Significant digits of a real number, so that an option can be read and typed."""
EXACT = 17
"""Significant digits when rounded numbers have all been tried."""
TRIES = 10
"""Suggestions that may repeat an earlier trial; from then on options are drawn at random, later unrounded."""


class CompletedTrial(NamedTuple):
    """A finished or failed trial.

    Attributes:
        options: value by option of the space.
        value: its best validation metric, or None where training failed.
    """

    options: Mapping[str, Any]
    value: float | None


def points(space: Space) -> float:
    """How many different combinations a space has; 1 for an empty one, infinite with real numbers in it."""
    sizes = (
        len(kind.values) if isinstance(kind, Choice)
        else kind.high - kind.low + 1 if isinstance(kind, Integers)
        else math.inf
        for kind in space.values()
    )  # fmt: skip
    return math.prod(sizes)


def most_trials(space: Space, defaults: Mapping[str, Any], sampler: str) -> float:
    """After how many trials, the defaults among them, no combination is left to try; at most.

    Args:
        space: what is searched.
        defaults: what the first trial takes; they need not lie in the space.
        sampler: see :func:`suggest`.
    """
    if inside(space, defaults):
        return points(space)
    # One option at a time, combinations with defaults outside the space are tried as well.
    return math.inf if sampler == "coordinate" else points(space) + 1


def inside(space: Space, options: Mapping[str, Any]) -> bool:
    """Whether a space contains this combination; the defaults of a model need not lie in its space."""
    return all(_contains(kind, options[name]) for name, kind in space.items())


def described(space: Space) -> dict[str, dict[str, Any]]:
    """A space as JSON-able values, which are equal where the spaces are."""
    kinds = {name: {"kind": type(kind).__name__, **asdict(kind)} for name, kind in space.items()}
    return dict(json.loads(json.dumps(kinds)))


def suggest(
    space: Space, tried: Sequence[CompletedTrial], *, seed: int, number: int, sampler: str = "tpe"
) -> dict[str, Any] | None:
    """Options for the next trial, different from those of all others; None if ``"coordinate"`` has no more.

    Args:
        space: with a point that was not tried yet.
        tried: all trials before this one, in their order.
        seed: of the study.
        number: of the trial.
        sampler: ``"tpe"``, which draws at random before trial ``STARTUP``; ``"random"``; or ``"coordinate"``,
            which changes one option of the best trial at a time, the last option of the space first, goes
            on with the second best where all these are tried, and so on, and needs no seed. A failed trial
            counts as the worst of all.

    Raises:
        MissingDependencyError: optuna is not installed.
    """
    optuna = require_optuna()
    known = {_key(trial.options) for trial in tried}
    if sampler == "coordinate":
        return next((o for o in _single_changes(space, tried) if _key(o) not in known), None)
    worst = min((trial.value for trial in tried if trial.value is not None), default=0.0)
    with quiet():
        study = optuna.create_study(direction="maximize")
        for trial in tried:
            if inside(space, trial.options):
                value = worst if trial.value is None else trial.value
                study.add_trial(optuna_trial(space, trial.options, value))
        # The loop ends because a point is left and real numbers are not rounded after some attempts.
        for attempt in count():
            if sampler == "tpe" and number >= STARTUP and attempt < TRIES:
                own_seed = derive_seed(seed, f"tune/tpe/{attempt}", number) % 2**32
                study.sampler = optuna.samplers.TPESampler(
                    n_startup_trials=1, multivariate=True, seed=own_seed
                )
            else:
                study.sampler = optuna.samplers.RandomSampler(
                    derive_seed(seed, f"tune/random/{attempt}", number) % 2**32
                )
            params = study.ask(_distributions(space)).params
            digits = DIGITS if attempt < 2 * TRIES else EXACT
            options = {name: _value(space[name], params[name], digits) for name in sorted(space)}
            if _key(options) not in known:
                break
    return options


def _single_changes(space: Space, tried: Sequence[CompletedTrial]) -> Iterator[dict[str, Any]]:
    """The options of the best trial with one of them changed, the last of the space first; then of the
    others, the better ones first.
    """
    best_first = sorted(tried, key=lambda trial: math.inf if trial.value is None else -trial.value)
    for trial in best_first:
        for name, kind in reversed(list(space.items())):
            for value in _values(kind):
                yield {key: value if key == name else trial.options[key] for key in sorted(space)}


def _values(kind: Choice | Uniform | Integers) -> list[Any]:
    """All choices, or values of a range at equal distances."""
    if isinstance(kind, Choice):
        return list(kind.values)
    low, high = (math.log(v) if kind.log else v for v in (kind.low, kind.high))
    points = [low + (high - low) * step / (STEPS - 1) for step in range(STEPS)]
    points = [math.exp(point) if kind.log else point for point in points]
    if isinstance(kind, Integers):
        return list(dict.fromkeys(round(point) for point in points))
    return [_value(kind, point, DIGITS) for point in points]


def optuna_trial(
    space: Space, options: Mapping[str, Any], value: float | None, attributes: Mapping[str, Any] | None = None
) -> Any:
    """A finished trial, or a failed one without a value, as Optuna stores it.

    Options outside the space are not stored as parameters; ``attributes`` are JSON-able.
    """
    optuna = require_optuna()
    searched = space if inside(space, options) else {}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE,
        value=value,
        params={
            name: _text(kind, options[name]) if isinstance(kind, Choice) else options[name]
            for name, kind in searched.items()
        },
        distributions=_distributions(searched),
        user_attrs=dict(attributes or {}),
    )


def require_optuna() -> Any:
    """The module ``optuna``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import optuna
    except ImportError as cause:
        raise missing_dependency("optuna", "tune") from cause
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its log of every study and trial, and without warnings of what is experimental in it."""
    optuna = require_optuna()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distributions(space: Space) -> dict[str, Any]:
    """A space as Optuna describes it; choices as JSON texts, since Optuna does not tell true from 1."""
    known = require_optuna().distributions
    return {
        name: known.CategoricalDistribution([json.dumps(value) for value in kind.values])
        if isinstance(kind, Choice)
        else (known.IntDistribution if isinstance(kind, Integers) else known.FloatDistribution)(
            kind.low, kind.high, log=kind.log
        )
        for name, kind in sorted(space.items())
    }


def _value(kind: Choice | Uniform | Integers, param: Any, digits: int) -> Any:
    """An option's value from Optuna's parameter."""
    if isinstance(kind, Choice):
        return kind.values[[json.dumps(value) for value in kind.values].index(param)]
    if isinstance(kind, Integers):
        return int(param)
    return min(max(float(f"{param:.{digits}g}"), kind.low), kind.high)


def _text(kind: Choice, value: Any) -> str | None:
    """The JSON text of a value among the choices, which may be written otherwise there (1.0 for 1)."""
    same = (
        json.dumps(choice) for choice in kind.values
        if isinstance(choice, bool) == isinstance(value, bool) and json.loads(json.dumps(choice)) == value
    )  # fmt: skip
    return next(same, None)


def _contains(kind: Choice | Uniform | Integers, value: Any) -> bool:
    if isinstance(kind, Choice):
        return _text(kind, value) is not None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return kind.low <= value <= kind.high and (float(value).is_integer() or isinstance(kind, Uniform))


def _key(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)

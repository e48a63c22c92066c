"""Which options a study tries next: a function of its seed, the trial's number and the trials before it.

Nothing else is kept between two suggestions. A study that was interrupted therefore goes on with the options
it would have tried anyway. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011,
https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization, as Optuna implements it.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from graphrec.core.errors import MissingDependencyError, missing_dependency
from graphrec.core.random import derive_seed, numpy_rng
from graphrec.models.search_space import Choice, Integers, Space, Uniform

SAMPLERS = ("tpe", "random")
STARTUP = 5
"""Trials, the defaults among them, before the first that looks at what the others reached."""
DIGITS = 4
"""Significant digits of a real number, so that an option can be read and typed."""
EXACT = 17
TRIES = 10  # suggestions that may repeat an earlier trial; then what was not tried yet is drawn at random


class CompletedTrial(NamedTuple):
    """A trial that is over.

    Attributes:
        options: value by option of the space.
        value: what it reached, or None where training failed.
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


def inside(space: Space, options: Mapping[str, Any]) -> bool:
    """Whether a space holds this combination; the defaults of a model need not lie in its space."""
    return all(_holds(kind, options[name]) for name, kind in space.items())


def described(space: Space) -> dict[str, dict[str, Any]]:
    """A space as JSON-able values, which are equal where the spaces are."""
    kinds = {name: {"kind": type(kind).__name__, **asdict(kind)} for name, kind in space.items()}
    return dict(json.loads(json.dumps(kinds)))


def suggest(
    space: Space, tried: Sequence[CompletedTrial], *, seed: int, number: int, sampler: str = "tpe"
) -> dict[str, Any]:
    """Options for the next trial, different from those of all others.

    Args:
        space: with a point that was not tried yet.
        tried: all trials before this one, in their order.
        seed: of the study.
        number: of the trial.
        sampler: ``"tpe"``, which draws at random before trial ``STARTUP``, or ``"random"``. A failed trial
            counts as the worst of all.

    Raises:
        MissingDependencyError: ``"tpe"`` without optuna.
    """
    known = {_key(one.options) for one in tried}
    if sampler == "tpe" and number >= STARTUP:
        told = _told(space, tried)
        for attempt in range(TRIES):
            found = _estimated(space, told, derive_seed(seed, f"tune/tpe/{attempt}", number) % 2**32)
            if _key(found) not in known:
                return found
    rng = numpy_rng(seed, "tune/random", number)
    # This ends: there is a point left, and real numbers are drawn exactly after some tries.
    for attempt in count():
        digits = DIGITS if attempt < TRIES else EXACT
        found = {name: _drawn(space[name], rng, digits) for name in sorted(space)}
        if _key(found) not in known:
            break
    return found


def optuna_version() -> str:
    """The version that suggests.

    Raises:
        MissingDependencyError: there is none.
    """
    return str(_optuna().__version__)


def _key(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


def _holds(kind: Choice | Uniform | Integers, value: Any) -> bool:
    if isinstance(kind, Choice):
        return _index(kind, value) is not None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = number and float(value).is_integer()
    return number and kind.low <= value <= kind.high and (whole or isinstance(kind, Uniform))


def _index(kind: Choice, value: Any) -> int | None:
    """Where a value stands among the choices; true is not 1."""
    same = (
        i for i, one in enumerate(kind.values)
        if isinstance(one, bool) == isinstance(value, bool) and json.loads(json.dumps(one)) == value
    )  # fmt: skip
    return next(same, None)


def _drawn(kind: Choice | Uniform | Integers, rng: np.random.Generator, digits: int) -> Any:
    if isinstance(kind, Choice):
        return kind.values[int(rng.integers(len(kind.values)))]
    if isinstance(kind, Integers) and not kind.log:
        return int(rng.integers(kind.low, kind.high + 1))
    # Half a unit at both ends, so that the least and the greatest whole number get their share.
    margin = 0.5 if isinstance(kind, Integers) else 0.0
    low, high = kind.low - margin, kind.high + margin
    if kind.log:
        return _within(kind, math.exp(rng.uniform(math.log(low), math.log(high))), digits)
    return _within(kind, float(rng.uniform(low, high)), digits)


def _within(kind: Uniform | Integers, value: float, digits: int = DIGITS) -> float | int:
    if isinstance(kind, Integers):
        return min(max(round(value), kind.low), kind.high)
    return min(max(float(f"{value:.{digits}g}"), kind.low), kind.high)


def _told(space: Space, tried: Sequence[CompletedTrial]) -> list[tuple[dict[str, Any], float]]:
    """What the estimator learns from: parameters, as it knows them, and values."""
    worst = min((one.value for one in tried if one.value is not None), default=0.0)
    told = []
    for one in tried:
        if inside(space, one.options):
            params = {
                name: _index(kind, one.options[name]) if isinstance(kind, Choice) else one.options[name]
                for name, kind in space.items()
            }
            told.append((params, worst if one.value is None else one.value))
    return told


def _estimated(space: Space, told: Sequence[tuple[dict[str, Any], float]], seed: int) -> dict[str, Any]:
    """What the tree-structured Parzen estimator suggests after some trials."""
    optuna = _optuna()
    of = optuna.distributions
    distributions: dict[str, Any] = {
        # By position: Optuna tells neither true from 1 nor takes lists.
        name: of.CategoricalDistribution(tuple(range(len(kind.values)))) if isinstance(kind, Choice)
        else of.IntDistribution(kind.low, kind.high, log=kind.log) if isinstance(kind, Integers)
        else of.FloatDistribution(kind.low, kind.high, log=kind.log)
        for name, kind in sorted(space.items())
    }  # fmt: skip
    spoken = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate, before 5.0
            sampler = optuna.samplers.TPESampler(n_startup_trials=1, multivariate=True, seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for params, value in told:
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, value=value)
            )
        params = study.ask(distributions).params
    finally:
        optuna.logging.set_verbosity(spoken)
    return {
        name: kind.values[params[name]] if isinstance(kind, Choice) else _within(kind, params[name])
        for name, kind in sorted(space.items())
    }


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as cause:
        raise MissingDependencyError(
            f"{missing_dependency('optuna', 'tune')}; or choose the sampler that does without: sampler='random', "
            "--sampler random"
        ) from cause
    return optuna

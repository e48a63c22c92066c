"""What a study tries next: in the space, never twice, repeatable, and better than chance."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from graphrec.models.search_space import Choice, Integers, Space, Uniform
from graphrec.runs.tuning import samplers
from graphrec.runs.tuning.samplers import CompletedTrial, suggest

DRAWING = ("tpe", "random")
MIXED: Space = {
    "layers": Integers(1, 64, log=True),
    "rate": Uniform(1e-4, 1e-1, log=True),
    "share": Uniform(0, 1),
    "kind": Choice(True, 1, None, "a", [1, 2]),
}


@pytest.mark.parametrize("sampler", DRAWING)
def test_suggestions_lie_in_the_space_and_never_repeat(sampler: str) -> None:
    tried: list[CompletedTrial] = []
    for number in range(12):
        options = suggest(MIXED, tried, seed=0, number=number, sampler=sampler)
        assert samplers.inside(MIXED, options)
        assert len(f"{options['rate']:.15g}".replace("0", "").replace(".", "").split("e")[0]) <= 4, "readable"
        tried.append(CompletedTrial(options, 0.1 * number))
    assert len({json.dumps(t.options, sort_keys=True) for t in tried}) == 12


@pytest.mark.parametrize(
    ("kind", "within", "without"),
    [
        (Choice(1, 0.5), (1, 1.0, 0.5), (True, 2, None, "1")),
        (Choice(True, [1, 2], None), (True, [1, 2], None), (1, False, [1])),
        (Integers(1, 3), (1, 3, 2.0), (0, 4, 2.5, True, None)),
        (Uniform(0, 1), (0, 0.3, 1.0), (-0.1, 1.1, False, "0.3")),
    ],
)
def test_defaults_lie_in_a_space_or_not(kind: Any, within: tuple[Any, ...], without: tuple[Any, ...]) -> None:
    assert all(samplers.inside({"x": kind}, {"x": value}) for value in within)
    assert not any(samplers.inside({"x": kind}, {"x": value}) for value in without)


@pytest.mark.parametrize("sampler", DRAWING)
def test_a_small_space_is_tried_in_full(sampler: str) -> None:
    space: Space = {"a": Choice(1, True, [1]), "b": Integers(1, 3), "c": Integers(2, 3, log=True)}
    tried: list[CompletedTrial] = []
    assert samplers.points(space) == 18
    for number in range(18):
        # Always the same value: an estimator of its own accord would stay where it is.
        tried.append(CompletedTrial(suggest(space, tried, seed=1, number=number, sampler=sampler), 0.5))
    assert len({json.dumps(t.options, sort_keys=True) for t in tried}) == 18


def test_a_suggestion_follows_from_seed_number_and_the_trials_before() -> None:
    tried = [CompletedTrial(suggest(MIXED, [], seed=9, number=n), n / 10) for n in range(7)]
    backwards = dict(reversed(MIXED.items()))
    for number in (2, 7):
        before = tried[:number]
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        one = suggest(MIXED, before, seed=0, number=number)
        assert one == suggest(backwards, before, seed=0, number=number)
        assert one != suggest(MIXED, before, seed=1, number=number)
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        assert after == states, "global random state is left alone"
    worse = [*tried[:6], CompletedTrial(tried[6].options, -1.0)]
    assert suggest(MIXED, worse, seed=0, number=7) != suggest(MIXED, tried, seed=0, number=7)


def test_the_estimator_goes_where_it_was_better_and_away_from_what_failed() -> None:
    space: Space = {"x": Uniform(0, 1), "broken": Choice(False, True)}
    found: dict[str, list[dict[str, Any]]] = {}
    for sampler in DRAWING:
        for seed in range(3):
            tried: list[CompletedTrial] = []
            for number in range(30):
                options = suggest(space, tried, seed=seed, number=number, sampler=sampler)
                tried.append(
                    CompletedTrial(options, None if options["broken"] else 1 - abs(options["x"] - 0.2))
                )
            found.setdefault(sampler, []).extend(t.options for t in tried[10:])
    distance = {s: np.mean([abs(o["x"] - 0.2) for o in found[s]]) for s in found}
    broken = {s: np.mean([o["broken"] for o in found[s]]) for s in found}
    assert distance["tpe"] < 0.6 * distance["random"]
    assert broken["tpe"] < 0.6 * broken["random"]


def test_a_narrow_interval_does_not_run_out_of_numbers() -> None:
    space: Space = {"x": Uniform(0.5, 0.5000001)}
    tried: list[CompletedTrial] = []
    for number in range(5):
        tried.append(CompletedTrial(suggest(space, tried, seed=0, number=number, sampler="random"), 0.0))
    assert len({t.options["x"] for t in tried}) == 5


def reached(
    space: Space, start: dict[str, Any], value: Callable[[dict[str, Any]], float | None]
) -> list[Any]:
    """All trials of a study that changes one option at a time."""
    tried = [CompletedTrial(start, value(start))]
    while (options := suggest(space, tried, seed=0, number=len(tried), sampler="coordinate")) is not None:
        tried.append(CompletedTrial(options, value(options)))
    return tried


def test_coordinates_change_one_option_of_the_best_trial_the_last_of_the_space_first() -> None:
    space: Space = {"slow": Choice(1, 2, 3), "quick": Uniform(0, 1)}
    tried = reached(space, {"slow": 1, "quick": 0.3}, lambda o: o["slow"] - abs(o["quick"] - 0.75))
    assert [(t.options["slow"], t.options["quick"]) for t in tried] == [
        (1, 0.3), (1, 0.0), (1, 0.25), (1, 0.5), (1, 0.75), (1, 1.0), (2, 0.75),
        (2, 0.0), (2, 0.25), (2, 0.5), (2, 1.0), (3, 0.75), (3, 0.0), (3, 0.25), (3, 0.5), (3, 1.0),
        (2, 0.3), (3, 0.3),  # around the start, which is not one of the five values
    ]  # fmt: skip


def test_coordinates_find_the_best_of_options_that_matter_each_by_itself() -> None:
    space: Space = {
        "x": Choice(1, 2, 3, 4), "n": Integers(1, 64, log=True), "rate": Uniform(1e-4, 1.0, log=True)
    }  # fmt: skip

    def value(options: dict[str, Any]) -> float | None:
        if options["n"] > 30:
            return None  # a failed trial
        return -abs(options["x"] - 3) - abs(options["n"] - 8) - abs(options["rate"] - 0.01)

    tried = reached(space, {"x": 1, "n": 1, "rate": 1.0}, value)
    number, best = max(
        ((n, t) for n, t in enumerate(tried) if t.value is not None), key=lambda found: found[1].value
    )
    assert best.options == {"x": 3, "n": 8, "rate": 0.01}
    assert number < 4 * 5 * 5 / 3, "long before all combinations"
    assert len({json.dumps(t.options, sort_keys=True) for t in tried}) == len(tried)


def test_coordinates_go_on_from_the_second_best_where_no_single_change_is_better() -> None:
    space: Space = {"a": Choice(0, 1, 2), "b": Choice(0, 1, 2)}
    values = {(0, 0): 0.5, (1, 0): 0.4, (2, 0): 0.2, (0, 1): 0.3, (0, 2): 0.1, (1, 1): 0.3, (1, 2): 0.9}
    tried = reached(space, {"a": 0, "b": 0}, lambda o: values.get((o["a"], o["b"])))
    assert [(t.options["a"], t.options["b"]) for t in tried] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (2, 0),  # around the first, which is the best of them
        (1, 1), (1, 2),  # around (1, 0), the second best, up to the best of all
        (2, 2), (2, 1),  # around that one; then nothing is left
    ]  # fmt: skip

"""Checks that a model depends on its seed alone; names the random generator that another one draws from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from graphrec.models.base import Model, ModelConfig
from graphrec.testing.datasets import fixtures, select_features

Tensors = dict[str, torch.Tensor]

UNEXPLAINED = "no global random generator, so from memory that is not initialized or an order that varies"


def check_builds_repeat(model_class: type[Model], config: ModelConfig) -> None:
    """Two builds with the same seed agree in every parameter and buffer."""
    with fixtures(model_class, config) as (data, features, config):
        tables = select_features(model_class, features)
        model = model_class.build(data, tables, config)

        def build() -> Tensors:
            return _tensors(model_class.build(data, tables, config))

        differing = differing_names(_tensors(model), build())
        if not differing:
            return
        sources = sources_of_randomness(build, differing)
    raise AssertionError(
        "two builds with the same seed differ in "
        + "; ".join(f"{owner(model, name)}, drawn from {sources[name]}" for name in differing)
    )


def _tensors(model: Model) -> Tensors:
    """Copies of all parameters and dense buffers, those that are not saved included."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach().clone() for name, t in named if t.layout == torch.strided}


def differing_names(one: Tensors, other: Tensors) -> list[str]:
    """Names of tensors that differ in a bit or are in one of the two only."""
    return [
        name
        for name in dict.fromkeys([*one, *other])
        if name not in one or name not in other or not torch.equal(one[name], other[name])
    ]


def sources_of_randomness(make: Callable[[], Tensors], names: Iterable[str]) -> dict[str, str]:
    """Which global random generator each tensor depends on.

    Args:
        make: makes the tensors; it is called twice with each global generator in the same state.
        names: the tensors that differ between two calls.

    Returns:
        name of the tensor -> the generator, or :data:`UNEXPLAINED`. The state of all generators is as before.
    """
    sources = dict.fromkeys(names, UNEXPLAINED)
    generators = global_generators()
    for source, state, set_state in generators:
        set_state(state)
        first = make()
        set_state(state)
        still_differing = differing_names(first, make())
        for name in sources:
            if sources[name] == UNEXPLAINED and name not in still_differing:
                sources[name] = source
    set_back(generators)
    return sources


GeneratorStates = list[tuple[str, Any, Callable[[Any], object]]]


def set_back(generators: GeneratorStates) -> None:
    """Sets global random generators to states of :func:`global_generators`."""
    for _, state, set_state in generators:
        set_state(state)


def global_generators() -> GeneratorStates:
    """The name of each global random generator, its present state, and the function that sets it."""
    return [
        ("torch's global random generator", torch.get_rng_state(), torch.set_rng_state),
        ("NumPy's global random generator", np.random.get_state(), np.random.set_state),  # noqa: NPY002
        ("the global generator of Python's random", random.getstate(), random.setstate),
    ]


def owner(model: Model, name: str) -> str:
    """A parameter or buffer with the submodule that it belongs to: ``mlp.0.weight (of mlp.0, a Linear)``."""
    path = name.rpartition(".")[0]
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return name
    return f"{name} (of {path or 'the model itself'}, a {type(module).__name__})"

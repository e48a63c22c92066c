"""BSPM: histories are blurred on the item graph and sharpened again.

Choi et al., "Blurring-Sharpening Process Models for Collaborative Filtering", SIGIR 2023,
https://arxiv.org/abs/2211.09324. Blurring is one step of GF-CF's filters; sharpening follows the differential
equation ``dy/dt = -y M`` for some time. Every step of a solver multiplies by a polynomial in ``M``, and so
does the whole model.

Differences from the authors' code: blurring and the low-pass filter are always one Euler step, as in all
settings of the paper's tables; items without interactions score 0, where the code divides by 0; the low-rank
part is left out by ``beta=0``, where the code decides by the name of the dataset.

``Eq. n`` refers to the numbered equations in docs/models/graph-filters.md.
"""

from __future__ import annotations

from math import factorial
from typing import ClassVar, Literal

from numpy.polynomial import Polynomial
from pydantic import Field

from graphrec.data.interactions import Interactions
from graphrec.models.item_filters import ItemFilters, ItemFiltersConfig, M
from graphrec.models.search_space import Choice, Space, Uniform

ORDERS = {"euler": 1, "rk4": 4}
"""Solver -> degree of the Taylor polynomial of ``exp(-h M)`` that a step multiplies by."""


class BSPM(ItemFilters):
    """A blurred history, sharpened."""

    class Config(ItemFiltersConfig):
        """Options of BSPM; the defaults are the authors' for Gowalla."""

        rank: int = Field(448, ge=0)
        """Singular vectors in the low-rank part, at most as many as there are; 0 leaves that part out."""
        beta: float = Field(0.2, ge=0)
        """Weight of the ideal low-pass filter; 0 leaves it out."""
        merge: Literal["early", "late"] = "early"
        """Add the ideal low-pass filter to what is sharpened, or after sharpening."""
        solver: Literal["euler", "rk4"] = "rk4"
        """How a step of sharpening is computed: to the first or the fourth order."""
        n_steps: int = Field(1, ge=1)
        """Steps of sharpening."""
        time: float = Field(2.5, ge=0)
        """Time of sharpening, divided by the steps; 0 leaves it out."""
        mean_of_states: bool = False
        """Score with the mean of the blurred history and the states after each step, instead of the last."""

    name = "bspm"
    search_space: ClassVar[Space] = {
        "rank": Choice(32, 64, 128, 256, 512),
        "beta": Choice(0.0, 0.1, 0.2, 0.3, 1.0, 3.0),
        "merge": Choice("early", "late"),
        "solver": Choice("euler", "rk4"),
        "time": Uniform(0.5, 3.0),
        "mean_of_states": Choice(False, True),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config, *polynomials(config))


def polynomials(config: BSPM.Config) -> tuple[Polynomial, Polynomial]:
    """``f`` of the history and ``g`` of the low-rank part (Eqs. 5 to 8)."""
    h = config.time / config.n_steps
    step = Polynomial([(-h) ** k / factorial(k) for k in range(ORDERS[config.solver] + 1)])  # Eq. 5
    states = [step**k for k in range(1, config.n_steps + 1)]
    sharpened = states[-1]  # Eq. 6
    direct = sharpened
    if config.mean_of_states:
        n = config.n_steps + 1
        sharpened = sum(states, Polynomial([0.0])) / n
        direct = 1 / n + sharpened  # the blurred history counts too, Eq. 7
    low_rank = sharpened if config.merge == "early" else Polynomial([1.0])  # Eq. 8
    return M * direct, config.beta * low_rank

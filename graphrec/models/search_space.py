"""What may be searched for each option of a model: the spaces that stand beside a model's ``Config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from graphrec.core.errors import ConfigError

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Attributes:
        values: JSON-able, at least two.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if len(values) < 2:
            raise ConfigError(f"Choice{values}; expected at least two values to choose from")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class _Range(Generic[Number]):
    low: Number
    high: Number
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ConfigError(f"{self}; expected low < high, and low > 0 with log")


class Uniform(_Range[float]):
    """A real number from ``low`` to ``high``.

    Attributes:
        low: least value; above 0 where ``log``.
        high: greatest value.
        log: uniform in the logarithm.
    """


class Integers(_Range[int]):
    """A whole number from ``low`` to ``high``, both included; attributes as in :class:`Uniform`."""


Space = Mapping[str, Choice | Uniform | Integers]
"""Option -> what may be searched; ``train.<option>`` is one of :class:`graphrec.TrainConfig`, any other one
of the model's ``Config``."""

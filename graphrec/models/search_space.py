"""What may be searched for each option of a model: the spaces that stand beside a model's ``Config``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from graphrec.core.errors import ConfigError

EDGE = 0.05
"""Share of a range of real numbers, from either end, where a value counts as at its edge."""
STEPS = 4
"""Steps into which a range of real numbers is divided; going beyond its edge takes one such step."""
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

    def beyond(self, value: Any, direction: int) -> Any:
        """The next value after one at the upper (1) or lower (-1) end of increasing numbers; else None.

        It continues the ratio of the last two values, or their difference where one of them is 0.
        """
        numbers = sorted({v for v in self.values if _is_number(v)})
        if len(numbers) < max(2, len(self.values)) or not _is_number(value):
            return None
        last, before = (numbers[-1], numbers[-2]) if direction > 0 else (numbers[0], numbers[1])
        if direction * (value - last) < 0 or (direction < 0 and last <= 0):
            return None
        after = value * last / before if before else value + last
        return round(after) if all(isinstance(v, int) for v in numbers) else float(f"{after:.4g}")


@dataclass(frozen=True)
class _Range(Generic[Number]):
    low: Number
    high: Number
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ConfigError(f"{self}; expected low < high, and low > 0 with log")

    def beyond(self, value: Any, direction: int) -> Number | None:
        """The next value after one at the upper (1) or lower (-1) edge of the range; else None."""
        if not _is_number(value) or (self.log and value <= 0):
            return None
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        edge = high if direction > 0 else low
        if direction * (edge - at) > EDGE * (high - low):
            return None
        after = at + direction * (high - low) / STEPS
        return self._rounded(math.exp(after) if self.log else after, value, direction)

    def _rounded(self, after: float, value: Any, direction: int) -> Number:
        raise NotImplementedError


class Uniform(_Range[float]):
    """A real number from ``low`` to ``high``.

    Attributes:
        low: least value; above 0 where ``log``.
        high: greatest value.
        log: uniform in the logarithm.
    """

    def _rounded(self, after: float, value: Any, direction: int) -> float:
        return float(f"{after:.4g}")


class Integers(_Range[int]):
    """A whole number from ``low`` to ``high``, both included; attributes as in :class:`Uniform`."""

    def _rounded(self, after: float, value: Any, direction: int) -> int:
        step = max(1, abs(round(after) - value)) if self.log else 1
        return int(value + direction * step)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


Space = Mapping[str, Choice | Uniform | Integers]
"""Option -> what may be searched; ``train.<option>`` is one of :class:`graphrec.TrainConfig`, any other one
of the model's ``Config``."""

"""Results of an expensive computation that are kept within a context, such as the trials of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Reused(Generic[Key, Value]):
    """The last results of one computation, each with what it was computed from. Outside of :meth:`kept`
    nothing is found and nothing is kept.

    Args:
        what: a name, for debuggers.
        most: how many results are kept; the oldest goes first.
    """

    def __init__(self, what: str, most: int = 1) -> None:
        self.most = most
        self._results: ContextVar[list[tuple[Key, Value]] | None] = ContextVar(what, default=None)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The context. One inside another begins with nothing."""
        token = self._results.set([])
        try:
            yield
        finally:
            self._results.reset(token)

    @property
    def active(self) -> bool:
        """Whether results are kept now."""
        return self._results.get() is not None

    def find(self, same: Callable[[Key], bool]) -> Value | None:
        """The result whose key is the same, or None."""
        return next((value for key, value in self._results.get() or () if same(key)), None)

    def add(self, key: Key, value: Value) -> None:
        """Keeps a result, if results are kept now."""
        results = self._results.get()
        if results is not None:
            results.append((key, value))
            del results[: -self.most]

    def clear(self) -> None:
        """Drops what is kept, before the memory for another result is taken."""
        results = self._results.get()
        if results:
            results.clear()

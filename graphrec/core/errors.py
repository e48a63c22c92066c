"""One exception class per kind of user error.

Every message says what was found, what was expected and what to do, so that it can be understood without a
traceback. The command line prints the message alone and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class GraphrecError(Exception):
    """Base class of all errors that the caller can fix.

    Attributes:
        suggestion: end of the message, such as `` Did you mean 'x'?``. A server leaves it out of its answers,
            because it may name an id that the caller does not know.
    """

    suggestion = ""

    def __str__(self) -> str:
        return super().__str__() + self.suggestion


class DataError(GraphrecError, ValueError):
    """Invalid interactions, ids, splits or content; the message names the file and the row or id."""


class FeatureError(GraphrecError, ValueError):
    """A feature table that is missing, damaged, misaligned or extracted for other items."""


class GraphError(GraphrecError, ValueError):
    """Edges out of range, non-finite weights, or shapes that do not match."""


class ConfigError(GraphrecError, ValueError):
    """An option that does not exist, has the wrong type or is out of range."""


class CheckpointError(GraphrecError, RuntimeError):
    """A checkpoint, run or saved recommender that is missing, damaged or incompatible."""


class TrainingError(GraphrecError, RuntimeError):
    """Training cannot continue: a loss term is not finite, or there are no training data."""


class ClusterError(GraphrecError, RuntimeError):
    """A cluster that cannot be reached, lacks resources, differs from this machine, or was lost."""


class UnknownIdError(GraphrecError, KeyError):
    """A user or item id that is not in the vocabulary."""

    def __str__(self) -> str:  # KeyError would return the repr of the message
        return (str(self.args[0]) if self.args else "") + self.suggestion


class MissingDependencyError(GraphrecError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known name, or an empty string.

    Args:
        word: the unknown name.
        known: the known names.
    """
    if len(word) > 200:  # the comparison is quadratic in the length
        return ""
    names = [name for name in known if len(name) <= 200]
    plain = plain_spelling(word)
    close = [name for name in names if plain_spelling(name) == plain]
    close = close or difflib.get_close_matches(word, names, n=5, cutoff=0.5)
    if not close:
        return ""
    # Of equally similar names, one whose letters were only exchanged.
    letters = sorted(word)
    best = min(close, key=lambda name: (-_similarity(word, name), sorted(name) != letters, name))
    return f" Did you mean {best!r}?"


def first_few(names: Sequence[str], shown: int = 5) -> str:
    """The first of several names, for a message that also counts them."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def plain_spelling(name: str) -> str:
    """A name or id without what is lost or added most often: case, spaces around it, leading zeros."""
    folded = name.strip().casefold()
    return folded.lstrip("0") or folded[-1:]


def _similarity(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, word).ratio()


def missing_dependency(
    package: str, extra: str, cause: BaseException | None = None
) -> MissingDependencyError:
    """The error to raise when an optional import fails.

    Args:
        package: the missing distribution.
        extra: graphrec extra that installs it.
        cause: what the import raised, where the package may be installed and broken.
    """
    if cause is not None and not isinstance(cause, ModuleNotFoundError):
        return MissingDependencyError(
            f"{package} is installed and cannot be imported ({type(cause).__name__}: {cause}); graphrec "
            "doctor checks whether torch and torchvision belong together"
        )
    return MissingDependencyError(f"{package} is not installed; run: pip install 'graphrec[{extra}]'")

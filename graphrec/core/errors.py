"""One exception class per kind of user mistake.

Every message says what was found, what was expected and what to do, so that none of them needs a traceback to
be understood. The command line prints the message alone and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraphrecError(Exception):
    """Base class of every error that is the caller's to mend."""


class DataError(GraphrecError, ValueError):
    """Interactions, ids, splits or content that cannot be used; names the file and the row or id."""


class FeatureError(GraphrecError, ValueError):
    """A feature table that is missing, damaged, misaligned or made for other items."""


class GraphError(GraphrecError, ValueError):
    """Edges out of range, weights that are not finite, or shapes that do not fit."""


class ConfigError(GraphrecError, ValueError):
    """An option that does not exist, has the wrong type or is out of range."""


class CheckpointError(GraphrecError, RuntimeError):
    """A checkpoint, run or saved recommender that is missing, damaged or belongs to something else."""


class TrainingError(GraphrecError, RuntimeError):
    """Training cannot go on: a loss term is not finite, or there is nothing to train on."""


class ClusterError(GraphrecError, RuntimeError):
    """A cluster that cannot be reached, has no room for the work, differs from this machine, or was lost."""


class UnknownIdError(GraphrecError, KeyError):
    """A user or item id that is not in the vocabulary."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class MissingDependencyError(GraphrecError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known name, or an empty string.

    Args:
        word: what the user wrote.
        known: the names there are.
    """
    if len(word) > 200:  # comparing is quadratic in the length
        return ""
    close = difflib.get_close_matches(word, [name for name in known if len(name) <= 200], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def requires(package: str, extra: str) -> MissingDependencyError:
    """The error to raise when an optional import fails.

    Args:
        package: distribution that is missing.
        extra: graphrec extra that installs it.
    """
    return MissingDependencyError(
        f"{package} is not installed, and this needs it; run: pip install 'graphrec[{extra}]'"
    )

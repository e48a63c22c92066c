"""The demonstration: a generated shop, from files on disk to recommendations in pictures, in about a minute.

:func:`run` generates a catalog, writes it as ordinary files, reads it back through the ordinary reader,
extracts features that need no downloaded weights, trains four models and compares them on the test split.
All data in it are generated, and everything it writes says so.
"""

from graphrec.cli.demo.protocol import EPOCHS, GROUPS, METRICS, MODELS, SELECT, TRAINING
from graphrec.cli.demo.steps import MARKER, run

__all__ = ["EPOCHS", "GROUPS", "MARKER", "METRICS", "MODELS", "SELECT", "TRAINING", "run"]

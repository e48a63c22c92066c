"""Graph-based multimodal recommendation: frozen image and text features, graphs, models, honest evaluation.

Every public name is here and is imported when first used, so ``import graphrec`` itself brings nothing heavy.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import graphrec.interop as interop
    import graphrec.models as models
    from graphrec.cluster import Cluster as Cluster
    from graphrec.comparison import compare as compare
    from graphrec.data import Content as Content
    from graphrec.data import Dataset as Dataset
    from graphrec.data import Interactions as Interactions
    from graphrec.data import Vocabulary as Vocabulary
    from graphrec.data.readers import load_dataset as load_dataset
    from graphrec.errors import CheckpointError as CheckpointError
    from graphrec.errors import ClusterError as ClusterError
    from graphrec.errors import ConfigError as ConfigError
    from graphrec.errors import DataError as DataError
    from graphrec.errors import FeatureError as FeatureError
    from graphrec.errors import GraphError as GraphError
    from graphrec.errors import GraphrecError as GraphrecError
    from graphrec.errors import MissingDependencyError as MissingDependencyError
    from graphrec.errors import TrainingError as TrainingError
    from graphrec.errors import UnknownIdError as UnknownIdError
    from graphrec.evaluate import RankingTask as RankingTask
    from graphrec.evaluate import evaluate as evaluate
    from graphrec.graph import Graph as Graph
    from graphrec.model import Model as Model
    from graphrec.model import Ranker as Ranker
    from graphrec.recommender import Recommender as Recommender
    from graphrec.report import Report as Report
    from graphrec.store import FeatureStore as FeatureStore
    from graphrec.store import FeatureTable as FeatureTable
    from graphrec.trainer import Run as Run
    from graphrec.trainer import TrainConfig as TrainConfig
    from graphrec.trainer import Trainer as Trainer

    __version__: str

NAMES: dict[str, str] = {
    "CheckpointError": "graphrec.errors",
    "Cluster": "graphrec.cluster",
    "ClusterError": "graphrec.errors",
    "ConfigError": "graphrec.errors",
    "Content": "graphrec.data",
    "DataError": "graphrec.errors",
    "Dataset": "graphrec.data",
    "FeatureError": "graphrec.errors",
    "FeatureStore": "graphrec.store",
    "FeatureTable": "graphrec.store",
    "Graph": "graphrec.graph",
    "GraphError": "graphrec.errors",
    "GraphrecError": "graphrec.errors",
    "Interactions": "graphrec.data",
    "MissingDependencyError": "graphrec.errors",
    "Model": "graphrec.model",
    "Ranker": "graphrec.model",
    "RankingTask": "graphrec.evaluate",
    "Recommender": "graphrec.recommender",
    "Report": "graphrec.report",
    "Run": "graphrec.trainer",
    "TrainConfig": "graphrec.trainer",
    "Trainer": "graphrec.trainer",
    "TrainingError": "graphrec.errors",
    "UnknownIdError": "graphrec.errors",
    "Vocabulary": "graphrec.data",
    "compare": "graphrec.comparison",
    "evaluate": "graphrec.evaluate",
    "load_dataset": "graphrec.data.readers",
}
"""Public name -> module it is imported from."""

MODULES = ("interop", "models")
"""Modules that are public as such."""

__all__ = [
    "CheckpointError", "Cluster", "ClusterError", "ConfigError", "Content", "DataError", "Dataset",
    "FeatureError", "FeatureStore", "FeatureTable", "Graph", "GraphError", "GraphrecError",
    "Interactions", "MissingDependencyError", "Model", "Ranker", "RankingTask", "Recommender", "Report",
    "Run", "TrainConfig", "Trainer", "TrainingError", "UnknownIdError", "Vocabulary", "__version__",
    "compare", "evaluate", "interop", "load_dataset", "models",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in NAMES:
        value = getattr(importlib.import_module(NAMES[name]), name)
    elif name in MODULES:
        return importlib.import_module(f"graphrec.{name}")
    elif name == "__version__":
        from importlib import metadata

        try:
            value = metadata.version("graphrec")
        except metadata.PackageNotFoundError:  # a source tree on the path that was never installed
            value = "0+unknown"
    else:
        raise AttributeError(f"module 'graphrec' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The package; ``graphrec.evaluate`` is the function, whichever import comes first."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the submodule of the same name binds it to the package, over the function.
        if name == "evaluate" and isinstance(value, ModuleType):
            value = value.evaluate
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

# OpenMP threads that have nothing to do spin for milliseconds by default. Two trainings beside one another
# then mostly take the cores from each other; a short spin costs an idle machine nothing. libgomp reads this
# once, when torch is loaded. A setting of one's own stands (experiments.bench.together, docs/performance.md).
if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"

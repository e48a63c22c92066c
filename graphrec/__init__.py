"""Graph-based multimodal recommendation: frozen features, graphs, models, honest evaluation.

Every public name is listed in the stub file ``__init__.pyi`` beside this one and is imported when first used,
so ``import graphrec`` itself loads nothing heavy.
"""

import os
import sys
from typing import Any

import lazy_loader

_attribute, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    if name != "__version__":
        return _attribute(name)
    from importlib import metadata

    try:
        return metadata.version("graphrec")
    except metadata.PackageNotFoundError:  # a source tree on the path that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    """The public names alone, for completion."""
    return sorted(__all__)


# OpenMP threads that have nothing to do spin for milliseconds by default. Two trainings side by side then
# mostly take the cores from each other; a short spin costs an idle machine nothing. libgomp reads this once,
# when torch is loaded. A setting of the user's own stands (experiments.bench.shared_cores,
# docs/results/performance.md).
if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"

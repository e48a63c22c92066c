"""Graphs: the sparse linear map, builders of user-item and item-item graphs, nearest neighbors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["interop"])

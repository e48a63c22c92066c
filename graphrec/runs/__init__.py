"""Runs: from names and options to a trained model, and from a run directory back to all it was made of."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

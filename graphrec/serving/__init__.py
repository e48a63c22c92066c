"""Serving: external ids in, external ids and scores out; loads without the dataset and the model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

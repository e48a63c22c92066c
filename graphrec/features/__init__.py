"""Feature tables and the directory they are kept in: the reading side (``graphrec.features.extract.extraction`` writes)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

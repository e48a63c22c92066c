"""Evaluation: metrics, full ranking, reports with intervals and paired tests."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Feature extraction: reads item content and writes feature tables.

:func:`extract` runs any :class:`Extractor`; :func:`extractor` creates a registered one by name. The sources
are in ``features/`` at the top of the repository and are installed as ``graphrec.features.extract``, so that
they do not collide with a user's own ``features.py``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Feature extraction: reads the content of items once and writes feature tables.

:func:`extract` does the work with any :class:`Extractor`; :func:`extractor` makes one by name. The folder is
``features/`` at the top of the repository and is installed as ``graphrec.features.extract``, so that it cannot
be mistaken for a ``features.py`` of the user's own.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Models compared over several training seeds: spread over seeds, intervals over users, paired tests.

:func:`compare` starts from run directories, :func:`compare_reports` from reports of evaluations; both return
a :class:`ModelComparison`. :func:`answer` and :func:`notes` describe it in sentences; :func:`to_html`,
:func:`to_parquet` and :func:`summary` export it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

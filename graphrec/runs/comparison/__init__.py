"""Models compared over several training seeds: spread over seeds, intervals over users, paired tests.

:func:`compare` starts from run directories, :func:`compare_reports` from reports that are there already; both
end in a :class:`ModelComparison`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Models compared over several training seeds: spread over seeds, intervals over users, paired tests.

:func:`compare` starts from run directories, :func:`compare_reports` from reports that are there already; both
end in a :class:`ModelComparison`.
"""

from graphrec.runs.comparison.opened import compare
from graphrec.runs.comparison.results import Entry, ModelComparison, Result, compare_reports

__all__ = ["Entry", "ModelComparison", "Result", "compare", "compare_reports"]

from .opened import compare as compare
from .results import (
    Entry as Entry,
    ModelComparison as ModelComparison,
    Result as Result,
    compare_reports as compare_reports,
)

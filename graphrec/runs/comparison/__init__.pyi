from .export import summary as summary, to_parquet as to_parquet
from .from_runs import compare as compare
from .narrative import answer as answer, notes as notes
from .page import to_html as to_html
from .results import (
    Entry as Entry,
    ModelComparison as ModelComparison,
    Result as Result,
    compare_reports as compare_reports,
)

from .export import summary as summary, to_parquet as to_parquet
from .from_runs import (
    RunsOfDataset as RunsOfDataset,
    compare as compare,
    compare_by_dataset as compare_by_dataset,
    split_by_dataset as split_by_dataset,
    studies as studies,
)
from .narrative import answer as answer, notes as notes
from .page import to_html as to_html
from .results import (
    Entry as Entry,
    ModelComparison as ModelComparison,
    Result as Result,
    compare_reports as compare_reports,
)

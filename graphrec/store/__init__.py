"""Feature tables and the directory they are kept in: the reading side (``features.extract`` writes)."""

from graphrec.store.directory import FeatureStore, StoredTable
from graphrec.store.table import FeatureTable

__all__ = ["FeatureStore", "FeatureTable", "StoredTable"]

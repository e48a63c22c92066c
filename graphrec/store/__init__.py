"""Feature tables and the directory they are kept in: the reading side (``features.extract`` writes)."""

from graphrec.store.directory import FeatureStore, StoredTable
from graphrec.store.table import ATTRIBUTE, PREFERENCES, PROFILE, TRAIN, FeatureTable

__all__ = ["ATTRIBUTE", "PREFERENCES", "PROFILE", "TRAIN", "FeatureStore", "FeatureTable", "StoredTable"]

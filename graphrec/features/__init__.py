"""Feature tables and the directory they are kept in: the reading side (``graphrec.features.extract.extraction`` writes)."""

from graphrec.features.store import FeatureStore, StoredTable
from graphrec.features.table import ATTRIBUTE, PREFERENCES, PROFILE, TRAIN, FeatureTable

__all__ = ["ATTRIBUTE", "PREFERENCES", "PROFILE", "TRAIN", "FeatureStore", "FeatureTable", "StoredTable"]

from .store import FeatureStore as FeatureStore, StoredTable as StoredTable
from .table import (
    ATTRIBUTE_PREFIX as ATTRIBUTE_PREFIX,
    PREFERENCES as PREFERENCES,
    PROFILE as PROFILE,
    TRAIN_FINGERPRINT as TRAIN_FINGERPRINT,
    FeatureTable as FeatureTable,
)

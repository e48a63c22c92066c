from .store import FeatureStore as FeatureStore, StoredTable as StoredTable
from .table import (
    ATTRIBUTE as ATTRIBUTE,
    PREFERENCES as PREFERENCES,
    PROFILE as PROFILE,
    TRAIN as TRAIN,
    FeatureTable as FeatureTable,
)

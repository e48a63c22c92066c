from .attributes import with_attributes as with_attributes
from .content import Content as Content
from .dataset import Dataset as Dataset
from .interactions import Interactions as Interactions
from .query import Histories as Histories, Query as Query
from .splits import (
    SPLITS as SPLITS,
    Chronological as Chronological,
    ColdItems as ColdItems,
    LeaveOneOut as LeaveOneOut,
    RandomSplit as RandomSplit,
    Split as Split,
    TimeCut as TimeCut,
    TimeSplit as TimeSplit,
)
from .vocabulary import Vocabulary as Vocabulary

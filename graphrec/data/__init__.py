"""Datasets: vocabularies, interactions, splits, content, readers."""

from graphrec.data.attributes import with_attributes
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.splits import (
    SPLITS,
    Chronological,
    ColdItems,
    LeaveOneOut,
    RandomSplit,
    Split,
    TimeCut,
    TimeSplit,
)
from graphrec.data.vocabulary import Vocabulary

__all__ = [
    "SPLITS",
    "Chronological",
    "ColdItems",
    "Content",
    "Dataset",
    "Interactions",
    "LeaveOneOut",
    "RandomSplit",
    "Split",
    "TimeCut",
    "TimeSplit",
    "Vocabulary",
    "with_attributes",
]

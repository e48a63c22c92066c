"""Datasets: vocabularies, interactions, splits, content, readers."""

from graphrec.data.attributes import with_attributes
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.splits import SPLITS, ColdItems, LeaveOneOut, RandomSplit, Split, TimeSplit
from graphrec.data.vocabulary import Vocabulary

__all__ = [
    "SPLITS",
    "ColdItems",
    "Content",
    "Dataset",
    "Interactions",
    "LeaveOneOut",
    "RandomSplit",
    "Split",
    "TimeSplit",
    "Vocabulary",
    "with_attributes",
]

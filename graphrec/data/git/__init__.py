"""Datasets from git histories: which person worked on which file."""

from graphrec.data.git.dataset import read_histories
from graphrec.data.git.mining import MiningConfig

__all__ = ["MiningConfig", "read_histories"]

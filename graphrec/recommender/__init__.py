"""Serving: external ids in, external ids and scores out; loads without the dataset and the model."""

from graphrec.recommender.placement import ContentVectors
from graphrec.recommender.recommender import Recommender

__all__ = ["ContentVectors", "Recommender"]

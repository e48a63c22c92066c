"""Serving: external ids in, external ids and scores out; loads without the dataset and the model."""

from graphrec.serving.placement import ContentVectors
from graphrec.serving.recommender import Recommender

__all__ = ["ContentVectors", "Recommender"]

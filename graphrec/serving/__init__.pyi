from .placement import ContentVectors as ContentVectors
from .recommender import Recommender as Recommender

from . import models as models
from .core.errors import (
    CheckpointError as CheckpointError,
    ClusterError as ClusterError,
    ConfigError as ConfigError,
    DataError as DataError,
    FeatureError as FeatureError,
    GraphError as GraphError,
    GraphrecError as GraphrecError,
    MissingDependencyError as MissingDependencyError,
    TrainingError as TrainingError,
    UnknownIdError as UnknownIdError,
)
from .core.ray import Cluster as Cluster
from .data import (
    Content as Content,
    Dataset as Dataset,
    Histories as Histories,
    Interactions as Interactions,
    Query as Query,
    Vocabulary as Vocabulary,
)
from .data.readers import load_dataset as load_dataset
from .evaluation import RankingTask as RankingTask, Report as Report, evaluate as evaluate
from .features import FeatureStore as FeatureStore, FeatureTable as FeatureTable
from .features.extract import extract as extract, extractor as extractor
from .graphs import interop as interop
from .graphs.graph import Graph as Graph
from .models.base import Model as Model, Ranker as Ranker
from .models.train_config import TrainConfig as TrainConfig
from .runs import save_run as save_run
from .runs.comparison import compare as compare
from .serving import Recommender as Recommender
from .training.trainer import Run as Run, Trainer as Trainer

__version__: str
__all__: list[str]

from . import models as models
from .core.errors import (
    CheckpointError as CheckpointError,
)
from .core.errors import (
    ClusterError as ClusterError,
)
from .core.errors import (
    ConfigError as ConfigError,
)
from .core.errors import (
    DataError as DataError,
)
from .core.errors import (
    FeatureError as FeatureError,
)
from .core.errors import (
    GraphError as GraphError,
)
from .core.errors import (
    GraphrecError as GraphrecError,
)
from .core.errors import (
    MissingDependencyError as MissingDependencyError,
)
from .core.errors import (
    TrainingError as TrainingError,
)
from .core.errors import (
    UnknownIdError as UnknownIdError,
)
from .core.ray import Cluster as Cluster
from .data import (
    Content as Content,
)
from .data import (
    Dataset as Dataset,
)
from .data import (
    Interactions as Interactions,
)
from .data import (
    Vocabulary as Vocabulary,
)
from .data.readers import load_dataset as load_dataset
from .evaluation import RankingTask as RankingTask
from .evaluation import Report as Report
from .evaluation import evaluate as evaluate
from .features import FeatureStore as FeatureStore
from .features import FeatureTable as FeatureTable
from .features.extract import extract as extract
from .features.extract import extractor as extractor
from .graphs import interop as interop
from .graphs.graph import Graph as Graph
from .models.base import Model as Model
from .models.base import Ranker as Ranker
from .runs.comparison import compare as compare
from .serving import Recommender as Recommender
from .training.trainer import Run as Run
from .training.trainer import TrainConfig as TrainConfig
from .training.trainer import Trainer as Trainer

__version__: str
__all__: list[str]

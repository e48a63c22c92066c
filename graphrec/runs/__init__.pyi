from .record import (
    RunRecord as RunRecord,
)
from .record import (
    inputs_of as inputs_of,
)
from .record import (
    read_meta as read_meta,
)
from .record import (
    read_record as read_record,
)
from .repeat import train_like as train_like
from .run import (
    SELECT as SELECT,
)
from .run import (
    OpenedRun as OpenedRun,
)
from .run import (
    agent_of as agent_of,
)
from .run import (
    configure as configure,
)
from .run import (
    open_agent as open_agent,
)
from .run import (
    open_recommender as open_recommender,
)
from .run import (
    open_run as open_run,
)
from .run import (
    ranks as ranks,
)
from .run import (
    recommender_folder as recommender_folder,
)
from .run import (
    refuse_another as refuse_another,
)
from .run import (
    train as train,
)
from .source import NONE as NONE
from .source import Source as Source
from .source import features_for as features_for
from .source import load as load

from .final import everything as everything, fit_final as fit_final
from .record import (
    RunRecord as RunRecord,
    inputs_of as inputs_of,
    read_meta as read_meta,
    read_record as read_record,
)
from .repeat import train_like as train_like
from .run import (
    SELECT as SELECT,
    OpenedRun as OpenedRun,
    configure as configure,
    open_recommender as open_recommender,
    open_run as open_run,
    ranks as ranks,
    recommender_folder as recommender_folder,
    refuse_another as refuse_another,
    save_run as save_run,
    train as train,
)
from .source import NONE as NONE, Source as Source, features_for as features_for

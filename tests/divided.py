"""Trains every model that several processes can train, in one process or, under torchrun, in several:
``python divided.py FOLDER``; or one of them at a second an epoch: ``python divided.py FOLDER MODEL``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from graphrec import testing
from graphrec.core import distributed
from graphrec.core.random import numpy_rng
from graphrec.evaluation.ranking import RankingTask
from graphrec.features import FeatureTable
from graphrec.models import MODELS, model
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer

EPOCHS = 4
OPTIONS = {
    "llmrec": {"prune": 0.4},
    "llmrec masked": {"mask": 0.2, "restore_weight": 0.1, "dropout": 0.1},
    "lightgcn sampled": {"fanouts": [3, 2]},
    "freedom sampled": {"fanouts": [3, 2]},
}


def names() -> list[str]:
    """Models that several processes can train, some of them in two ways."""
    return [
        *(name for name in MODELS if model(name).data_parallel),
        *(name for name in OPTIONS if " " in name),
    ]


def trained(name: str, folder: Path, whole: bool = False) -> None:
    """Trains two epochs and, resumed, two more; leaves weights and metrics in ``folder``.

    Args:
        name: of the model and its options.
        folder: for its run directory.
        whole: train all in one go; while the folder holds a file ``hold``, the second process waits after two
            epochs.
    """
    cls = model(name.split()[0])
    if cls.converses:
        _talked(name, folder)
        return
    data, tables = testing.communities(2, 40)
    data, rng = data.resplit("random"), numpy_rng(0, "tests/divided")
    pairs = rng.permuted(np.tile(np.arange(data.n_items), (data.n_users, 1)), axis=1)[:, :2].astype(np.int32)
    users, items = (rng.normal(size=(n, 5)).astype(np.float32) for n in (data.n_users, data.n_items))
    tables["preferences"] = FeatureTable(pairs, None, {"of": "user", "items": data.users.fingerprint})
    tables["profile"] = FeatureTable.from_array(users, data, "profile", entity="user")
    tables["attribute_size"] = FeatureTable.from_array(items, data, "attribute_size")
    more = {"augmented": 0.3} if "augmented" in cls.Config.model_fields else {}
    config = cls.Config(**more, **OPTIONS.get(name, {}))
    task = RankingTask(data.valid, seen=data.train, k=10)
    for epochs in (EPOCHS,) if whole else (EPOCHS // 2, EPOCHS):
        made = cls.build(data, cls.inputs(tables, config) or None, config)
        # 157 is odd, and the last batch is smaller.
        options = TrainConfig(
            epochs=epochs, batch_size=157, learning_rate=1e-2, progress=False, patience=None
        )
        run = Trainer(options, folder / name).fit(made, task, resume=True, on_epoch=partial(_wait, folder))
        assert len(run.history) == epochs
    if distributed.is_rank_zero():
        save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / f"{name}.safetensors")


def _wait(folder: Path, record: dict[str, float]) -> None:
    while record["epoch"] == 2 and os.environ.get("RANK") == "1" and (folder / "hold").exists():
        time.sleep(0.05)


def _talked(name: str, folder: Path) -> None:
    """The same for a model that learns from conversations."""
    cls = model(name)
    with testing.fixtures(cls, cls.Config(episodes=40, parallel=7, target_every=5)) as (data, _, config):
        for epochs in (EPOCHS // 2, EPOCHS):
            made = cls.build(data, None, config)
            options = TrainConfig(
                epochs=epochs, batch_size=16, learning_rate=1e-3, progress=False, patience=None
            )
            run = Trainer(options, folder / name).fit(made, made.task(data), resume=True)
            assert len(run.history) == epochs
        if distributed.is_rank_zero():
            state = made.network.state_dict()
            save_file({k: v.contiguous() for k, v in state.items()}, folder / f"{name}.safetensors")


if __name__ == "__main__":
    for each in sys.argv[2:] or names():
        trained(each, Path(sys.argv[1]), len(sys.argv) > 2)
    if distributed.is_rank_zero():
        (Path(sys.argv[1]) / "processes.json").write_text(json.dumps(distributed.world_size()))

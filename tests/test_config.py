"""Options: which of them decide what is computed, and how those of earlier versions are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file

from graphrec import runs
from graphrec.core.bundle import read_sealed, write_sealed
from graphrec.core.config import Config, option
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.models import MODELS, model as model_class
from graphrec.models.train_config import TrainConfig
from graphrec.testing import communities

TRAIN = {"epochs": 2, "batch_size": 64, "device": "cpu", "progress": False}
OTHER_VALUES: dict[str, Any] = {
    "train.device": "auto",
    "train.progress": True,
    "train.tensorboard": True,
    "train.checkpoint_every": 2,
    "train.profile": True,
    "freedom.graph_cache": "graphs",
    "lattice.graph_cache": "graphs",
    "pgl.graph_cache": "graphs",
    "mgcn.graph_cache": "graphs",
    "smore.graph_cache": "graphs",
    "dragon.graph_cache": "graphs",
    "cohesion.graph_cache": "graphs",
    "mentor.graph_cache": "graphs",
    "micro.graph_cache": "graphs",
    "itemknn-content.graph_cache": "graphs",
    "content-ease.graph_cache": "graphs",
    "content-ease.max_iterations": 50,
    "content-ease.memory": 8.0,
    "ease.max_iterations": 50,
    "ease.memory": 8.0,
    "gf-cf.kept": 3,
    "bspm.kept": 3,
}


def neutral_options() -> set[str]:
    """``train.NAME`` and ``MODEL.NAME`` of every option that is declared to affect no result."""
    configs = {"train": TrainConfig, **{name: model_class(name).Config for name in MODELS}}
    return {
        f"{owner}.{name}"
        for owner, config in configs.items()
        for name in config.model_fields
        if not config.affects_result(name)
    }


def test_every_option_without_effect_is_tried() -> None:
    assert neutral_options() == set(OTHER_VALUES)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_an_option_without_effect_changes_nothing_in_the_checkpoint(name: str, tmp_path: Path) -> None:
    owner, _, key = name.partition(".")
    if key == "device" and (torch.cuda.is_available() or torch.backends.mps.is_available()):
        pytest.skip("device=auto is not the CPU here")
    data, features = communities(2, 20)
    data = data.with_splits(data.train, data.test, data.valid)
    value = tmp_path / OTHER_VALUES[name] if key == "graph_cache" else OTHER_VALUES[name]
    model = "mf" if owner == "train" else owner
    changes: dict[str, Any] = (
        {"train_options": {**TRAIN, key: value}}
        if owner == "train"
        else {"model_options": {key: value}, "train_options": TRAIN}
    )
    for out, more in (("plain", {"train_options": TRAIN}), ("changed", changes)):
        runs.train(model, data, features, out=tmp_path / out, **more)
    for part in ("last", "best"):
        plain, changed = (
            load_file(next((tmp_path / out / part).glob("model-*.safetensors")))
            for out in ("plain", "changed")
        )
        assert plain.keys() == changed.keys()
        assert all(torch.equal(plain[k], changed[k]) for k in plain)
    again = runs.train(model, data, features, out=tmp_path / "plain", resume=True, **changes)
    assert again.out == tmp_path / "plain", "a run goes on under another value"


class Second(Config):
    """Options of a second version."""

    renamed_options: ClassVar = {"colour": "color", "centre": "center"}
    renamed_values: ClassVar = {"color": {"grey": "gray"}}

    color: Literal["gray", "red"] = "gray"
    center: float = 0.0
    verbose: bool = option(False, affects_result=False)


class Third(Second):
    """Options of a third version, which has one more and calls another value by another name."""

    renamed_options: ClassVar = {"sort": "kind"}
    renamed_values: ClassVar = {"color": {"scarlet": "red"}, "kind": {"old": "new"}}

    kind: str = "new"
    sort_key: int = option(3, ge=1)


def test_former_names_and_values_are_read_and_inherited() -> None:
    assert Second(colour="grey", centre=2).model_dump() == {"color": "gray", "center": 2.0, "verbose": False}
    third = Third(colour="scarlet", sort="old")
    assert (third.color, third.kind, third.sort_key) == ("red", "new", 3)
    assert Third(color="grey").color == "gray"
    with pytest.raises(ConfigError, match=r"colour.*color"):
        Second(colour="red", color="red")
    with pytest.raises(ConfigError, match="blue"):
        Second(colour="blue")
    with pytest.raises(ConfigError, match="'color'"):
        Second(colr="red")


def test_recorded_options_are_compared_under_present_names() -> None:
    recorded = {"colour": "grey", "centre": 0.0, "verbose": True}
    assert Third.result_options(recorded) == Third.result_options(Third().model_dump(mode="json"))
    assert "verbose" not in Third.result_options(recorded)
    assert Third.result_options({"center": 1.0}) != Third.result_options({})


def test_a_new_option_counts_unless_it_says_otherwise() -> None:
    assert Third.affects_result("sort_key")
    assert Third.affects_result("color")
    assert not Third.affects_result("verbose")
    assert Third.result_options({"sort_key": 4}) != Third.result_options({})
    with pytest.raises(ConfigError, match="sort_key = 0"):
        Third(sort_key=0)


@pytest.mark.parametrize(
    ("model", "former", "present"),
    [
        ("itemknn", {"normalise": True}, {"normalize": True}),
        (
            "itemknn-content",
            {"normalise": True, "fill": "neighbours"},
            {"normalize": True, "fill": "neighbors"},
        ),
        ("freedom", {"cold_items": "neighbours"}, {"cold_items": "neighbors"}),
        ("bm3", {"cold_items": "neighbours", "fill": "neighbours"}, {"cold_items": "neighbors"}),
        ("lattice", {"cold_items": "neighbours"}, {"cold_items": "neighbors"}),
    ],
)
def test_renamed_options_of_models(model: str, former: dict[str, Any], present: dict[str, Any]) -> None:
    config = model_class(model).Config(**former).model_dump()
    assert {key: config[key] for key in present} == present


def test_a_run_of_an_earlier_version_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    data, _ = communities(2, 20)
    data = data.with_splits(data.train, data.test, data.valid)
    runs.train("itemknn", data, out=tmp_path / "run", model_options={"normalize": True})
    record = tmp_path / "run" / "run.json"
    facts = read_sealed(record, "")
    facts["model_config"]["normalise"] = facts["model_config"].pop("normalize")
    del facts["train_config"]["tensorboard"]
    write_sealed(record, facts)
    runs.train("itemknn", data, out=tmp_path / "run", model_options={"normalize": True}, resume=True)
    write_sealed(record, facts)
    with pytest.raises(CheckpointError, match=r"model\.normalize"):
        runs.train("itemknn", data, out=tmp_path / "run", resume=True)

"""Studies: what they try, select, keep and refuse, and that a killed one ends as if it had not been."""

from __future__ import annotations

import json
import operator
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training import Trainings

from graphrec.core.bundle import read_sealed, write_sealed
from graphrec.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingDependencyError,
    TrainingError,
)
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.data.interactions import Interactions
from graphrec.evaluation.metrics import metric
from graphrec.evaluation.ranking import RankingTask
from graphrec.models import MODELS, model as model_class
from graphrec.models.base import Ranker
from graphrec.models.search_space import Choice, Integers, Space, Uniform
from graphrec.runs import run as runs
from graphrec.runs.tuning import samplers, tuner
from graphrec.testing import communities

RANKERS = [name for name in MODELS if issubclass(model_class(name), Ranker)]
SMALL: Space = {"dim": Integers(2, 4), "train.learning_rate": Choice(0.01, 0.02, 0.05)}
FIXED = {"epochs": 2, "batch_size": 64, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def made() -> tuple[Dataset, dict[str, Any]]:
    data, features = communities(2, 20)
    return data.with_splits(data.train, data.test, _others(data.train, data.test, 0)), features


def _others(train: Interactions, valid: Interactions, seed: int) -> Interactions:
    """A test split of pairs that are in neither of the other splits."""
    shape = train.n_users, train.n_items
    free = np.setdiff1d(np.arange(shape[0] * shape[1]), np.concatenate([train.keys, valid.keys]))
    users, items = np.divmod(numpy_rng(seed, "test/others").choice(free, 60, replace=False), shape[1])
    return Interactions(users, items, *shape, name="test")


@pytest.fixture
def tune(
    made: tuple[Dataset, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuner.Study]:
    """A study of MF's options on two communities; power does not fail here, so that nothing is flushed."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)

    def run(out: str = "study", **changes: Any) -> tuner.Study:
        data, features = made
        given = {"model": "mf", "data": data, "features": features, "space": SMALL, "train_options": FIXED}
        return tuner.tune(**{**given, "trials": 3, "extend": 0, "out": tmp_path / out, **changes})

    return run


def metrics(path: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def outcome(path: Path) -> dict[str, Any]:
    """All in which two studies must agree to the bit: files, trials, metrics of every epoch, weights."""
    study = tuner.read_study(path)
    best = study.best.path
    return {
        "files": sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()),
        "best": best.name,
        "named": json.loads((path / "best.json").read_text())["model_options"],
        "trials": [
            (t.number, t.state, t.value, t.best_epoch, t.epochs, t.model_options, t.train_options)
            for t in study.trials
        ],
        "metrics": [metrics(t.path) for t in study.trials],
        "weights": {
            part: {k: v.numpy().tobytes() for k, v in load_file(next((best / part).glob("model*"))).items()}
            for part in ("best", "last")
        },
    }


# -- edges of the search space -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "up", "down"),
    [
        (Choice(0.01, 0.1, 0.3), 0.3, 0.9, None),
        (Choice(0.3, 0.1, 0.01), 0.01, None, 0.001),
        (Choice(0.01, 0.1, 0.3), 0.1, None, None),
        (Choice(0.01, 0.1, 0.3), 0.9, 2.7, None),  # beyond already
        (Choice(0.0, 0.5), 0.5, 1.0, None),
        (Choice(0.0, 0.5), 0.0, None, None),
        (Choice(32, 64), 64, 128, None),
        (Choice(32, 64), 32, None, 16),
        (Choice(True, False), True, None, None),
        (Choice("a", "b"), "b", None, None),
        (Choice(None, 0.1), 0.1, None, None),
        (Integers(1, 3), 3, 4, None),
        (Integers(1, 3), 1, None, 0),
        (Integers(1, 3), 2, None, None),
        (Integers(10, 160, log=True), 160, 320, None),
        (Uniform(0.0, 1.0), 0.99, 1.24, None),
        (Uniform(0.0, 1.0), 0.5, None, None),
        (Uniform(1e-4, 1e-2, log=True), 1e-4, None, 3.162e-05),
        (Uniform(1e-4, 1e-2, log=True), 0.0, None, None),  # a default outside the range
    ],
)
def test_the_next_value_beyond_an_edge(kind: Any, value: Any, up: Any, down: Any) -> None:
    assert (kind.beyond(value, 1), kind.beyond(value, -1)) == (up, down)


def values_of(study: tuner.Study, option: str) -> list[Any]:
    return [trial.options[option] for trial in study.trials]


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces what trainings reach by a function of ``reg_weight`` with its greatest value at a place."""
    train = tuner.runs.train

    def at(best: float) -> None:
        def trained(*given: Any, model_options: Mapping[str, Any], **options: Any) -> Any:
            run = train(*given, model_options=model_options, **options)
            return replace(run, best_value=-abs(np.log(model_options["reg_weight"] / best)))

        monkeypatch.setattr(tuner.runs, "train", trained)

    return at


REG: Space = {"reg_weight": Choice(1e-3, 1e-2, 1e-1)}


def test_a_best_value_at_an_edge_is_followed_until_it_is_inside(tune: Callable[..., Any], peak: Any) -> None:
    peak(10.0)
    study = tune(space=REG, trials=3, extend=8)
    beyond = [trial for trial in study.trials if trial.beyond]
    assert [trial.options["reg_weight"] for trial in beyond] == [1.0, 10.0, 100.0]
    assert {trial.beyond for trial in beyond} == {"reg_weight"}
    assert study.best.options["reg_weight"] == 10.0
    assert not tuner.steps_beyond(study, REG), "its neighbors on both sides are worse"
    read = tuner.read_study(study.path)
    assert read.trials == study.trials


def test_a_best_value_inside_is_not_left(tune: Callable[..., Any], peak: Any) -> None:
    peak(1e-2)
    assert not any(trial.beyond for trial in tune(space=REG, trials=3, extend=8).trials)


def test_an_extension_has_an_end_and_may_get_more(tune: Callable[..., Any], peak: Any) -> None:
    peak(1e9)
    study = tune(space=REG, trials=3, extend=2)
    assert sorted(values_of(study, "reg_weight"))[-2:] == [1.0, 10.0]
    assert [name for name, _ in tuner.steps_beyond(study, REG)] == ["reg_weight"]
    more = tune(space=REG, trials=3, extend=3, resume=True)
    assert more.trials[:-1] == study.trials
    assert more.best.options["reg_weight"] == 100.0


def test_a_value_that_the_model_refuses_ends_an_extension(tune: Callable[..., Any]) -> None:
    space: Space = {"dim": Integers(1, 2)}  # below 1 there is no embedding
    study = tune(space=space, trials=2, extend=4)
    assert min(values_of(study, "dim")) == 1


def test_trials_beyond_an_edge_change_no_suggestion(tune: Callable[..., Any]) -> None:
    straight = [trial.options for trial in tune("straight", trials=7).trials]
    tune("parts", trials=3, extend=2)
    parts = tune("parts", trials=7, extend=2, resume=True)
    assert any(trial.beyond for trial in parts.trials)
    assert [trial.options for trial in parts.trials if not trial.beyond] == straight


def test_coordinates_end_a_study_where_all_choices_are_tried(tune: Callable[..., Any]) -> None:
    space: Space = {"dim": Choice(4, 8), "reg_weight": Choice(0.01, 0.1)}
    study = tune(space=space, trials=50, extend=0, sampler="coordinate")
    tried = [trial.options for trial in study.trials]
    choices = [{"dim": d, "reg_weight": r} for d in (4, 8) for r in (0.01, 0.1)]
    outside = [{"dim": 64, "reg_weight": r} for r in (0.1, 0.01)]  # around the defaults
    key = operator.itemgetter("dim", "reg_weight")
    assert sorted(tried, key=key) == sorted(choices + outside, key=key)
    again = tune(space=space, trials=50, extend=0, sampler="coordinate", resume=True)
    assert [trial.options for trial in again.trials] == tried


@pytest.mark.parametrize(("keep", "written"), [("best", [0, 2]), ("all", [0, 1, 2, 3])])
def test_a_recommender_is_written_for_trials_that_are_kept(
    tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, keep: str, written: list[int]
) -> None:
    train, write = tuner.runs.train, tuner.runs._write_products
    values = iter([0.2, 0.1, 0.3, 0.3])  # the last is no better than the one before
    found = []

    def trained(*given: Any, complete: Callable[[Any], bool], **options: Any) -> Any:
        value = next(values)
        run = train(*given, **options, complete=lambda run: complete(replace(run, best_value=value)))
        return replace(run, best_value=value)

    def noted(out: Path, *given: Any) -> None:
        found.append(int(out.name.removeprefix("trial-")))
        write(out, *given)

    monkeypatch.setattr(tuner.runs, "train", trained)
    monkeypatch.setattr(tuner.runs, "_write_products", noted)
    study = tune(trials=4, keep=keep)
    assert found == written
    assert (study.best.path / "recommender").is_dir()
    assert study.best.number == 2


# -- a study -------------------------------------------------------------------------------------------------


def test_a_trial_is_the_run_that_its_options_make(
    tune: Callable[..., tuner.Study], made: tuple[Dataset, dict[str, Any]], tmp_path: Path
) -> None:
    seen: list[int] = []
    study = tune(on_trial=lambda trial: seen.append(trial.number), select="ndcg@5", seed=3)
    assert seen == [0, 1, 2]
    defaults = model_class("mf").Config.defaults()
    assert study.trials[0].options == {"dim": defaults["dim"], "train.learning_rate": 1e-3}
    assert all(samplers.inside(SMALL, trial.options) for trial in study.trials[1:])
    best = study.best
    assert best.value == max(trial.value for trial in study.trials if trial.value is not None)
    named = json.loads((study.path / "best.json").read_text())
    data, _ = made
    again = runs.train(
        "mf", data, model_options=named["model_options"], train_options=named["train_options"],
        seed=3, select="ndcg@5", out=tmp_path / "again",
    )  # fmt: skip
    assert (again.best_value, again.best_epoch) == (best.value, best.best_epoch)
    assert metrics(tmp_path / "again") == metrics(best.path)
    opened = runs.open_run(study.path / named["trial"])
    task = RankingTask(data.valid, seen=data.train, metrics=("ndcg@5",))
    assert task(opened.model)["ndcg@5"] == pytest.approx(best.value, abs=1e-12)
    header, rows = study.table()
    assert (len(rows), rows[0][0], header[1]) == (3, best.path.name, "ndcg@5")
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)


def test_the_test_split_changes_nothing(
    tune: Callable[..., tuner.Study], made: tuple[Dataset, dict[str, Any]]
) -> None:
    data, features = made
    other = data.with_splits(data.train, data.valid, _others(data.train, data.valid, 1))
    assert other.test != data.test
    given = {"model": "freedom", "space": None, "trials": 3}
    one = tune("one", **given)
    two = tune("two", **given, data=other, features={f: t.check(other) for f, t in features.items()})
    assert [(t.options, t.value) for t in one.trials] == [(t.options, t.value) for t in two.trials]
    assert [metrics(t.path) for t in one.trials] == [metrics(t.path) for t in two.trials]
    assert journal(one) == journal(two)
    chosen = [{**read_sealed(study.path / "best.json", ""), "seconds": 0, "seal": 0} for study in (one, two)]
    assert chosen[0] == chosen[1]
    third = tune("three", **given, data=other.with_splits(data.train, other.test, data.valid))
    assert [t.options for t in third.trials[:1]] == [t.options for t in one.trials[:1]]
    assert third.trials[0].value != one.trials[0].value, "the values are those of valid"


def journal(study: tuner.Study) -> list[Any]:
    """The lines of a study's journal without times, paths, and digests of them."""
    own = {"path", "seconds", "datetime_start", "datetime_complete", "worker_id", "digest", "seal"}

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if k not in own}
        return [kept(v) for v in value] if isinstance(value, list) else value

    return [kept(json.loads(line)) for line in (study.path / "trials.log").read_text().splitlines()]


def test_weights_of_the_best_are_kept_and_metrics_of_all(tune: Callable[..., tuner.Study]) -> None:
    for keep in ("best", "all"):
        study = tune(keep, keep=keep)
        for trial in study.trials:
            assert len(metrics(trial.path)) == trial.epochs == 2
            kept = {path.name for path in trial.path.iterdir()} - {
                "run.json",
                "metrics.jsonl",
                ".lock",
            }
            whole = keep == "all" or trial is study.best
            assert kept == ({"best", "last", "recommender", "dataset"} if whole else set())
            facts = runs.read_meta(trial.path)
            assert facts["model_config"]["dim"] == trial.options["dim"]
            assert facts["train_config"]["seed"] == trial.seed == 0


def test_of_equal_trials_the_earliest_is_best() -> None:
    common: dict[str, Any] = {"options": {}, "model_options": {}, "train_options": {}, "seed": 0}
    values = [None, 0.2, 0.3, 0.3, None]
    trials = [
        tuner.Trial(n, Path(f"{n}"), "finished" if v else "failed", v, **common) for n, v in enumerate(values)
    ]
    study = tuner.Study(Path(), "mf", "recall@20", trials)
    assert study.best.number == 2
    assert [row[0][-1] for row in study.table()[1]] == ["2", "3", "1", "0", "4"]
    with pytest.raises(TrainingError, match="all 1 trials failed"):
        _ = tuner.Study(Path(), "mf", "recall@20", trials[:1]).best


def test_what_is_fixed_is_not_searched(tune: Callable[..., tuner.Study]) -> None:
    one = tune("one", trials=20, model_options={"dim": 3})
    assert len(one.trials) == 4, "three learning rates, and the default one"
    assert {t.model_options["dim"] for t in one.trials} == {3}
    assert [set(t.options) for t in one.trials] == [{"train.learning_rate"}] * 4
    none = tune("none", model_options={"dim": 3}, train_options={**FIXED, "learning_rate": 0.02})
    assert len(none.trials) == 1
    assert none.best.train_options == {**FIXED, "learning_rate": 0.02}


def test_a_trial_that_cannot_be_trained_is_recorded_and_the_study_goes_on(
    tune: Callable[..., tuner.Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    space: Space = {"train.learning_rate": Choice(1e30, 0.02)}
    study = tune(space=space, trials=3)
    states = {trial.options["train.learning_rate"]: trial.state for trial in study.trials}
    assert states == {1e-3: "finished", 1e30: "failed", 0.02: "finished"}
    (failed,) = (trial for trial in study.trials if trial.value is None)
    assert "not finite" in failed.message or "nan" in failed.message
    assert study.best.state == "finished"
    assert tune(space=space, trials=3, resume=True).trials == study.trials, "it is not tried again"
    with pytest.raises(TrainingError, match="all 1 trials failed"):
        tune("all", trials=1, train_options={**FIXED, "learning_rate": 1e30})


@pytest.mark.parametrize("changes", [{}, {"sampler": "random"}, {"model": "popularity", "space": None}])
def test_without_optuna_the_extra_is_named(
    tune: Callable[..., tuner.Study], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"graphrec\[tune\]"):
        tune(**changes)
    assert not (tmp_path / "study").exists()


def test_what_stands_in_the_way_of_all_trials_is_raised(
    tune: Callable[..., tuner.Study], tmp_path: Path, made: tuple[Dataset, dict[str, Any]]
) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda"):
            tune(train_options={**FIXED, "device": "cuda"})
        assert tuner.read_study(tmp_path / "study").trials == []
    data, _ = made
    none = Interactions([], [], data.n_users, data.n_items)
    with pytest.raises(DataError, match="valid split is empty"):
        tune("empty", data=data.with_splits(data.train, none, data.test))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"space": {"dmi": Integers(1, 4)}}, "'dim'"),
        ({"space": {"train.learning_rat": Choice(1, 2)}}, "'train.learning_rate'"),
        ({"space": {"seed": Integers(0, 9)}}, "'seed' is no option that can be searched"),
        ({"space": {"train.seed": Integers(0, 9)}}, "no option that can be searched"),
        ({"space": {"dim": Integers(0, 4)}}, "dim = 0"),
        ({"space": {"train.schedule": Choice("constant", "cosin")}}, "cosin"),
        ({"space": {"dim": [1, 2]}}, r"Choice\(...\)"),
        ({"trials": 0}, "from 1"),
        ({"trials": True}, "from 1"),
        ({"sampler": "tpee"}, "'tpe'"),
        ({"keep": "bset"}, "'best'"),
        ({"select": "none"}, "recall"),
        ({"model": "mff"}, "'mf'"),
        ({"model_options": {"dmi": 2}}, "'dim'"),
    ],
)
def test_mistakes_are_answered_before_any_work(
    tune: Callable[..., tuner.Study], tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        tune(**changes)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", RANKERS)
def test_every_models_own_space_can_be_searched(name: str) -> None:
    assert tuner.search_space(name) == dict(model_class(name).search_space)


# -- a study that goes on ------------------------------------------------------------------------------------


def test_more_trials_go_on_and_fewer_are_refused(
    tune: Callable[..., tuner.Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = tune("straight", trials=6)
    assert tune("parts", trials=3).trials[-1].number == 2
    with pytest.raises(CheckpointError, match=r"already holds a study.*--resume"):
        tune("parts", trials=6)
    trained: list[Any] = []
    real = runs.train
    monkeypatch.setattr(runs, "train", lambda *a, **o: trained.append(o["out"]) or real(*a, **o))
    # Where and how visibly to train is no matter of what is tuned.
    changed = {**FIXED, "device": "auto" if not torch.cuda.is_available() else "cpu", "checkpoint_every": 2}
    assert len(tune("parts", trials=6, train_options=changed, resume=True).trials) == 6
    assert [path.name for path in trained] == [f"trial-000{n}" for n in range(3, 6)]
    found = [(t.options, t.value) for t in tuner.read_study(straight.path.with_name("parts")).trials]
    assert found == [(t.options, t.value) for t in straight.trials]
    with pytest.raises(CheckpointError, match="at least 6"):
        tune("parts", trials=5, resume=True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 1}, "model_config.seed is 0, this one's is 1"),
        ({"select": "recall@10"}, "select is 'recall@20'"),
        ({"sampler": "random"}, "sampler is 'tpe'"),
        ({"train_options": {**FIXED, "epochs": 4}}, "train_config.epochs is 2, this one's is 4"),
        ({"train_options": {**FIXED, "patience": 4}}, "train_config.patience is 20"),
        ({"model_options": {"reg_weight": 0.2}}, "model_config.reg_weight is 0.1"),
        ({"space": {**SMALL, "dim": Integers(2, 5)}}, "space.dim is"),
        ({"space": {"dim": SMALL["dim"]}}, "space.train.learning_rate is"),
        ({"model": "lightgcn"}, "model is 'mf'"),
        ({"data": communities(2, 20, seed=1)[0]}, "dataset.fingerprint is"),
    ],
)
def test_another_study_is_refused_by_what_differs(
    tune: Callable[..., tuner.Study], changes: dict[str, Any], expected: str
) -> None:
    study = tune(trials=1)
    before = (study.path / "study.json").read_bytes()
    if "data" in changes:
        data = changes["data"]
        changes = {"data": data.with_splits(data.train, data.test, data.valid)}
    with pytest.raises(CheckpointError, match=expected):
        tune(resume=True, **changes)
    assert (study.path / "study.json").read_bytes() == before


def test_other_features_are_another_study(
    tune: Callable[..., tuner.Study], made: tuple[Dataset, dict[str, Any]]
) -> None:
    given = {"model": "freedom", "space": None, "trials": 1}
    tune(**given)
    _, features = made
    with pytest.raises(CheckpointError, match=r"features\.image is"):
        tune(**given, features={**features, "image": features["text"]}, resume=True)


def test_another_optuna_is_refused_only_where_it_would_suggest(tune: Callable[..., tuner.Study]) -> None:
    study = tune(trials=6)
    facts = read_sealed(study.path / "study.json", "")
    write_sealed(study.path / "study.json", {**facts, "optuna": "0.0.1"})
    assert tune(trials=6, resume=True).trials == study.trials
    with pytest.raises(CheckpointError, match=r"pip install optuna==0\.0\.1"):
        tune(trials=7, resume=True)


def test_damaged_records_are_named_and_a_removed_journal_is_made_again(
    tune: Callable[..., tuner.Study],
) -> None:
    study = tune()
    expected = outcome(study.path)
    journal = study.path / "trials.log"
    intact = journal.read_bytes()
    lines = intact.splitlines(keepends=True)
    for damaged in (
        intact.replace(b'"value":0', b'"value":1'),
        intact.replace(b'"epochs":2', b'"epochs":3'),
        b"".join([*lines[:1], b"{" + lines[1], *lines[2:]]),
        b"".join([*lines[:-2], lines[-1]]),
        b"[]\n" + intact,
        bytes(100) + b"\n" + intact,
    ):
        assert damaged != intact
        journal.write_bytes(damaged)
        for read in (lambda: tune(resume=True), lambda: tuner.read_study(study.path)):
            with pytest.raises(CheckpointError) as raised:
                read()
            assert str(journal) in str(raised.value)
            assert "remove it and resume" in str(raised.value)
    journal.unlink()
    assert tuner.read_study(study.path).trials == []
    tune(resume=True)
    assert outcome(study.path) == expected
    (study.path / "study.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"study\.json"):
        tune(resume=True)
    with pytest.raises(CheckpointError, match="no study there"):
        tuner.read_study(study.path / "trial-0000")
    with pytest.raises(CheckpointError, match="holds a run"):
        tune(f"{study.path.name}/trial-0000", resume=True)


def test_half_a_line_at_the_end_of_the_journal_is_no_trial(tune: Callable[..., tuner.Study]) -> None:
    straight = tune("straight", trials=4)
    study = tune(trials=4)
    journal = study.path / "trials.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    for cut in (b"".join(lines[:-1]) + lines[-1][:-1], b"".join(lines[:-1]) + lines[-1][:50], lines[0][:9]):
        journal.write_bytes(cut)
        assert len(tuner.read_study(study.path).trials) == max(cut.count(b"\n") - 1, 0)
        assert len(tune(trials=4, resume=True).trials) == 4
        assert outcome(study.path) == outcome(straight.path)


def test_the_journal_is_read_without_pickle(
    tune: Callable[..., tuner.Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tune()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickle is not to be used")

    for name in ("loads", "load", "dumps", "dump", "Unpickler", "Pickler"):
        monkeypatch.setattr(f"optuna.storages.journal._storage.pickle.{name}", refuse)
    assert tuner.read_study(study.path).trials == study.trials
    assert len(tune(trials=4, resume=True).trials) == 4
    for line in (study.path / "trials.log").read_text().splitlines():
        json.loads(line)


def test_optuna_opens_the_study(tune: Callable[..., tuner.Study]) -> None:
    study = tune(space={**SMALL, "train.learning_rate": Choice(0.02, 1e30)}, trials=4)
    storages = pytest.importorskip("optuna").storages
    backend = storages.journal.JournalFileBackend(str(study.path / "trials.log"))
    (stored,) = storages.JournalStorage(backend).get_all_studies()
    trials = storages.JournalStorage(backend).get_all_trials(stored._study_id)
    assert [t.value for t in trials] == [t.value for t in study.trials]
    assert [t.state.name for t in trials] == ["COMPLETE" if t.value else "FAIL" for t in study.trials]
    assert trials[0].params == {}, "the default learning rate lies outside the space"
    assert [t.params["dim"] for t in trials[1:]] == [t.options["dim"] for t in study.trials[1:]]


def test_one_process_works_on_a_study(tune: Callable[..., tuner.Study]) -> None:
    def again(_: tuner.Trial) -> None:
        if (study_path / "trials.log").exists():
            with pytest.raises(CheckpointError, match="another tuning is writing"):
                tune(resume=True)
            refused.append(True)

    refused: list[bool] = []
    study_path = tune(trials=1).path
    tune(trials=2, resume=True, on_trial=again)
    assert refused == [True]


def as_format_1(study: tuner.Study) -> None:
    """Writes a study's records as graphrec of 2026-11 did, which called ``dim`` as it does now."""
    for trial in study.trials:
        content = {key: value for key, value in asdict(trial).items() if key != "path"}
        write_sealed(trial.path / "trial.json", {**content, "format": 1})
    (study.path / "trials.log").unlink()
    facts = read_sealed(study.path / "study.json", "")
    write_sealed(study.path / "study.json", {**facts, "format": 1, "optuna": None})


def test_a_study_of_format_1_is_read_and_goes_on(tune: Callable[..., tuner.Study]) -> None:
    straight = tune("straight", trials=5)
    study = tune(trials=3)
    as_format_1(study)
    assert tuner.read_study(study.path).trials == study.trials
    assert tune(trials=5, resume=True).trials[:3] == study.trials
    found = [(t.options, t.value) for t in tuner.read_study(study.path).trials]
    assert found == [(t.options, t.value) for t in straight.trials]
    record = study.trials[1].path / "trial.json"
    as_format_1(study)
    record.write_text(record.read_text().replace('"number": 1', '"number": 2'))
    with pytest.raises(CheckpointError, match=r"trial-0001/trial\.json"):
        tuner.read_study(study.path)


def test_options_of_format_1_are_read_under_their_present_names(
    tune: Callable[..., tuner.Study],
) -> None:
    space: Space = {"normalize": Choice(False, True), "k": Integers(3, 9)}
    given = {"model": "itemknn", "space": space, "train_options": {"device": "cpu"}}
    study = tune(**given)
    as_format_1(study)
    for number in range(3):
        record = study.path / f"trial-000{number}" / "trial.json"
        record_of = read_sealed(record, "")
        for part in ("options", "model_options"):
            record_of[part]["normalise"] = record_of[part].pop("normalize")
        write_sealed(record, record_of)
    facts = read_sealed(study.path / "study.json", "")
    for part in ("space", "model_config"):
        facts[part]["normalise"] = facts[part].pop("normalize")
    write_sealed(study.path / "study.json", facts)
    assert [t.options for t in tuner.read_study(study.path).trials] == [t.options for t in study.trials]
    assert len(tune(**given, resume=True, trials=4).trials) == 4


def test_interrupted_in_random_epochs_it_ends_as_if_it_had_not_been(
    tune: Callable[..., tuner.Study], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    straight = outcome(tune("straight", trials=6).path)
    rng, real = numpy_rng(0, "test/tuning"), runs.train
    left, epochs = [0], [0]

    def stopping(*given: Any, **options: Any) -> Any:
        def count(_: dict[str, float]) -> None:
            epochs[0] += 1
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        return real(*given, **options, on_epoch=count)

    monkeypatch.setattr(runs, "train", stopping)
    stops = 0
    while True:
        left[0] = int(rng.integers(1, 6))
        try:
            tune("stopped", trials=6, resume=True)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 3
    assert outcome(tmp_path / "stopped") == straight
    assert epochs[0] == 6 * FIXED["epochs"], "no epoch is trained twice"


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    made: tuple[Dataset, dict[str, Any]], tmp_path: Path
) -> None:
    """SIGKILL half-way through a file, before a rename, before a removal: anywhere."""
    data, _ = made
    data.save(tmp_path / "data")
    line = ["tune", "mf", str(tmp_path / "data"), "--trials", "6", "--device", "cpu", "--set", "model.dim=4"]
    line += ["--set", "train.epochs=2", "--set", "train.batch_size=64"]
    rng, kills = numpy_rng(1, "test/tuning"), 0
    with Trainings() as trainings:

        def sitting(out: Path, **more: Any) -> int:
            arguments = [*line, "--out", str(out), "--resume"]
            return trainings.run(arguments=arguments, stderr=str(tmp_path / "stderr"), **more)

        said = tmp_path / "stderr"
        assert sitting(tmp_path / "straight", steps=tmp_path / "steps") == 0, said.read_text()
        steps = len((tmp_path / "steps").read_text().splitlines())
        while code := sitting(tmp_path / "killed", kill=int(rng.integers(steps // 9, steps // 3))):
            assert code == -signal.SIGKILL, said.read_text()
            kills += 1
        assert sitting(tmp_path / "torn", kill="half torn/trials.log again") == -signal.SIGKILL
        assert not (tmp_path / "torn" / "trials.log").read_bytes().endswith(b"\n")
        assert sitting(tmp_path / "torn") == 0, said.read_text()
    assert kills >= 3
    for name in ("killed", "torn"):
        assert outcome(tmp_path / name) == outcome(tmp_path / "straight")


def test_a_metric_that_is_better_when_lower_is_refused(
    tune: Callable[..., tuner.Study], metric_registry: None
) -> None:
    @metric("first_place", "rank of the first hit", higher_is_better=False)
    def first_place(*_: Any) -> Any:
        raise AssertionError("refused before anything is measured")

    with pytest.raises(ConfigError, match="first_place@20"):
        tune(select="first_place@20")

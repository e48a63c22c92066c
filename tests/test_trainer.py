"""The training loop: early stopping, schedules, guards, checkpoints, resuming, what a run directory says."""

from __future__ import annotations

import json
import math
import time
from typing import ClassVar

import numpy as np
import pytest
import torch

from graphrec import testing
from graphrec.core.bundle import read_sealed, write_sealed
from graphrec.core.errors import CheckpointError, ConfigError, TrainingError
from graphrec.models.mf import MF
from graphrec.models.popularity import Popularity
from graphrec.models.train_config import TrainConfig
from graphrec.training import checkpoint
from graphrec.training.trainer import Trainer, rate


@pytest.fixture
def data():
    return testing.communities(2, 20)[0]


def options(**changes) -> TrainConfig:
    given = {"epochs": 5, "batch_size": 64, "patience_steps": 0, "device": "cpu", "progress": False}
    return TrainConfig(**{**given, **changes})


class Scripted:
    """A validation task that returns given values, one a call."""

    def __init__(self, values, name="recall@20"):
        self.values, self.name, self.calls = list(values), name, 0

    def __call__(self, model):
        self.calls += 1
        return {self.name: self.values[self.calls - 1]}


@pytest.mark.parametrize(("missed", "epochs"), [(0, 3), (1.9, 3), (2, 3), (2.3, 4), (7.5, 9), (1e6, 12)])
def test_epochs_of_few_steps_do_not_use_up_the_patience(data, tmp_path, missed: float, epochs: int) -> None:
    """With a patience of one validation, and of the steps of some epochs; the first epoch is the best."""
    steps = -(-len(data.train) // 64)
    values = [0.5] + [0.1] * 20
    config = options(epochs=12, patience=1, patience_steps=int(missed * steps))
    run = Trainer(config, tmp_path / "run").fit(MF.build(data), Scripted(values))
    assert len(run.history) == epochs
    assert run.best_epoch == 1
    parts = tmp_path / "parts"
    Trainer(config.replace(stop_after=2), parts).fit(MF.build(data), Scripted(values))
    resumed = Trainer(config, parts).fit(MF.build(data), Scripted(values[2:]), resume=True)
    assert len(resumed.history) == epochs, "the steps before an interruption count"


def test_stops_after_patience_and_returns_the_best_weights(data) -> None:
    model, seen = MF.build(data), []

    def task(m):
        seen.append(m.user_embedding.weight.detach().clone())
        return {"recall@20": [0.1, 0.3, 0.2, 0.2, 0.2, 0.9][len(seen) - 1]}

    run = Trainer(options(epochs=6, patience=2)).fit(model, task)
    assert (run.best_epoch, run.best_value, len(run.history)) == (2, 0.3, 5)  # stops at the third miss
    assert torch.equal(run.model.user_embedding.weight, seen[1])


def test_lower_is_better_where_the_task_says_so(data) -> None:
    task = Scripted([0.5, 0.2, 0.3, 0.1, 0.4], name="missed@20")
    task.higher_is_better = {"missed@20": False}
    run = Trainer(options(epochs=5)).fit(MF.build(data), task)
    assert (run.best_epoch, run.best_value) == (4, 0.1)


def test_improvements_below_the_rounding_do_not_count(data) -> None:
    values = [0.10001, 0.10002, 0.10003, 0.10004]
    run = Trainer(options(epochs=4, patience=2)).fit(MF.build(data), Scripted(values))
    assert (run.best_epoch, len(run.history)) == (1, 4)
    exact = Trainer(options(epochs=4, patience=2, decimals=None)).fit(MF.build(data), Scripted(values))
    assert exact.best_epoch == 4


def test_validates_as_often_as_asked_and_always_last(data) -> None:
    task = Scripted([0.1, 0.2, 0.3])
    run = Trainer(options(epochs=5, validate_every=2)).fit(MF.build(data), task)
    assert [h["epoch"] for h in run.history if "recall@20" in h] == [2, 4, 5]


def test_select_names_a_validated_metric(data) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'recall@20'"):
        Trainer(options()).fit(MF.build(data), Scripted([0.1] * 5), select="recal@20")


def test_nan_validation_is_an_error(data) -> None:
    with pytest.raises(TrainingError, match="recall@20 is nan"):
        Trainer(options()).fit(MF.build(data), Scripted([math.nan]))


def test_a_loss_that_is_not_finite_is_named(data) -> None:
    class Breaks(MF):
        def loss(self, batch):
            return {**super().loss(batch), "broken": self.user_embedding.weight.sum() * float("nan")}

    with pytest.raises(TrainingError, match=r"epoch 1, step 1: loss term 'broken' is nan"):
        Trainer(options()).fit(Breaks.build(data))


def test_losses_fall(data) -> None:
    run = Trainer(options(epochs=30, learning_rate=0.01)).fit(MF.build(data))
    assert run.history[-1]["loss/bpr"] < 0.7 * run.history[0]["loss/bpr"]


def test_gradients_are_cleared_between_steps(data) -> None:
    class Once(MF):
        """One fixed batch, so that a plain gradient step can be computed beside it."""

        def batches(self, plan):
            return iter(list(super().batches(plan))[:1])

        def optimizer(self, config):
            return torch.optim.SGD(self.parameters(), lr=config.learning_rate)

    model, twin = Once.build(data), Once.build(data)
    config = options(epochs=3, learning_rate=0.5)
    Trainer(config).fit(model)
    for epoch in (1, 2, 3):
        from graphrec.models.batches import EpochContext

        (batch,) = twin.batches(EpochContext(epoch, config.batch_size, config.seed))
        grads = torch.autograd.grad(sum(twin.loss(batch).values()), list(twin.parameters()))
        with torch.no_grad():
            for p, g in zip(twin.parameters(), grads, strict=True):
                p -= config.learning_rate * g
    assert torch.allclose(model.user_embedding.weight, twin.user_embedding.weight, atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_schedules_are_functions_of_the_epoch(schedule: str) -> None:
    config = options(epochs=100, schedule=schedule, warmup=4)
    factors = [rate(config, e) for e in range(1, 101)]
    assert factors[0] == pytest.approx(0.2)
    assert factors[4] == pytest.approx(1.0)
    assert all(0 < f <= 1 for f in factors)
    tail = factors[4:]
    assert tail == sorted(tail, reverse=True)
    assert (tail[-1] < 0.05) == (schedule != "constant")


def test_the_exponential_schedule_falls_a_little_in_every_epoch_and_knows_no_last_one() -> None:
    config = options(epochs=200, schedule="exponential")
    assert rate(config, 1) == 1.0
    assert rate(config, 2) == pytest.approx(0.96 ** (1 / 50))  # the exponent is not rounded down
    assert rate(config, 51) == pytest.approx(0.96)
    assert rate(config, 126) == pytest.approx(0.96**2.5)
    faster = config.replace(decay=0.5, decay_epochs=10, warmup=4)
    assert rate(faster, 4) == pytest.approx(0.8)
    assert rate(faster, 5) == 1.0
    assert rate(faster, 25) == pytest.approx(0.25)
    assert [rate(config.replace(epochs=60), e) for e in range(1, 61)] == [
        rate(config, e) for e in range(1, 61)
    ]


class SlowItems(MF):
    """Items have a learning rate of their own."""

    rates: ClassVar[list[list[float]]] = []

    def optimizer(self, config):
        users, items = self.user_embedding.parameters(), self.item_embedding.parameters()
        self.made = torch.optim.Adam([{"params": users}, {"params": items, "lr": 1e-4}], config.learning_rate)
        return self.made

    def loss(self, batch):
        self.rates.append([group["lr"] for group in self.made.param_groups])
        return super().loss(batch)


def test_groups_keep_their_learning_rates_and_the_schedule_scales_them(data, tmp_path) -> None:
    plan = {"schedule": "exponential", "decay": 0.5, "decay_epochs": 1, "learning_rate": 0.1}
    SlowItems.rates.clear()
    Trainer(options(epochs=2, **plan), out=tmp_path).fit(SlowItems.build(data))
    Trainer(options(epochs=3, **plan), out=tmp_path).fit(SlowItems.build(data), resume=True)
    found = np.array(SlowItems.rates)
    assert np.allclose(np.unique(found, axis=0)[::-1], [[0.1, 1e-4], [0.05, 5e-5], [0.025, 2.5e-5]])
    assert np.allclose(found[-1], [0.025, 2.5e-5])


def test_training_with_the_exponential_schedule_can_be_made_longer(data, tmp_path) -> None:
    rates = []

    class Watched(MF):
        def optimizer(self, config):
            made = torch.optim.SGD(self.parameters(), lr=config.learning_rate)
            made.register_step_pre_hook(lambda *_: rates.append(made.param_groups[0]["lr"]))
            return made

    made = {
        "schedule": "exponential",
        "decay": 0.5,
        "decay_epochs": 2,
        "learning_rate": 0.8,
        "batch_size": 10**6,
    }
    Trainer(options(epochs=2, **made), out=tmp_path).fit(Watched.build(data))
    run = Trainer(options(epochs=3, **made), out=tmp_path).fit(Watched.build(data), resume=True)
    assert len(run.history) == 3
    assert rates == pytest.approx([0.8, 0.8 * 0.5**0.5, 0.4])


def test_clipping_bounds_the_gradient(data) -> None:
    class Watched(MF):
        norms: list

        def optimizer(self, config):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            optimizer.register_step_pre_hook(
                lambda *_: self.norms.append(
                    math.sqrt(sum(float(p.grad.norm()) ** 2 for p in self.parameters()))
                )
            )
            return optimizer

    model = Watched.build(data)
    model.norms = []
    Trainer(options(epochs=1, clip_norm=1e-3)).fit(model)
    assert max(model.norms) == pytest.approx(1e-3, rel=1e-3)


def test_a_run_directory_says_what_was_run(data, tmp_path) -> None:
    out = tmp_path / "run"
    run = Trainer(options(seed=3), out=out).fit(
        MF.build(data),
        Scripted([0.1, 0.2, 0.3, 0.2, 0.1]),
        about={"dataset": {"fingerprint": data.fingerprint}},
    )
    facts = json.loads((out / "run.json").read_text())
    assert facts["model"] == "mf"
    assert facts["train_config"]["seed"] == 3
    assert facts["dataset"]["fingerprint"] == data.fingerprint
    assert facts["environment"]["packages"]["torch"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines == run.history
    assert checkpoint.read(out / "best")["step"] == 3
    assert checkpoint.read(out / "last")["step"] == 5


def test_a_used_directory_is_not_overwritten(data, tmp_path) -> None:
    Trainer(options(), out=tmp_path).fit(MF.build(data))
    with pytest.raises(CheckpointError, match="already holds a run"):
        Trainer(options(), out=tmp_path).fit(MF.build(data))
    with pytest.raises(CheckpointError, match=r"model\.dim: 64 there, 8 here"):
        Trainer(options(), out=tmp_path).fit(MF.build(data, None, MF.Config(dim=8)), resume=True)
    with pytest.raises(CheckpointError, match=r"train\.learning_rate: 0\.001 there, 0\.5 here"):
        Trainer(options(learning_rate=0.5), out=tmp_path).fit(MF.build(data), resume=True)


def test_resuming_a_finished_run_returns_it(data, tmp_path) -> None:
    first = Trainer(options(), out=tmp_path).fit(MF.build(data), Scripted([0.1, 0.3, 0.2, 0.1, 0.1]))
    again = Trainer(options(), out=tmp_path).fit(MF.build(data), Scripted([]), resume=True)
    assert again.history == first.history
    assert torch.equal(again.model.user_embedding.weight, first.model.user_embedding.weight)


def test_a_finished_run_goes_on_with_more_epochs_or_patience(data, tmp_path) -> None:
    straight = Trainer(options(epochs=6)).fit(MF.build(data))
    Trainer(options(epochs=2), out=tmp_path).fit(MF.build(data))
    longer = Trainer(options(epochs=6), out=tmp_path).fit(MF.build(data), resume=True)
    assert len(longer.history) == 6
    assert torch.equal(longer.model.user_embedding.weight, straight.model.user_embedding.weight)
    values = [0.5, 0.4, 0.3, 0.6]
    impatient = options(epochs=4, patience=1)
    Trainer(impatient, out=tmp_path / "b").fit(MF.build(data), Scripted(values))
    patient = impatient.replace(patience=3)
    run = Trainer(patient, out=tmp_path / "b").fit(MF.build(data), Scripted(values[3:]), resume=True)
    assert (run.best_epoch, len(run.history)) == (4, 4)


def test_an_option_that_is_newer_than_the_run_had_its_default(data, tmp_path) -> None:
    Trainer(options(epochs=2), tmp_path).fit(MF.build(data))
    record = read_sealed(tmp_path / "run.json", "")
    del record["model_config"]["dim"], record["train_config"]["clip_norm"]
    write_sealed(tmp_path / "run.json", record)
    assert len(Trainer(options(epochs=3), tmp_path).fit(MF.build(data), resume=True).history) == 3
    write_sealed(tmp_path / "run.json", record)
    with pytest.raises(CheckpointError, match=r"train\.clip_norm: null there, 1\.0 here"):
        Trainer(options(epochs=4, clip_norm=1.0), tmp_path).fit(MF.build(data), resume=True)


def test_a_dataset_is_not_taken_for_a_run_directory(data, tmp_path) -> None:
    data.save(tmp_path)
    with pytest.raises(CheckpointError, match="holds a dataset; choose another directory"):
        Trainer(options(), tmp_path).fit(MF.build(data))
    assert not (tmp_path / "run.json").exists()


def test_stretched_schedules_cannot_be_made_longer(data, tmp_path) -> None:
    Trainer(options(epochs=2, schedule="cosine"), out=tmp_path).fit(MF.build(data))
    with pytest.raises(CheckpointError, match=r"train\.epochs: 2 there, 4 here"):
        Trainer(options(epochs=4, schedule="cosine"), out=tmp_path).fit(MF.build(data), resume=True)


def test_early_stopping_survives_interruption(data, tmp_path) -> None:
    class StoppedError(Exception):
        pass

    values = [0.1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1]

    def stop(record):
        if record["epoch"] == 3:
            raise StoppedError

    config = options(epochs=7, patience=3)
    straight = Trainer(config).fit(MF.build(data), Scripted(values))
    with pytest.raises(StoppedError):
        Trainer(config, out=tmp_path).fit(MF.build(data), Scripted(values), on_epoch=stop)
    resumed = Trainer(config, out=tmp_path).fit(MF.build(data), Scripted(values[3:]), resume=True)
    assert (
        (resumed.best_epoch, len(resumed.history)) == (straight.best_epoch, len(straight.history)) == (2, 6)
    )
    assert torch.equal(resumed.model.item_embedding.weight, straight.model.item_embedding.weight)
    losses = [[h["loss/bpr"] for h in r.history] for r in (straight, resumed)]
    assert losses[0] == losses[1]


def test_models_without_parameters_are_validated_once(data, tmp_path) -> None:
    task = Scripted([0.25])
    run = Trainer(options(), out=tmp_path).fit(Popularity.build(data), task)
    assert (task.calls, run.best_value) == (1, 0.25)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == run.history[0]
    fresh = Popularity.build(data)
    fresh.count.zero_()
    checkpoint.read(tmp_path / "best", fresh)
    assert np.array_equal(fresh.count.numpy(), data.train.item_degree)


def test_bf16_autocast_trains_close_to_float32(data) -> None:
    runs = [Trainer(options(epochs=3, precision=p)).fit(MF.build(data)) for p in ("no", "bf16")]
    losses = [r.history[-1]["loss/bpr"] for r in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_tensorboard_events_are_written(data, tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'track' is not installed")
    Trainer(options(epochs=1, tensorboard=True), out=tmp_path).fit(MF.build(data))
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epohcs": 3}, "Did you mean 'epochs'"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"schedule": "cosinus"}, "'constant', 'cosine', 'linear' or 'exponential'"),
        ({"precision": "fp16", "device": "cpu"}, "needs a CUDA device"),
        ({"device": "cuda" if not torch.cuda.is_available() else "mps"}, "not available here"),
    ],
)
def test_bad_options_are_explained(data, change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(TrainConfig(**{"epochs": 1, "progress": False, **change})).fit(MF.build(data))


def test_two_trainings_do_not_write_to_one_directory(tmp_path) -> None:
    data, _ = testing.communities(2, 20)
    config = TrainConfig(epochs=2, device="cpu", progress=False, patience=None)
    out, told = tmp_path / "run", list[str]()

    def meanwhile(_: dict[str, float]) -> None:
        with pytest.raises(CheckpointError, match="another training is writing to it") as refused:
            Trainer(config, out).fit(MF.build(data), resume=True)
        told.append(str(refused.value))

    Trainer(config, out).fit(MF.build(data), on_epoch=meanwhile)
    assert len(told) == 2
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    more = config.replace(epochs=4)
    with pytest.raises(ZeroDivisionError):  # a training that fails lets go
        Trainer(more, out).fit(MF.build(data), resume=True, on_epoch=lambda _: 1 // 0)
    Trainer(more, out).fit(MF.build(data), resume=True)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 4


# -- the profile ---------------------------------------------------------------------------------------------


def test_a_profile_says_where_the_seconds_of_an_epoch_went(data, tmp_path) -> None:
    class Slow(MF):
        def batches(self, plan):
            time.sleep(0.05)
            return super().batches(plan)

        def loss(self, batch):
            time.sleep(0.01)
            return super().loss(batch)

    def task(model):
        time.sleep(0.03)
        return {"recall@20": 0.1}

    run = Trainer(options(epochs=2, profile=True), tmp_path / "run").fit(Slow.build(data), task)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    n_steps = -(-len(data.train) // 64)
    for line in lines:
        profile = {k.removeprefix("profile/"): v for k, v in line.items() if k.startswith("profile/")}
        assert list(profile) == ["batches", "forward", "backward", "step", "validation"]
        assert profile["batches"] >= 0.05
        assert profile["forward"] >= 0.01 * n_steps
        assert profile["validation"] >= 0.03
        assert all(seconds > 0 for seconds in profile.values())
        assert sum(profile.values()) <= line["seconds"]  # checkpoints and bookkeeping take the rest
    assert run.profile["forward"] == pytest.approx(sum(line["profile/forward"] for line in lines))


def test_a_profile_changes_no_result(data) -> None:
    runs = [Trainer(options(epochs=2, profile=on)).fit(MF.build(data)) for on in (False, True)]
    for name, value in runs[0].model.state_dict().items():
        assert torch.equal(value, runs[1].model.state_dict()[name])
    assert not runs[0].profile
    assert not any(name.startswith("profile") for record in runs[0].history for name in record)
    field = TrainConfig.model_fields["profile"]
    assert field.json_schema_extra == {"affects_result": False}

"""Checkpoints: whole or absent, checked on reading, written in an order that a kill cannot spoil."""

from __future__ import annotations

import os

import pytest
import torch

from graphrec import testing
from graphrec.core import bundle, files
from graphrec.core.errors import CheckpointError
from graphrec.core.random import numpy_rng
from graphrec.models.mf import MF
from graphrec.training import checkpoint


@pytest.fixture
def model() -> MF:
    return MF.build(testing.communities(2, 20)[0])


def trained_optimizer(model) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, fused=True)
    model.user_embedding.weight.sum().backward()
    model.item_embedding.weight.sum().backward()
    optimizer.step()
    return optimizer


def test_round_trip_with_optimizer(model, tmp_path) -> None:
    optimizer = trained_optimizer(model)
    checkpoint.write(tmp_path, 7, model, optimizer, note="x")
    twin = MF.build(testing.communities(2, 20)[0], None, MF.Config(seed=5))
    other = torch.optim.Adam(twin.parameters(), lr=0.5, fused=True)
    state = checkpoint.read(tmp_path, twin, other)
    assert (state["step"], state["note"]) == (7, "x")
    assert torch.equal(model.user_embedding.weight, twin.user_embedding.weight)
    assert other.param_groups[0]["lr"] == 0.02
    for before, after in zip(
        optimizer.state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(before[k], after[k]) for k in before)


def test_only_the_newest_files_stay(model, tmp_path) -> None:
    for step in (1, 2, 3):
        with torch.no_grad():
            model.user_embedding.weight.fill_(step)
        checkpoint.write(tmp_path, step, model)
        assert len(list(tmp_path.iterdir())) == 2
    (tensors,) = tmp_path.glob("*.safetensors")
    checkpoint.write(tmp_path, 4, model)
    assert sorted(tmp_path.iterdir()) == [tensors, tmp_path / "state.json"], "equal content has an equal name"


def test_a_kill_between_two_writes_of_one_step_leaves_the_first(model, tmp_path, monkeypatch) -> None:
    """The same epoch trained twice need not give the same bits, after a change of device for one."""
    checkpoint.write(tmp_path, 1, model)
    before = model.user_embedding.weight.detach().clone()
    with torch.no_grad():
        model.user_embedding.weight.add_(1)

    def killed(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "write_sealed", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path, 1, model)
    checkpoint.read(tmp_path, model)
    assert torch.equal(model.user_embedding.weight, before)


@pytest.mark.parametrize("stage", range(6))
def test_dying_at_any_write_leaves_a_checkpoint_that_loads(model, tmp_path, monkeypatch, stage) -> None:
    """Stops before the n-th rename of the second checkpoint: the first one is still there, whole."""
    checkpoint.write(tmp_path, 1, model, trained_optimizer(model))
    before = model.user_embedding.weight.detach().clone()
    real, calls = os.replace, iter(range(100))

    class Killed(BaseException):
        pass

    def replace(source, target):
        if next(calls) == stage:
            raise Killed
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    with torch.no_grad():
        model.user_embedding.weight.fill_(9)
    try:
        checkpoint.write(tmp_path, 2, model, trained_optimizer(model))
    except Killed:
        monkeypatch.undo()
        state = checkpoint.read(tmp_path, model)
        assert state["step"] == 1
        assert torch.equal(model.user_embedding.weight, before)
    else:
        assert stage >= 3  # model, optimizer, state.json: three renames
        assert checkpoint.read(tmp_path, model)["step"] == 2


@pytest.mark.parametrize("part", ["model", "optimizer", "state"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "directory", "longer"])
def test_damage_is_named(model, tmp_path, part, damage) -> None:
    optimizer = trained_optimizer(model)
    checkpoint.write(tmp_path, 1, model, optimizer)
    (path,) = tmp_path.glob(f"{part}*")
    whole = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "remove":
        path.write_bytes({"truncate": whole[:-10], "empty": b"", "longer": whole + b"{}"}[damage])
    before = model.user_embedding.weight.detach().clone()
    with torch.no_grad():
        model.user_embedding.weight.add_(1)
    with pytest.raises(CheckpointError, match=path.name):
        checkpoint.read(tmp_path, model, optimizer)
    assert torch.equal(model.user_embedding.weight, before + 1), "nothing is loaded from a damaged checkpoint"


def test_every_flipped_bit_of_the_state_is_found(model, tmp_path) -> None:
    """All of them: a number with another digit would be served in silence."""
    training = {"history": [{"epoch": 1, "loss/bpr": 0.693, "small": 1e-07}], "threshold": -1e300}
    checkpoint.write(tmp_path, 1, model, training=training)
    path, state = tmp_path / "state.json", checkpoint.read(tmp_path)
    whole, found = path.read_bytes(), 0
    for place in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert repr(checkpoint.read(tmp_path)) == repr(state)
        except CheckpointError:
            found += 1
    unharmful = whole.count(b"e-") + whole.count(b"e+")  # 1e-07 and 1E-07 are one number
    assert found >= 8 * len(whole) - unharmful


def test_random_flips_of_tensor_files_are_found(model, tmp_path) -> None:
    optimizer = trained_optimizer(model)
    checkpoint.write(tmp_path, 1, model, optimizer)
    rng = numpy_rng(0, "test/flips")
    for path in sorted(tmp_path.glob("*.safetensors")) * 50:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=path.name):
            checkpoint.read(tmp_path, model, optimizer)
        path.write_bytes(whole)
    assert checkpoint.read(tmp_path, model, optimizer)["step"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, r"format 1; .* checkpoint format 2: train again"),
        ({"format": None}, "format None"),
        ({"files": {"model": {"name": "../model.safetensors", "sha256": ""}}}, "outside the directory"),
        ({"files": {}}, "holds no model"),
    ],
)
def test_a_state_that_fits_no_checkpoint_is_refused(model, tmp_path, change, message) -> None:
    checkpoint.write(tmp_path, 1, model)
    path = tmp_path / "state.json"
    bundle.write_sealed(path, {**bundle.read_sealed(path, ""), **change})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(tmp_path, model)
    path.write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="format 'list'"):
        checkpoint.read(tmp_path, model)


def test_another_models_checkpoint_is_refused(model, tmp_path) -> None:
    checkpoint.write(tmp_path, 1, model)
    smaller = MF.build(testing.communities(2, 20)[0], None, MF.Config(dim=3))
    with pytest.raises(CheckpointError, match="another model or dataset"):
        checkpoint.read(tmp_path, smaller)


def test_an_unwritable_place_is_an_error_that_says_so(model, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"last: cannot be written .*then resume"):
        checkpoint.write(tmp_path / "file" / "last", 1, model)

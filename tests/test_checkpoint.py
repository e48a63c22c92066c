"""Checkpoints: whole or absent, checked on reading, written in an order that a kill cannot spoil."""

from __future__ import annotations

import json
import os

import pytest
import torch

from graphrec import atomic, checkpoint, testing
from graphrec.errors import CheckpointError
from graphrec.models.mf import MF


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
        checkpoint.write(tmp_path, step, model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model-000003.safetensors", "state.json"]


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

    monkeypatch.setattr(atomic.os, "replace", replace)
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


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "json", "format", "escape"])
def test_damage_is_named(model, tmp_path, damage) -> None:
    checkpoint.write(tmp_path, 1, model)
    tensors, state = tmp_path / "model-000001.safetensors", tmp_path / "state.json"
    content = bytearray(tensors.read_bytes())
    named = tensors.name
    if damage == "flip":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "truncate":
        tensors.write_bytes(content[:-10])
    elif damage == "remove":
        tensors.unlink()
    elif damage == "json":
        named = state.name
        state.write_text(state.read_text()[:-20])
    else:
        named = state.name
        facts = json.loads(state.read_text())
        if damage == "format":
            facts["format"] = 99
        else:
            facts["files"]["model"]["name"] = "../elsewhere.safetensors"
        state.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=named):
        checkpoint.read(tmp_path, model)


def test_another_models_checkpoint_is_refused(model, tmp_path) -> None:
    checkpoint.write(tmp_path, 1, model)
    smaller = MF.build(testing.communities(2, 20)[0], None, MF.Config(dim=3))
    with pytest.raises(CheckpointError, match="another model or dataset"):
        checkpoint.read(tmp_path, smaller)


def test_an_unwritable_place_is_an_error_that_says_so(model, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        checkpoint.write(tmp_path / "file" / "last", 1, model)

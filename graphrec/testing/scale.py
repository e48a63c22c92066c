"""Checks that a model scales as :meth:`graphrec.models.base.Model.scaling` declares."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from graphrec.core.errors import ConfigError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.models.base import Model, ModelConfig
from graphrec.models.batches import EpochContext
from graphrec.testing.contract import train
from graphrec.testing.datasets import communities, fixtures, select_features

TOLERANCE = 1e-6
"""For losses and gradients: float32 sums over parts are added in another order."""
WEIGHT_TOLERANCE = 1e-5
"""For weights after some steps of an adaptive optimizer, which divides small gradients by their magnitude."""
MOST_APART = 1e-2
"""Share of a tensor's weights that may differ by more, and one of them at least: where a gradient is all but
zero, rounding decides."""
MOST_DIFFERENCE = 1e-4
"""And by how much: a hundredth of a step."""


def check_processes(model_class: type[Model], config: ModelConfig) -> None:
    """Two processes train the same weights as one, or are refused if ``data_parallel`` is None."""
    if not hasattr(os, "fork"):
        return
    with fixtures(model_class, config) as (data, features, config), tempfile.TemporaryDirectory() as folder:
        answers = list(_train_in_processes(2, Path(folder), model_class, config, data, features))
        if model_class.data_parallel is None:
            for answer in answers:
                assert "trains in one process" in answer.get("refused", ""), (
                    f"data_parallel is None, and two processes were not refused: {answer}"
                )
            return
        model = model_class.build(data, select_features(model_class, features), config)
        trainable = any(p.requires_grad for p in model.parameters())
        assert trainable, "data_parallel is set, and there is nothing to train"
        single = train(model_class, config, data, features, 2).state_dict()
        for rank, answer in enumerate(answers):
            assert "weights" in answer, f"process {rank} of two failed: {answer.get('refused')}"
            for name, value in single.items():
                other = torch.tensor(answer["weights"][name], dtype=value.dtype)
                if differing := differing_weights(value, other):
                    raise AssertionError(f"{name} {differing}")


def differing_weights(one: torch.Tensor, other: torch.Tensor, most: float = MOST_DIFFERENCE) -> str | None:
    """How the weights of one process and of several differ; None if only as rounding explains.

    Args:
        one: of one process.
        other: of several.
        most: how far a weight may be off; after several epochs rounding adds up.
    """
    difference = (other - one).abs()
    worst = float(difference.max()) if one.numel() else 0.0
    apart = int((difference > WEIGHT_TOLERANCE).sum())
    if worst <= most and apart <= max(1, MOST_APART * one.numel()):
        return None
    return (
        f"differs by {worst:.1e} between one process and two, {apart} of {one.numel()} weights by more than "
        f"{WEIGHT_TOLERANCE:.0e}"
    )


def _train_in_processes(
    n: int, folder: Path, model_class: type[Model], config: ModelConfig, data: Any, features: Any
) -> Iterator[dict[str, Any]]:
    """Yields the weights, or the error, of each of ``n`` forked processes that train together."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = []
    for rank in range(n):
        if child := os.fork():
            children.append(child)
            continue
        code = 1
        try:  # the child must never return into the code of its parent
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n,
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
            os.environ.update({k: str(v) for k, v in place.items()})
            torch.set_num_threads(1)
            try:
                weights = train(model_class, config, data, features, 2).state_dict()
                answer: dict[str, Any] = {"weights": {k: v.tolist() for k, v in weights.items()}}
            except Exception as cause:  # reported by the parent
                answer = {"refused": f"{type(cause).__name__}: {cause}"}
            (folder / f"{rank}.json").write_text(json.dumps(answer))
            code = 0
        finally:
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for rank, code in enumerate(codes):
        path = folder / f"{rank}.json"
        yield json.loads(path.read_text()) if path.exists() else {"refused": f"ended with status {code}"}


def check_sampled_subgraphs(model_class: type[Model], config: ModelConfig) -> None:
    """With ``fanouts`` of all neighbors, losses and gradients equal those of the whole graph; with fewer
    neighbors they differ.
    """
    if "fanouts" not in type(config).model_fields:
        return
    data, features = communities(2, 20)
    (losses, gradients), (sampled, sampled_gradients), (one_neighbor, _) = (
        _first_step(model_class, _with_fanout(config, fanout), data, features) for fanout in (None, -1, 1)
    )
    assert set(losses) == set(sampled), f"sampling changes the loss terms: {set(losses) ^ set(sampled)}"
    for name, value in losses.items():
        off = abs(float(value - sampled[name])) / max(abs(float(value)), 1e-3)
        assert off <= TOLERANCE, f"loss {name!r} differs by {off:.1e} from the whole graph's"
    for name, gradient in gradients.items():
        off = float((gradient - sampled_gradients[name]).abs().max() / gradient.abs().max().clamp(min=1e-12))
        assert off <= 10 * TOLERANCE, f"the gradient of {name} differs by {off:.1e} from the whole graph's"
    changed = any(float(v) != float(one_neighbor[k]) for k, v in losses.items())
    assert changed, "fanouts is an option without any effect"


def _with_fanout(config: ModelConfig, fanout: int | None) -> ModelConfig:
    """The same options with the given fanout in every layer."""
    for n_layers in range(1, 9) if fanout is not None else ():
        try:
            return config.replace(fanouts=(fanout,) * n_layers)
        except ConfigError:
            continue
    return config.replace(fanouts=None)


def _first_step(
    model_class: type[Model], config: ModelConfig, data: Any, features: Any
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses and dense gradients of the first batch of an epoch."""
    model = model_class.build(data, select_features(model_class, features), config)
    model.start_epoch(numpy_rng(0, "start_epoch", 1))
    losses = model.loss(next(iter(model.batches(EpochContext(1, 64, 0)))))
    torch.stack(list(losses.values())).sum().backward()
    gradients = {
        n: p.grad.to_dense() if p.grad.is_sparse else p.grad
        for n, p in model.named_parameters()
        if p.grad is not None
    }
    return {n: v.detach() for n, v in losses.items()}, gradients


def check_features_on_disk(model_class: type[Model], config: ModelConfig) -> None:
    """With ``features_on_disk`` the model learns the same as with features in memory and keeps no copy."""
    if "features_on_disk" not in type(config).model_fields:
        return
    data, features = communities(2, 20)
    in_memory, from_disk = (
        train(model_class, config.replace(features_on_disk=on_disk), data, features, 2)
        for on_disk in (False, True)
    )
    for name, value in in_memory.state_dict().items():
        worst = float((value - from_disk.state_dict()[name]).abs().max())
        assert worst <= WEIGHT_TOLERANCE, f"{name} differs by {worst:.1e} with features on disk"
    tables: list[FeatureTable] = list(features.values())
    copies = [n for n, t in (*from_disk.named_buffers(), *from_disk.named_parameters())
            if tuple(t.shape) in {table.shape for table in tables}]  # fmt: skip
    assert not copies, f"features_on_disk leaves a copy of the features in {copies}"

"""Checkpoints: safetensors for tensors, one JSON that commits them.

A checkpoint directory holds ``state.json`` and the tensor files it names (see :mod:`graphrec.core.bundle`): a
process killed at any moment leaves a checkpoint that loads, the old one or the new one, and one that was
changed in any bit does not load.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from graphrec.core.bundle import Committed, FileFormat, Write, commit
from graphrec.core.errors import CheckpointError
from graphrec.core.files import write_bytes

FORMAT = FileFormat("checkpoint", 2)  # version 1 had no seal
STATE = "state.json"
REMEDY = "train again in another directory"


def write(
    directory: str | Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    **state: Any,
) -> None:
    """Writes a checkpoint; the one before stays valid until this one is whole.

    Args:
        directory: such as ``runs/x/last``.
        step: such as the epochs done; returned by :func:`read`.
        model: its state dict is written.
        optimizer: its state is written too, if given.
        state: JSON-able values, returned by :func:`read`.

    Raises:
        CheckpointError: the directory cannot be written (full disk, no permission); the previous checkpoint
            is whole.
    """
    files = {"model": _file(model.state_dict())}
    if optimizer is not None:
        tensors, groups = _flatten(optimizer)
        files["optimizer"] = _file(tensors)
        state = {**state, "optimizer_groups": groups}
    commit(Path(directory) / STATE, FORMAT, {"step": step, **state}, files, retry="resume")


def exists(directory: str | Path) -> bool:
    """Whether the directory holds a committed checkpoint."""
    return (Path(directory) / STATE).exists()


def read(
    directory: str | Path, model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Reads a checkpoint, checks it and loads it into the model and the optimizer given.

    Raises:
        CheckpointError: missing, damaged, of another format, or made for a model of other parameters.
    """
    directory = Path(directory)
    saved = Committed(directory / STATE, FORMAT, REMEDY)
    # All is read before anything is loaded, so that a damaged file leaves the model as it was.
    tensors = None if model is None else _load(saved, "model")
    moments = None if optimizer is None else _load(saved, "optimizer")
    if model is not None and tensors is not None:
        try:
            model.load_state_dict(tensors)
        except RuntimeError as cause:
            raise CheckpointError(
                f"{directory}: was made for another model or dataset: {' '.join(str(cause).split())}"
            ) from cause
    if optimizer is not None and moments is not None:
        _restore(optimizer, moments, saved.head["optimizer_groups"], directory)
    return saved.head


def tidy(directory: str | Path) -> None:
    """Removes what a killed writer left beside the committed files."""
    Committed(Path(directory) / STATE, FORMAT, REMEDY).tidy()


def _file(tensors: dict[str, Tensor]) -> tuple[str, str, Write]:
    """Digest of the content, suffix and writer of a tensor file, as :func:`commit` takes them."""
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    sha256 = hashlib.sha256(data).hexdigest()

    def writer(path: Path) -> str:
        write_bytes(path, data)
        return sha256

    return sha256, "safetensors", writer


def _load(saved: Committed, part: str) -> dict[str, Tensor]:
    path = saved.file(part)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as cause:
        raise CheckpointError(f"{path}: not readable as safetensors ({cause}); {saved.remedy}") from cause
    return tensors


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Optimizer state as named tensors and JSON-able parameter groups."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for index, entry in state["state"].items()
        for key, value in entry.items()
    }
    plain = (bool, int, float, str, list, tuple, type(None))
    return tensors, [{k: v for k, v in g.items() if isinstance(v, plain)} for g in state["param_groups"]]


def _restore(
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    groups: list[dict[str, Any]],
    directory: Path,
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError) as cause:
        raise CheckpointError(
            f"{directory}: the optimizer's state does not fit this model ({cause})"
        ) from cause

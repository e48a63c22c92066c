"""Checkpoints: tensors in safetensors files, committed by one JSON file.

A checkpoint directory holds ``state.json`` and the tensor files it names (see :mod:`graphrec.core.bundle`). A
process killed at any moment leaves either the old or the new checkpoint, and a checkpoint with a changed bit
does not load.
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
    """Writes a checkpoint; the previous one stays valid until this one is complete.

    Args:
        directory: such as ``runs/x/last``.
        step: such as the number of epochs trained; returned by :func:`read`.
        model: its state dict is written.
        optimizer: its state is written, unless None.
        state: JSON-able values, returned by :func:`read`.

    Raises:
        CheckpointError: the directory cannot be written (full disk, no permission); the previous checkpoint
            is intact.
    """
    files = {"model": _tensor_file(model.state_dict())}
    if optimizer is not None:
        tensors, groups = _flatten(optimizer)
        files["optimizer"] = _tensor_file(tensors)
        state = {**state, "optimizer_groups": groups}
    commit(Path(directory) / STATE, FORMAT, {"step": step, **state}, files, retry="resume")


def exists(directory: str | Path) -> bool:
    """Whether the directory holds a committed checkpoint."""
    return (Path(directory) / STATE).exists()


def selected(run: str | Path) -> Path | None:
    """The checkpoint with the selected weights of a run: ``best``, or ``last`` if nothing was validated."""
    return next((Path(run) / name for name in ("best", "last") if exists(Path(run) / name)), None)


def open_committed(directory: str | Path) -> Committed:
    """The checkpoint's ``state.json``, checked, and the files it names.

    Raises:
        CheckpointError: missing, damaged, or of another format.
    """
    return Committed(Path(directory) / STATE, FORMAT, REMEDY)


def read(
    directory: str | Path, model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Reads and checks a checkpoint, and loads it into the model and the optimizer, where given.

    Returns:
        ``step`` and the further state that :func:`write` was given.

    Raises:
        CheckpointError: missing, damaged, of another format, or written for a model with other parameters.
    """
    saved = open_committed(directory)
    # Everything is read before anything is loaded, so that a damaged file leaves the model as it was.
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
        _restore(optimizer, moments, saved.head["optimizer_groups"], Path(directory))
    return saved.head


def tidy(directory: str | Path) -> None:
    """Removes files that a killed writer left behind."""
    open_committed(directory).tidy()


def _tensor_file(tensors: dict[str, Tensor]) -> tuple[str, str, Write]:
    """sha256, suffix and writer of a safetensors file, as :func:`commit` expects them."""
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

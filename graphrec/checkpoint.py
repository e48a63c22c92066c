"""Checkpoints: safetensors for tensors, one JSON that commits them.

A checkpoint directory holds ``state.json`` and the tensor files it names with their sha256. Tensor files
carry the epoch in their name and are written first; replacing ``state.json`` is the commit, and only then are
older files removed. A process killed at any moment leaves a checkpoint that loads: the old one or the new
one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from graphrec.atomic import read_json, sha256_file, sweep, write_bytes, write_json
from graphrec.errors import CheckpointError

FORMAT = 1


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
        step: number that names the files, such as the epochs done.
        model: its state dict is written.
        optimizer: its state is written too, if given.
        state: JSON-able values, returned by :func:`read`.

    Raises:
        CheckpointError: the directory cannot be written (full disk, no permission); the previous checkpoint
            is whole.
    """
    directory = Path(directory)
    try:
        files = {"model": _save(directory / f"model-{step:06d}.safetensors", model.state_dict())}
        if optimizer is not None:
            tensors, groups = _flatten(optimizer)
            files["optimizer"] = _save(directory / f"optimizer-{step:06d}.safetensors", tensors)
            state = {**state, "optimizer_groups": groups}
        write_json(directory / "state.json", {"format": FORMAT, "step": step, "files": files, **state})
    except OSError as cause:
        raise CheckpointError(
            f"{directory}: cannot write the checkpoint ({cause}); the previous one is intact: make room or "
            "permit writing, then resume"
        ) from cause
    sweep(directory)
    current = {entry["name"] for entry in files.values()}
    for old in directory.glob("*-[0-9]*.safetensors"):
        if old.name not in current:
            old.unlink(missing_ok=True)


def exists(directory: str | Path) -> bool:
    """Whether the directory holds a committed checkpoint."""
    return (Path(directory) / "state.json").exists()


def read(
    directory: str | Path, model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Reads a checkpoint, checks it and loads it into the model and the optimiser given.

    Raises:
        CheckpointError: missing, damaged, of another format, or made for a model of other parameters.
    """
    directory = Path(directory)
    state = read_json(directory / "state.json", CheckpointError)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{directory / 'state.json'}: not a checkpoint of format {FORMAT}")
    if model is not None:
        tensors = _load(directory, state, "model")
        try:
            model.load_state_dict(tensors)
        except RuntimeError as cause:
            raise CheckpointError(
                f"{directory}: was made for another model or dataset: {' '.join(str(cause).split())}"
            ) from cause
    if optimizer is not None:
        _restore(optimizer, _load(directory, state, "optimizer"), state["optimizer_groups"], directory)
    return state


def _save(path: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    write_bytes(path, data)
    return {"name": path.name, "sha256": sha256_file(path)}


def _load(directory: Path, state: dict[str, Any], part: str) -> dict[str, Tensor]:
    entry = state.get("files", {}).get(part)
    if entry is None:
        raise CheckpointError(f"{directory}: holds no {part}")
    path = directory / entry["name"]
    if path.parent != directory or Path(entry["name"]).name != entry["name"]:
        raise CheckpointError(
            f"{directory / 'state.json'}: names {entry['name']!r}, which is outside the directory"
        )
    if not path.exists():
        raise CheckpointError(f"{path}: no such file, though state.json names it; restore it or train again")
    if sha256_file(path) != entry["sha256"]:
        raise CheckpointError(f"{path}: its sha256 is not the recorded one; restore it or train again")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as cause:
        raise CheckpointError(f"{path}: not readable as safetensors ({cause})") from cause
    return tensors


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Optimiser state as named tensors and JSON-able parameter groups."""
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
            f"{directory}: the optimiser's state does not fit this model ({cause})"
        ) from cause

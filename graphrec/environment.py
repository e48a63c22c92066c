"""Versions and hardware, as runs and recorded results state them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Versions and hardware, for ``run.json``."""
    packages = (
        "graphrec",
        "torch",
        "torch-geometric",
        "numpy",
        "scipy",
        "scikit-learn",
        "polars",
        "accelerate",
    )
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }

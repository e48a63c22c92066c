"""Shared fixtures: where real data is, and a thread count that small tests are fastest with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets; tests that need it are skipped where there is none."""
    root = os.environ.get("GRAPHREC_DATA")
    if not root:
        pytest.skip(
            "real data: set GRAPHREC_DATA to the folder that holds amazon-baby/, movielens-small/, ..."
        )
    if not Path(root).is_dir():
        pytest.fail(f"GRAPHREC_DATA={root} is not a folder")
    return Path(root).resolve()
